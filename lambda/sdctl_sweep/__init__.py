"""Looks after tasks that nobody else will: unpublished, expired, or ended without anyone being told."""
