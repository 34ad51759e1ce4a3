"""The cluster: the only files that import ray."""
