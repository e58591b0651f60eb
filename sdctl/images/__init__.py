"""Images and charts: what a deployment needs, built, and brought into a registry of one's own."""
