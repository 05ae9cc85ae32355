"""Losses of one example for multi-label classification; an image may have no label.

As in `cnn_jax.losses`, every function takes one example and computes in float32 or wider. `labels`
marks the labels that are present: booleans, or numbers, of which those above 0 count as true.

References:
    Gong et al., `Deep Convolutional Ranking for Multilabel Image Annotation
    <https://arxiv.org/abs/1312.4894>`_, 2013, section 3.2
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from cnn_jax.losses.classification import cross_entropy, sigmoid_cross_entropy
from cnn_jax.ops.precision import at_least_float32

Scores = Float[Array, " labels"]
Labels = Bool[Array, " labels"] | Float[Array, " labels"]


def label_softmax(logits: Scores, labels: Labels) -> Float[Array, ""]:
    """Compute the cross-entropy of ``softmax(logits)`` against the labels divided by their sum.

    Equation 2 of the reference. An image without labels has loss 0 and no gradient.
    """
    weights = jnp.maximum(labels.astype(jnp.float32), 0.0)
    return cross_entropy(logits, weights / jnp.maximum(jnp.sum(weights), 1e-6))


def pairwise_ranking(logits: Scores, labels: Labels) -> Float[Array, ""]:
    """Sum ``max(0, 1 - score + other score)`` over all pairs (present label, absent label).

    Equation 3 of the reference. The sum is 0 if all labels are present, or none.
    """
    return jnp.sum(_hinges(logits, labels))


def warp(logits: Scores, labels: Labels, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
    """Sum the pairwise hinges, each weighted by the rank of its present label (WARP).

    The weight of a present label is ``L(r) = 1 + 1/2 + ... + 1/r`` (`rank_weights`), which favours
    the top of the list (equations 4 and 5 of the reference). The rank r is

    - exact, without a key: the number of absent labels whose scores violate the margin of 1;
    - estimated, with a key: absent labels are drawn without replacement until one violates the
      margin, at draw s; then r = floor((labels - 1) / s) (algorithm 1). A label without a violation
      has weight 0.

    In both forms all violated hinges are summed; the ranks are constants to the gradient.

    Args:
        logits: scores of one example.
        labels: the labels that are present.
        key: the random key of the estimate; None computes exact ranks.
    """
    hinges = _hinges(logits, labels)
    violated = hinges > 0
    exact = key is None
    ranks = jnp.sum(violated, axis=1) if exact else _estimated_ranks(key, violated, labels)
    weights = jnp.array(rank_weights(logits.shape[0]), hinges.dtype)[ranks]
    return jnp.sum(jax.lax.stop_gradient(weights)[:, None] * hinges)


def rank_weights(labels: int) -> Float[np.ndarray, " ranks"]:
    """Compute ``L(0), L(1), ..., L(labels - 1)``: 0, 1, 1.5, 1.8333, ..."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, labels))])


def weighted_sigmoid(
    logits: Scores, labels: Labels, positive_weights: Float[Array, " labels"]
) -> Float[Array, " labels"]:
    """Compute the logistic cross-entropy of every label; present labels are weighted.

    Args:
        logits: scores of one example.
        labels: the labels that are present; a probability counts as a mixture of both cases.
        positive_weights: one weight for each label; 1 is neutral.

    Returns:
        The loss of every label in nats.
    """
    targets = labels.astype(jnp.float32)
    weights = targets * positive_weights + (1.0 - targets)
    # Exact for labels of 0 and 1; a mixture is weighted as a whole.
    return weights * sigmoid_cross_entropy(logits, targets)


def focal(logits: Scores, labels: Labels, gamma: float = 2.0) -> Float[Array, " labels"]:
    """Compute the logistic cross-entropy times ``(1 - p) ** gamma``; p is the truth's probability.

    Confident correct predictions weigh little, so that the many easy absent labels do not outweigh
    the few present ones. `gamma` 0 gives the plain cross-entropy.

    References:
        Lin et al., `Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_,
        2017, equation 4
    """
    targets = labels.astype(jnp.float32)
    wide = at_least_float32(logits)

    def term(signed: Scores) -> Scores:
        # (1 - p) ** gamma as a sigmoid's power in logarithms: no 0 ** gamma to differentiate.
        return -jnp.exp(gamma * jax.nn.log_sigmoid(-signed)) * jax.nn.log_sigmoid(signed)

    return targets * term(wide) + (1.0 - targets) * term(-wide)


def _hinges(logits: Scores, labels: Labels) -> Float[Array, "labels labels"]:
    """Compute ``max(0, 1 - score_i + score_k)`` where label i is present and k absent; else 0."""
    scores = at_least_float32(logits)
    present = labels.astype(jnp.float32) > 0
    pairs = present[:, None] & ~present[None, :]
    margins = 1.0 - scores[:, None] + scores[None, :]
    return jnp.where(pairs, jnp.maximum(margins, 0.0), 0.0)


def _estimated_ranks(
    key: Key[Array, ""], violated: Bool[Array, "labels labels"], labels: Labels
) -> Array:
    """Compute floor((labels - 1) / s) for each label; s is the first violating draw. Else 0."""
    count = labels.shape[0]
    # A random order of the absent labels for each label: draws without replacement.
    present = labels.astype(jnp.float32) > 0
    chance = jnp.where(present[None, :], 2.0, jax.random.uniform(key, violated.shape))
    order = jnp.argsort(chance, axis=1)
    drawn = jnp.take_along_axis(violated, order, axis=1)
    draws = 1 + jnp.argmax(drawn, axis=1)
    return jnp.where(jnp.any(drawn, axis=1), (count - 1) // draws, 0)
