"""How a CPU computes convolutions; only `cnn_jax.ops.convolution` looks inside."""
