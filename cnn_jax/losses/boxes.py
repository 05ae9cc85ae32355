"""The loss of box regression."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_jax.ops.precision import at_least_float32


def smooth_l1(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"], beta: float = 1.0
) -> Float[Array, "*shape"]:
    """Compute the loss of box regression per element: quadratic near the target, linear beyond.

    Args:
        predictions, targets: encoded boxes.
        beta: the difference up to which it is quadratic, `d**2 / (2 beta)`; 0 gives the plain
            absolute difference.

    References:
        Girshick, `Fast R-CNN <https://arxiv.org/abs/1504.08083>`_, 2015, equation 3
    """
    difference = jnp.abs(at_least_float32(predictions) - targets)
    if beta == 0:
        return difference
    return jnp.where(difference < beta, difference**2 / (2 * beta), difference - beta / 2)
