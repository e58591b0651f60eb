"""Ends the tasks whose messages reached a dead-letter queue."""
