"""Files that start runs on many machines, and an example of a search with another tuner."""
