"""What `deploy` would send, as files: without credentials and network, the same at every run."""
