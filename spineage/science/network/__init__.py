"""The network that reads an age: its input, its layers, how it learns, and where it looks."""
