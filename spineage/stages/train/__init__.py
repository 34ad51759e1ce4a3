"""train: the age network on several workers; `ablate` and `sweep` run the same loop."""
