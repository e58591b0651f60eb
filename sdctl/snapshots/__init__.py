"""Snapshots with container images on them: what goes onto them, how they are built, and what there is."""
