"""Losses of one image with pixel labels; pixels labelled `IGNORED` do not count."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cnn_jax.conventions import IGNORED
from cnn_jax.losses.classification import cross_entropy
from cnn_jax.ops.precision import at_least_float32


def pixel_cross_entropy(
    logits: Float[Array, "height width classes"],
    mask: Int[Array, "height width"],
    class_weights: Float[Array, " classes"] | None = None,
    pixel_weights: Float[Array, "height width"] | None = None,
) -> Float[Array, ""]:
    """Average the cross-entropy over the pixels of one image that are not ignored.

    Weights multiply a pixel's loss. The sum is divided by the number of pixels, not by the sum of
    the weights, as in SegNet's Caffe; torch's weighted mean differs by a factor.

    Args:
        logits: unnormalised log-probabilities of every pixel.
        mask: the class of every pixel, or `IGNORED`.
        class_weights: a weight for each class.
        pixel_weights: a weight for each pixel, such as U-Net's.

    Returns:
        The loss in nats; 0 if all pixels are ignored, NaN for a label that is no class.
    """
    counted = mask != IGNORED
    labels = jnp.where(counted, mask, 0)
    per_pixel = jax.vmap(jax.vmap(cross_entropy))(logits, labels)
    if class_weights is not None:
        per_pixel *= jnp.take(class_weights, labels, mode="clip")
    if pixel_weights is not None:
        per_pixel *= pixel_weights
    pixels = jnp.maximum(jnp.sum(counted), 1).astype(per_pixel.dtype)
    return jnp.sum(per_pixel, where=counted) / pixels


def dice_loss(
    logits: Float[Array, "height width classes"], mask: Int[Array, "height width"]
) -> Float[Array, ""]:
    """Compute one minus the Dice coefficient of one image, averaged over the classes in its mask.

    With probabilities p and the one-hot mask g, it is `1 - 2 sum(p g) / (sum(p) + sum(g))` over
    the pixels that are not ignored. The sums are plain; Milletari et al. square p and g.

    Args:
        logits: unnormalised log-probabilities of every pixel.
        mask: the class of every pixel, or `IGNORED`.

    Returns:
        From 0 to 1; 0 if all pixels are ignored, NaN for a label that is no class.

    References:
        Milletari et al., `V-Net <https://arxiv.org/abs/1606.04797>`_, 2016
    """
    classes = logits.shape[-1]
    counted = (mask != IGNORED)[..., None]
    legal = jnp.all((mask >= 0) & (mask < classes) | ~counted[..., 0])
    probabilities = jnp.where(counted, jax.nn.softmax(at_least_float32(logits)), 0.0)
    truth = jnp.where(counted, jax.nn.one_hot(mask, classes, dtype=probabilities.dtype), 0.0)
    overlap = jnp.sum(probabilities * truth, axis=(0, 1))
    pixels = jnp.sum(truth, axis=(0, 1))
    # Only classes in the mask are used; their denominators are at least 1.
    present = pixels > 0
    sizes = jnp.where(present, jnp.sum(probabilities, axis=(0, 1)) + pixels, 1.0)
    count = jnp.maximum(jnp.sum(present), 1).astype(sizes.dtype)
    loss = jnp.sum(1.0 - 2.0 * overlap / sizes, where=present) / count
    return jnp.where(legal, loss, jnp.nan)
