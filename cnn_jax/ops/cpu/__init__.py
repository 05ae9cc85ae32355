"""Convolutions on a CPU; only `cnn_jax.ops.convolution` imports from here.

XLA's convolutions lose to torch's on a CPU, its weight gradients by up to fifteen times, while its
matrix products do not. So the large convolutions are written as matrix products over blocks of
images that stay in the cache. `choice` chooses by shape and gives the measurements.
"""
