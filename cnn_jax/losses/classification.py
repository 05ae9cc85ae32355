"""Softmax and logistic losses of one example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cnn_jax.ops.precision import at_least_float32


def class_distribution(
    target: Int[Array, ""] | Float[Array, " classes"],
    num_classes: int,
    label_smoothing: float = 0.0,
) -> Float[Array, " {num_classes}"]:
    """Convert a target to a distribution over classes, with label smoothing.

    Smoothing mixes in the uniform distribution: ``(1 - s) * target + s / num_classes``
    (section 7 of the reference), for labels and for distributions alike, as torch does.

    Args:
        target: a class index, or a distribution over classes (from mixup or cutmix).
        num_classes: number of classes.
        label_smoothing: the weight of the uniform distribution, from 0 to 1.

    Returns:
        Probabilities of the classes. An index outside ``[0, num_classes)`` gives NaN, so that a
        wrong label stops the run instead of being trained on as no class.

    References:
        Szegedy et al., `Rethinking the Inception Architecture for Computer Vision
        <https://arxiv.org/abs/1512.00567>`_, 2016
    """
    if jnp.issubdtype(target.dtype, jnp.integer):
        legal = (target >= 0) & (target < num_classes)
        target = jnp.where(legal, jax.nn.one_hot(target, num_classes), jnp.nan)
    return (1.0 - label_smoothing) * target + label_smoothing / num_classes


def cross_entropy(
    logits: Float[Array, " classes"],
    target: Int[Array, ""] | Float[Array, " classes"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Compute the cross-entropy of ``softmax(logits)`` against a class or a distribution.

    Args:
        logits: unnormalised log-probabilities of one example.
        target: the index of its class, or a distribution over classes.
        label_smoothing: see :func:`class_distribution`.
        class_weights: factors of the classes' terms, as torch has them; of a class without
            smoothing it is the factor of the example's loss.

    Returns:
        The loss in nats. It is finite wherever its value fits the dtype; a class of probability
        zero in the target adds nothing, even at a logit of minus infinity. An index that is no
        class gives NaN.
    """
    logits = at_least_float32(logits)
    distribution = class_distribution(target, logits.shape[0], label_smoothing)
    log_probabilities = jax.nn.log_softmax(logits)
    terms = jnp.where(distribution == 0, 0.0, distribution * log_probabilities)
    return -jnp.sum(terms if class_weights is None else class_weights * terms)


def sigmoid_cross_entropy(
    logits: Float[Array, " labels"], targets: Float[Array, " labels"]
) -> Float[Array, " labels"]:
    """Compute the binary cross-entropy of every label's own ``sigmoid(logit)``.

    For classification (Wightman et al. 2021, section 2.1), use the targets of
    :func:`class_distribution`, mixup or cutmix, and average over the classes.

    Args:
        logits: one logit for each label of one example.
        targets: the probability, from 0 to 1, that each label holds.

    Returns:
        The loss of every label in nats.

    References:
        Wightman et al., `ResNet strikes back <https://arxiv.org/abs/2110.00476>`_, 2021
    """
    logits = at_least_float32(logits)
    # Two log-sigmoids: log(1 - sigmoid(x)) would round to log(0) from x = 17 on.
    return -targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)


def mean_sigmoid_cross_entropy(
    logits: Float[Array, " classes"],
    target: Int[Array, ""] | Float[Array, " classes"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Average the logistic loss of each class against a class or a distribution over classes.

    Args:
        logits: one for each class.
        target: the index of the class, or a distribution over classes.
        label_smoothing: see :func:`class_distribution`.
        class_weights: the loss is multiplied by the weight of the example's class; of a
            distribution, by their mean in it.

    References:
        Wightman et al., `ResNet strikes back <https://arxiv.org/abs/2110.00476>`_, 2021
    """
    distribution = class_distribution(target, logits.shape[0], label_smoothing)
    loss = jnp.mean(sigmoid_cross_entropy(logits, distribution))
    if class_weights is None:
        return loss
    return loss * jnp.sum(class_weights * class_distribution(target, logits.shape[0]))
