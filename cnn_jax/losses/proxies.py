"""Losses of one example for search: near its class's proxy, far from those of other classes.

Each class has a proxy, a vector that is learnt. An example is compared with proxies alone, and
never with other examples, so that a batch needs no pairs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cnn_jax.losses.classification import class_distribution
from cnn_jax.ops.normalization import unit_length
from cnn_jax.ops.precision import at_least_float32


def cosines(
    features: Float[Array, " size"], proxies: Float[Array, "size classes"]
) -> Float[Array, " classes"]:
    """Compute the cosines of an example's features, less their mean, with every class's proxy.

    Times a scale (the reciprocal of a temperature), they are the logits of the normalised softmax
    loss, whose cross-entropy is that of :func:`cnn_jax.losses.cross_entropy`. Features behind a
    ReLU have no negative values; without their mean they may point anywhere (section 3.3 of the
    reference, layer normalisation without parameters).

    Args:
        features: of one example, before the last layer.
        proxies: a column for each class, of any length.

    References:
        Zhai and Wu, `Classification is a Strong Baseline for Deep Metric Learning
        <https://arxiv.org/abs/1811.12649>`_, 2019
    """
    return unit_length(features, centered=True) @ unit_length(proxies.T).T


def proxy_nca(
    logits: Float[Array, " classes"],
    target: Int[Array, ""] | Float[Array, " classes"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Compute the Proxy-NCA loss of one example: its class is no part of the denominator.

    It is ``-s[y] + log(sum(exp(s[z]) for z != y))``, with s the scaled cosines. For unit vectors
    the reference's squared distances are ``2 - 2 cos``, a scale of 2. The loss is negative once the
    own proxy is nearer than all others together.

    Args:
        logits: scaled cosines of the example with the proxies of two or more classes.
        target: the index of its class, or a distribution, by whose complement the denominator's
            terms are weighted.
        label_smoothing: see :func:`cnn_jax.losses.class_distribution`.
        class_weights: the loss is multiplied by the mean of the classes' weights in the target.

    References:
        Movshovitz-Attias et al., `No Fuss Distance Metric Learning using Proxies
        <https://arxiv.org/abs/1703.07464>`_, 2017, equation 4
    """
    wide = at_least_float32(logits)
    distribution = class_distribution(target, logits.shape[0], label_smoothing)
    others = jax.nn.logsumexp(wide, b=1.0 - distribution)
    loss = others - jnp.sum(distribution * wide)
    return loss if class_weights is None else loss * jnp.sum(class_weights * distribution)
