"""Models: from a file, a folder or a publisher into the bucket, and what the bucket holds."""
