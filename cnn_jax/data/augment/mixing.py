"""Augmentations that mix the examples of a batch with each other.

Every image is mixed with the one before it in the batch, the first with the last, and one draw
serves the whole batch: torchvision's rule. Mixing is for training batches, all of whose rows are
valid: a padded row would be mixed into its neighbour.

Under `pmap`, give `axis_name` and the same key on every device: then the batch is the global one,
and its mixing does not depend on how many devices share it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment.geometry import rectangle

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]
Weights = Float[Array, "height width"]


def mixup(
    key: Key[Array, ""],
    images: Images,
    targets: Targets,
    alpha: float,
    axis_name: str | None = None,
) -> tuple[Images, Targets]:
    """Blends images, and their targets, in proportions drawn from Beta(alpha, alpha).

    Args:
        key: random key.
        images: a batch.
        targets: its distributions over classes.
        alpha: above 0; towards 0 one of the two images prevails.
        axis_name: mapped axis along which the batch is spread.

    References:
        Zhang et al., `mixup: Beyond Empirical Risk Minimization
        <https://arxiv.org/abs/1710.09412>`_, 2018
    """
    return _combine(_mixup_weights(key, images, alpha), images, targets, axis_name)


def cutmix(
    key: Key[Array, ""],
    images: Images,
    targets: Targets,
    alpha: float,
    axis_name: str | None = None,
) -> tuple[Images, Targets]:
    """Replaces a rectangle by the other image's, and mixes targets by the rectangle's area.

    Args:
        key: random key.
        images: a batch.
        targets: its distributions over classes.
        alpha: the share of an image that is kept is drawn from Beta(alpha, alpha), before the
            part of the rectangle that lies outside the image is cut off.
        axis_name: mapped axis along which the batch is spread.

    References:
        Yun et al., `CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
        Features <https://arxiv.org/abs/1905.04899>`_, 2019
    """
    return _combine(_cutmix_weights(key, images, alpha), images, targets, axis_name)


def mixup_or_cutmix(
    key: Key[Array, ""],
    images: Images,
    targets: Targets,
    mixup_alpha: float,
    cutmix_alpha: float,
    axis_name: str | None = None,
) -> tuple[Images, Targets]:
    """One of the two for the whole batch, at even odds where both have an alpha above 0."""
    choose_key, mixup_key, cutmix_key = (jax.random.fold_in(key, i) for i in range(3))
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return images, targets
    if cutmix_alpha == 0:
        return mixup(mixup_key, images, targets, mixup_alpha, axis_name)
    if mixup_alpha == 0:
        return cutmix(cutmix_key, images, targets, cutmix_alpha, axis_name)
    weights = jnp.where(
        jax.random.bernoulli(choose_key),
        _mixup_weights(mixup_key, images, mixup_alpha),
        _cutmix_weights(cutmix_key, images, cutmix_alpha),
    )
    return _combine(weights, images, targets, axis_name)


def _combine(
    weights: Weights, images: Images, targets: Targets, axis_name: str | None
) -> tuple[Images, Targets]:
    """Weights each image's pixels, and its target by their mean; the one before gets the rest."""
    weight, share = weights[None, :, :, None], jnp.mean(weights)
    return (
        weight * images + (1.0 - weight) * _previous(images, axis_name),
        share * targets + (1.0 - share) * _previous(targets, axis_name),
    )


def _mixup_weights(key: Key[Array, ""], images: Images, alpha: float) -> Weights:
    return jnp.full(images.shape[1:3], _beta(key, alpha))


def _cutmix_weights(key: Key[Array, ""], images: Images, alpha: float) -> Weights:
    """Zero in the rectangle, one around it."""
    height, width = images.shape[1:3]
    share_key, place_key = jax.random.split(key)
    size = jnp.array([height, width])
    half = 0.5 * jnp.sqrt(1.0 - _beta(share_key, alpha)) * size.astype(jnp.float32)
    half = half.astype(jnp.int32)
    center = jax.random.randint(place_key, (2,), 0, size)
    top, left = center - half
    bottom, right = center + half
    return jnp.where(rectangle(height, width, top, left, bottom, right), 0.0, 1.0)


def _beta(key: Key[Array, ""], alpha: float) -> Float[Array, ""]:
    """A draw from Beta(alpha, alpha), exact but for float32's own rounding.

    With uniform U and V, `sqrt(2 a (U^(-1/a) - 1)) cos(2 pi V)` has Student's t distribution with
    2 a degrees of freedom (Bailey 1994), and `(1 + t / sqrt(2 a + t^2)) / 2` is then Beta(a, a)
    (Devroye 1996, "Random variate generation in one line of code"). The smaller share is computed
    without cancellation, for a small alpha has many draws near zero. Those as near to one are one:
    of Beta(0.1, 0.1), 9 % lie between the two largest float32 numbers up to one.

    `jax.random.beta` takes seconds to compile for its rejection loops.
    """
    uniform = jax.random.uniform(key, (2,))
    power = jnp.log1p(-uniform[0]) / alpha  # log1p(-u) is finite: u is below one.
    cosine = jnp.cos(2.0 * jnp.pi * uniform[1])
    small, rest = jnp.exp(power), -jnp.expm1(power) * cosine**2
    less = 0.5 * small / (small + rest) / (1.0 + jnp.sqrt(rest / (small + rest)))
    return jnp.where(cosine < 0, less, 1.0 - less)


def _previous(
    values: Float[Array, " batch *shape"], axis_name: str | None
) -> Float[Array, " batch *shape"]:
    """Compute `roll(values, 1)` along the batch; the global batch if it is spread over devices."""
    if axis_name is None:
        return jnp.roll(values, 1, axis=0)
    devices = jax.lax.axis_size(axis_name)
    ring = [(device, (device + 1) % devices) for device in range(devices)]
    received = jax.lax.ppermute(values[-1:], axis_name, ring)
    return jnp.concatenate([received, values[:-1]])
