"""Adapters for the runtimes, by name."""
