"""Models and their runs on disk and in MLflow; nothing in them is unpickled."""
