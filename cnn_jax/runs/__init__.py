"""A run's folder: its files, its rows of metrics and their names."""
