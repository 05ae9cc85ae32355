"""Attention: scores of a query against each position of a memory, and the weighted mean.

Every function is written for one query and one memory; leading axes of both are batches. Scores
and weights are float32 or wider, whatever the dtype of the inputs.

References:
    Bahdanau, Cho and Bengio, `Neural Machine Translation by Jointly Learning to Align and
    Translate <https://arxiv.org/abs/1409.0473>`_, 2015, section 3.1 and appendix A.1.2
    Luong, Pham and Manning, `Effective Approaches to Attention-based Neural Machine Translation
    <https://arxiv.org/abs/1508.04025>`_, 2015, section 3.1
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from cnn_jax.ops.precision import at_least_float32


def additive_scores(
    query: Float[Array, "*batch size"],
    keys: Float[Array, "*batch time size"],
    v: Float[Array, " size"],
) -> Float[Array, "*batch time"]:
    """Compute ``e_j = v^T tanh(W_a s + U_a h_j)`` (Bahdanau et al. 2015).

    Args:
        query: ``W_a s``, the decoder's projected state.
        keys: ``U_a h_j``, the projected annotations, which are the same for every query.
        v: the weights of the comparison.
    """
    return at_least_float32(jnp.tanh(query[..., None, :] + keys) @ v)


def dot_scores(
    query: Float[Array, "*batch size"], keys: Float[Array, "*batch time size"]
) -> Float[Array, "*batch time"]:
    """Compute ``e_j = s^T h_j``; keys ``W h_j`` give the `general` score (Luong et al. 2015).

    Args:
        query: the decoder's state.
        keys: the annotations, projected or not.
    """
    return at_least_float32(jnp.einsum("...d,...td->...t", query, keys))


def masked_softmax(
    scores: Float[Array, "*batch time"], mask: Bool[Array, "*batch time"]
) -> Float[Array, "*batch time"]:
    """Apply softmax over the positions in the mask; other positions get exactly zero.

    Args:
        scores: one score for each position. Scores outside the mask have no effect, even if they
            are not finite.
        mask: the positions that exist; an empty mask gives zeros.
    """
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf, where=mask)
    peak = lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    # Mask before the exponential too: 0 x inf would give NaN in the gradient.
    powers = jnp.exp(jnp.where(mask, scores - peak, 0.0))
    powers *= mask.astype(powers.dtype)
    # The largest power is 1, so the bound applies only to an empty mask.
    return powers / jnp.maximum(jnp.sum(powers, axis=-1, keepdims=True), 0.5)


def context(
    weights: Float[Array, "*batch time"], annotations: Float[Array, "*batch time size"]
) -> Float[Array, "*batch size"]:
    """Compute ``c = sum_j a_j h_j`` in the annotations' dtype."""
    return jnp.einsum("...t,...td->...d", weights.astype(annotations.dtype), annotations)
