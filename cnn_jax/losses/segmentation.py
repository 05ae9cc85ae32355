"""Losses of one image whose pixels have labels; pixels labelled `IGNORED` do not count."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cnn_jax.conventions import IGNORED
from cnn_jax.losses.classification import cross_entropy
from cnn_jax.losses.precision import at_least_float32


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
    probabilities = jnp.where(judged, jax.nn.softmax(at_least_float32(logits)), 0.0)
    truth = jnp.where(judged, jax.nn.one_hot(mask, classes, dtype=probabilities.dtype), 0.0)
    overlap = jnp.sum(probabilities * truth, axis=(0, 1))
    pixels = jnp.sum(truth, axis=(0, 1))
    # A class in the mask has at least one pixel: the denominator of the others is not used.
    present = pixels > 0
    sizes = jnp.where(present, jnp.sum(probabilities, axis=(0, 1)) + pixels, 1.0)
    loss = jnp.sum(1.0 - 2.0 * overlap / sizes, where=present) / jnp.maximum(jnp.sum(present), 1)
    return jnp.where(legal, loss, jnp.nan)
