"""Published nnU-Net models become ours; whatever they hold, it is opened where it can reach nothing."""
