"""The least-privilege policies of the people who use sdctl, computed from a configuration; pure."""
