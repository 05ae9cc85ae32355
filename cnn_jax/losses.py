"""Losses of one example: ``jax.vmap`` them over the batch, and reduce there.

Every function takes the logits of one example and computes in float32 or wider, whatever the
network's computation dtype. Nothing here averages: means belong to the caller, who knows which
rows of a batch are valid.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def class_distribution(
    target: Int[Array, ""] | Float[Array, " classes"],
    num_classes: int,
    label_smoothing: float = 0.0,
) -> Float[Array, " {num_classes}"]:
    """The distribution over classes that a target stands for, smoothed.

    Smoothing mixes in the uniform distribution: ``(1 - s) * target + s / num_classes``
    (section 7 of the reference), for labels and for distributions alike, as torch does.

    Args:
        target: a class index, or a distribution over classes (from mixup or cutmix).
        num_classes: number of classes.
        label_smoothing: share of the uniform distribution, from 0 to 1.

    Returns:
        Probabilities of the classes. An index outside ``[0, num_classes)`` gives nan, so that a
        wrong label stops a run instead of being trained on as no class at all.

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
) -> Float[Array, ""]:
    """Cross-entropy of ``softmax(logits)`` against a class or a distribution over classes.

    Args:
        logits: unnormalised log-probabilities of one example.
        target: the index of its class, or a distribution over classes.
        label_smoothing: see :func:`class_distribution`.

    Returns:
        The loss in nats. It is finite wherever its value fits the dtype; a class of probability
        zero in the target costs nothing, even at a logit of minus infinity. nan for an index that
        is no class.
    """
    logits = _at_least_float32(logits)
    distribution = class_distribution(target, logits.shape[0], label_smoothing)
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.where(distribution == 0, 0.0, distribution * log_probabilities))


def sigmoid_cross_entropy(
    logits: Float[Array, " labels"], targets: Float[Array, " labels"]
) -> Float[Array, " labels"]:
    """Binary cross-entropy of every label's own ``sigmoid(logit)``.

    As a loss for classification (Wightman et al. 2021, section 2.1), give the targets of
    :func:`class_distribution`, or of mixup and cutmix, and average over the classes.

    Args:
        logits: one logit for each label of one example.
        targets: the probability, from 0 to 1, that each label holds.

    Returns:
        The loss of every label in nats.

    References:
        Wightman et al., `ResNet strikes back <https://arxiv.org/abs/2110.00476>`_, 2021
    """
    logits = _at_least_float32(logits)
    # Two log-sigmoids: log(1 - sigmoid(x)) would round to log(0) from x = 17 on.
    return -targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)


IGNORED = 255
"""The label of pixels that are not judged."""


def pixel_cross_entropy(
    logits: Float[Array, "height width classes"],
    mask: Int[Array, "height width"],
    class_weights: Float[Array, " classes"] | None = None,
    pixel_weights: Float[Array, "height width"] | None = None,
) -> Float[Array, ""]:
    """Cross-entropy of every pixel of one image, averaged over those that are not ignored.

    Weights multiply a pixel's loss, and the sum is divided by the number of pixels and not by that
    of the weights, as in SegNet's Caffe; torch's weighted mean is smaller or larger by a factor.

    Args:
        logits: unnormalised log-probabilities of every pixel.
        mask: the class of every pixel, or `IGNORED`.
        class_weights: a weight for each class.
        pixel_weights: a weight for each pixel, such as U-Net's.

    Returns:
        The loss in nats; 0 for an image of ignored pixels alone, nan for a label that is no class.
    """
    judged = mask != IGNORED
    labels = jnp.where(judged, mask, 0)
    per_pixel = jax.vmap(jax.vmap(cross_entropy))(logits, labels)
    if class_weights is not None:
        per_pixel *= jnp.take(class_weights, labels, mode="clip")
    if pixel_weights is not None:
        per_pixel *= pixel_weights
    return jnp.sum(per_pixel, where=judged) / jnp.maximum(jnp.sum(judged), 1)


def dice_loss(
    logits: Float[Array, "height width classes"], mask: Int[Array, "height width"]
) -> Float[Array, ""]:
    """One minus the Dice coefficient of one image, averaged over the classes in its mask.

    With probabilities p and the one-hot mask g it is `1 - 2 sum(p g) / (sum(p) + sum(g))` (with
    plain sums: Milletari et al. square p and g), over pixels that are not ignored.

    Args:
        logits: unnormalised log-probabilities of every pixel.
        mask: the class of every pixel, or `IGNORED`.

    Returns:
        From 0 to 1; 0 for an image of ignored pixels alone, nan for a label that is no class.

    References:
        Milletari et al., `V-Net <https://arxiv.org/abs/1606.04797>`_, 2016
    """
    classes = logits.shape[-1]
    judged = (mask != IGNORED)[..., None]
    legal = jnp.all((mask >= 0) & (mask < classes) | ~judged[..., 0])
    probabilities = jnp.where(judged, jax.nn.softmax(_at_least_float32(logits)), 0.0)
    truth = jnp.where(judged, jax.nn.one_hot(mask, classes, dtype=probabilities.dtype), 0.0)
    overlap = jnp.sum(probabilities * truth, axis=(0, 1))
    pixels = jnp.sum(truth, axis=(0, 1))
    # A class in the mask has at least one pixel: the denominator of the others is not used.
    present = pixels > 0
    sizes = jnp.where(present, jnp.sum(probabilities, axis=(0, 1)) + pixels, 1.0)
    loss = jnp.sum(1.0 - 2.0 * overlap / sizes, where=present) / jnp.maximum(jnp.sum(present), 1)
    return jnp.where(legal, loss, jnp.nan)


def smooth_l1(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"], beta: float = 1.0
) -> Float[Array, "*shape"]:
    """The loss of box regression, element by element: quadratic near the target, linear beyond.

    Args:
        predictions, targets: encoded boxes.
        beta: the difference up to which it is quadratic, `d**2 / (2 beta)`; 0 is the plain
            absolute difference.

    References:
        Girshick, `Fast R-CNN <https://arxiv.org/abs/1504.08083>`_, 2015, equation 3
    """
    difference = jnp.abs(_at_least_float32(predictions) - targets)
    if beta == 0:
        return difference
    return jnp.where(difference < beta, difference**2 / (2 * beta), difference - beta / 2)


def _at_least_float32(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
