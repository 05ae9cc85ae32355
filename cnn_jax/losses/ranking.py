"""Losses of one example's labels for annotation: an image may carry several, or none.

As in `cnn_jax.losses`, every function takes one example and computes in float32 or wider. `labels`
says which labels hold: true or false, or any number above 0 for true.

References:
    Gong et al., `Deep Convolutional Ranking for Multilabel Image Annotation
    <https://arxiv.org/abs/1312.4894>`_, 2013, section 3.2
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from cnn_jax.losses.classification import cross_entropy, sigmoid_cross_entropy

Scores = Float[Array, " labels"]
Labels = Bool[Array, " labels"] | Float[Array, " labels"]


def label_softmax(logits: Scores, labels: Labels) -> Float[Array, ""]:
    """Cross-entropy of ``softmax(logits)`` against the labels divided by their sum.

    Equation 2 of the reference. An image without a label costs nothing and has no gradient: there
    is no distribution over no labels.
    """
    weights = jnp.maximum(labels.astype(jnp.float32), 0.0)
    return cross_entropy(logits, weights / jnp.maximum(jnp.sum(weights), 1e-6))


def pairwise_ranking(logits: Scores, labels: Labels) -> Float[Array, ""]:
    """Sum over (label that holds, label that does not) of ``max(0, 1 - score + other score)``.

    Equation 3 of the reference. Nothing where all labels hold, or none.
    """
    return jnp.sum(_hinges(logits, labels))


def warp(logits: Scores, labels: Labels, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
    """The pairwise hinges, those of a label weighted by how far down it ranks (WARP).

    The weight of a label that holds is ``L(r) = 1 + 1/2 + ... + 1/r`` (`rank_weights`), which puts
    the top of the list first (equations 4 and 5 of the reference). The rank r is

    - exact, without a key: the number of labels that do not hold and whose scores come within the
      margin of 1 or above;
    - estimated, with a key: negative labels are drawn without replacement until one violates the
      margin, at draw s; then r = floor((labels - 1) / s) (algorithm 1). A label that no negative
      violates weighs nothing.

    All violated hinges count, weighted, in both forms; the ranks are constants to the gradient.

    Args:
        logits: scores of one example.
        labels: which labels hold.
        key: draws the negatives of the estimate.
    """
    hinges = _hinges(logits, labels)
    violated = hinges > 0
    exact = key is None
    ranks = jnp.sum(violated, axis=1) if exact else _estimated_ranks(key, violated, labels)
    weights = jnp.array(rank_weights(logits.shape[0]), hinges.dtype)[ranks]
    return jnp.sum(jax.lax.stop_gradient(weights)[:, None] * hinges)


def rank_weights(labels: int) -> Float[np.ndarray, " ranks"]:
    """``L(0), L(1), ..., L(labels - 1)``: 0, 1, 1.5, 1.8333, ..."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, labels))])


def weighted_sigmoid(
    logits: Scores, labels: Labels, positive_weights: Float[Array, " labels"]
) -> Float[Array, " labels"]:
    """Logistic cross-entropy of every label, that of labels that hold times a weight.

    Args:
        logits: scores of one example.
        labels: which labels hold; a probability is taken for a mixture of both.
        positive_weights: one for each label; 1 leaves it as it is.

    Returns:
        The loss of every label in nats.
    """
    targets = labels.astype(jnp.float32)
    weights = targets * positive_weights + (1.0 - targets)
    # Exact for labels of 0 and 1; a mixture is weighted as a whole.
    return weights * sigmoid_cross_entropy(logits, targets)


def focal(logits: Scores, labels: Labels, gamma: float = 2.0) -> Float[Array, " labels"]:
    """Logistic cross-entropy times ``(1 - p) ** gamma``, p the probability given to the truth.

    What is known already weighs little, so that the many easy absent labels do not drown the few
    present ones. `gamma` 0 is the plain cross-entropy.

    References:
        Lin et al., `Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_,
        2017, equation 4
    """
    targets = labels.astype(jnp.float32)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def term(signed: Scores) -> Scores:
        # (1 - p) ** gamma as a sigmoid's power in logarithms: no 0 ** gamma to differentiate.
        return -jnp.exp(gamma * jax.nn.log_sigmoid(-signed)) * jax.nn.log_sigmoid(signed)

    return targets * term(wide) + (1.0 - targets) * term(-wide)


def _hinges(logits: Scores, labels: Labels) -> Float[Array, "labels labels"]:
    """``max(0, 1 - score_i + score_k)`` where label i holds and k does not; 0 elsewhere."""
    scores = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    holds = labels > 0
    pairs = holds[:, None] & ~holds[None, :]
    margins = 1.0 - scores[:, None] + scores[None, :]
    return jnp.where(pairs, jnp.maximum(margins, 0.0), 0.0)


def _estimated_ranks(
    key: Key[Array, ""], violated: Bool[Array, "labels labels"], labels: Labels
) -> Array:
    """For each label, floor((labels - 1) / s), s the draw that first violates; else 0."""
    count = labels.shape[0]
    # A random order of the negatives for each label: draws without replacement.
    chance = jnp.where((labels > 0)[None, :], 2.0, jax.random.uniform(key, violated.shape))
    order = jnp.argsort(chance, axis=1)
    drawn = jnp.take_along_axis(violated, order, axis=1)
    draws = 1 + jnp.argmax(drawn, axis=1)
    return jnp.where(jnp.any(drawn, axis=1), (count - 1) // draws, 0)
