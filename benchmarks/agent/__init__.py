"""How busy the agent keeps a GPU."""
