"""Convolutional networks in JAX: classify, annotate, detect, segment and attend."""

__version__ = "0.1.0"
