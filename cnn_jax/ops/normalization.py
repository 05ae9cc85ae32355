"""Normalisation without parameters."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn_jax.ops.precision import at_least_float32


def unit_length(
    x: Float[Array, "*batch size"], centered: bool = False
) -> Float[Array, "*batch size"]:
    """Divide every vector by its length; a vector of zeros stays one, and has a gradient.

    Args:
        x: the vectors.
        centered: whether the mean of a vector's own values is taken off first.
    """
    wide = at_least_float32(x)
    if centered:
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    return wide * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(wide), -1, keepdims=True), 1e-24))


def local_response_norm(
    x: Float[Array, "batch height width channels"],
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    divide_by_size: bool = False,
) -> Float[Array, "batch height width channels"]:
    """Divide every channel by the strength of its neighbours: x / (k + alpha * sum x^2)^beta.

    Krizhevsky et al. 2012 ("ImageNet classification with deep convolutional neural networks",
    section 3.3). The sum runs over the `size` channels around each one, fewer at the ends.

    Args:
        x: feature maps.
        size: the number of neighbouring channels, the channel included; with an even size the
            extra neighbour lies before it.
        k, alpha, beta: the paper's constants.
        divide_by_size: whether the window is averaged, as in torch and Caffe, and not summed as in
            the paper; alpha is then `size` times the paper's.
    """
    wide = at_least_float32(x)
    squares = jnp.square(x.astype(jnp.float32))
    window = lax.reduce_window(
        squares,
        0.0,
        lax.add,
        (1, 1, 1, size),
        (1, 1, 1, 1),
        ((0, 0), (0, 0), (0, 0), (size // 2, (size - 1) // 2)),
    )
    scale = k + (alpha / size if divide_by_size else alpha) * window
    return (wide * (scale**-beta).astype(wide.dtype)).astype(x.dtype)
