"""Configuration to documents: templates, policies and values, pure and offline."""
