"""Looking before a deploy: observed facts and the configuration in, checks out; nothing is changed."""
