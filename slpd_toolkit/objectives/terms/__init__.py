"""Terms of the training objective: one file each, found by name. See docs/extending.md."""
