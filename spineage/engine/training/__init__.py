"""Networks that learn on many workers: DDP with Ray Train, grids and searches with Ray Tune."""
