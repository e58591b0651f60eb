"""Faults at random against real agents: what must hold whatever happens to them."""
