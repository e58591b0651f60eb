"""Keeps the messages of the input topic that reach no runtime's queue."""
