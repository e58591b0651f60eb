"""The pipeline: configuration and observed state to a plan, and the plan to effects."""
