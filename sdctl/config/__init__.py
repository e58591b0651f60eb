"""The configuration: a typed, frozen model, and how files, flags and variables become one."""
