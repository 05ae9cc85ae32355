"""Checks and statistics of a data set before training starts."""
