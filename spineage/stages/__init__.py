"""One file a stage: science, io and engine joined."""
