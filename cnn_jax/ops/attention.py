"""Attention: how well each position of a memory suits a query, and the mean that follows from it.

Every function is written for one query and one memory; leading axes of both are batches. Scores
and weights are float32 or wider, whatever the dtype of what is compared.

References:
    Bahdanau, Cho and Bengio, `Neural Machine Translation by Jointly Learning to Align and
    Translate <https://arxiv.org/abs/1409.0473>`_, 2015, section 3.1 and appendix A.1.2
    Luong, Pham and Manning, `Effective Approaches to Attention-based Neural Machine Translation
    <https://arxiv.org/abs/1508.04025>`_, 2015, section 3.1
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def additive_scores(
    query: Float[Array, "*batch size"],
    keys: Float[Array, "*batch time size"],
    v: Float[Array, " size"],
) -> Float[Array, "*batch time"]:
    """``e_j = v^T tanh(W_a s + U_a h_j)`` (Bahdanau et al. 2015).

    Args:
        query: ``W_a s``, the decoder's projected state.
        keys: ``U_a h_j``, the projected annotations, which are the same for every query.
        v: what the comparison is weighted by.
    """
    return _at_least_float32(jnp.tanh(query[..., None, :] + keys) @ v)


def dot_scores(
    query: Float[Array, "*batch size"], keys: Float[Array, "*batch time size"]
) -> Float[Array, "*batch time"]:
    """``e_j = s^T h_j``; with keys ``W h_j`` the `general` score ``s^T W h_j`` (Luong et al. 2015).

    Args:
        query: the decoder's state.
        keys: the annotations, projected or not.
    """
    return _at_least_float32(jnp.einsum("...d,...td->...t", query, keys))


def masked_softmax(
    scores: Float[Array, "*batch time"], mask: Bool[Array, "*batch time"]
) -> Float[Array, "*batch time"]:
    """Softmax over the positions in the mask; exactly zero elsewhere, and where none is left.

    Args:
        scores: one score a position. Those outside the mask do not matter, not even when they are
            not finite.
        mask: which positions there are.
    """
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf, where=mask)
    peak = lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    # Masked before the exponential too: 0 x inf would be nan in the gradient.
    powers = jnp.exp(jnp.where(mask, scores - peak, 0.0)) * mask
    # The highest power is 1, so that the bound is met only where nothing is in the mask.
    return powers / jnp.maximum(jnp.sum(powers, axis=-1, keepdims=True), 0.5)


def context(
    weights: Float[Array, "*batch time"], annotations: Float[Array, "*batch time size"]
) -> Float[Array, "*batch size"]:
    """``c = sum_j a_j h_j``, in the annotations' dtype."""
    return jnp.einsum("...t,...td->...d", weights.astype(annotations.dtype), annotations)


def _at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
