"""Explanations of a network's answers: which parts of an image they rest on.

They are functions of any network that gives its outputs and its maps by name, as those of
`cnn_jax.models` do, and of a score of one example's outputs.
"""
