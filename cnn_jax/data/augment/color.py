"""Augmentations that change colours in place: brightness, contrast, hue, histograms.

The functions take one RGB image with values in 0..1 and keep that range. Definitions are those of
torchvision and Pillow, without the rounding to 8 bits between operations. Grey, also in contrast
and saturation, has Pillow's coefficients: 0.299 of red, 0.587 of green, 0.114 of blue. They add up
to one, so that grey stays as it is. torchvision has them too for Pillow's images; for tensors its
0.2989 of red makes results differ by 1e-4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Image = Float[Array, "height width 3"]
Scalar = Float[Array, ""] | float

# ITU-R 601-2 luma.
_LUMA = (0.299, 0.587, 0.114)

# Principal components of ImageNet's colours (columns) and their scales, for values in 0..1. They
# are from fb.resnet.torch, like those of all reimplementations of AlexNet's augmentation.
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]],
    np.float32,
)
PCA_SCALES = np.array([0.2175, 0.0188, 0.0045], np.float32)


def normalize(
    images: Float[Array, "*batch height width channels"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "*batch height width channels"]:
    """Compute `(images - mean) / std`, channel by channel, for one image or a batch."""
    shape = (1,) * (images.ndim - 1) + (images.shape[-1],)
    mean_, std_ = (jnp.array(values, images.dtype).reshape(shape) for values in (mean, std))
    return (images - mean_) / std_


def grayscale(image: Image) -> Float[Array, "height width 1"]:
    """Compute the luma of every pixel, by ITU-R 601-2 as Pillow does."""
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(_LUMA))


def _blend(image: Image, other: Float[Array, "_ _ _"] | float, factor: Scalar) -> Image:
    """Blend, clipped to 0..1: `other` at factor 0, the image at 1, extrapolation above 1."""
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def adjust_brightness(image: Image, factor: Scalar) -> Image:
    """Change the brightness: black at factor 0, the image at 1."""
    return _blend(image, 0.0, factor)


def adjust_contrast(image: Image, factor: Scalar) -> Image:
    """Change the contrast: the image's mean grey at factor 0, the image at 1."""
    mean_color = jnp.mean(jnp.mean(image, axis=0, keepdims=True), axis=1, keepdims=True)
    return _blend(image, grayscale(mean_color), factor)


def adjust_saturation(image: Image, factor: Scalar) -> Image:
    """Change the saturation: the greyscale image at factor 0, the image at 1."""
    return _blend(image, grayscale(image), factor)


def adjust_hue(image: Image, shift: Scalar) -> Image:
    """Shift every pixel's hue by `shift` of the colour circle, from -0.5 to 0.5."""
    red, green, blue = image[..., 0:1], image[..., 1:2], image[..., 2:3]
    value = jnp.maximum(red, jnp.maximum(green, blue))
    chroma = value - jnp.minimum(red, jnp.minimum(green, blue))
    divisor = jnp.where(chroma == 0, 1.0, chroma)
    hue = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    # Each channel decreases from `value` with its distance from the hue, in sixths of the circle.
    phase = hue + 6.0 * shift + jnp.array([[[5.0, 3.0, 1.0]]])
    phase = phase - 6.0 * jnp.floor(phase / 6.0)
    return value - chroma * jnp.clip(jnp.minimum(phase, 4.0 - phase), 0.0, 1.0)


def adjust_hsv(image: Image, saturation: Scalar, value: Scalar) -> Image:
    """Multiply saturation and value of every pixel, each limited to 1; keep the hue."""
    bright = jnp.max(image, axis=-1, keepdims=True)
    chroma = bright - jnp.min(image, axis=-1, keepdims=True)
    new_saturation = jnp.clip(saturation * chroma / jnp.where(bright == 0, 1.0, bright), 0.0, 1.0)
    # The distance of each channel below the brightest, from 0 to 1: the hue.
    depth = (bright - image) / jnp.where(chroma == 0, 1.0, chroma)
    return jnp.clip(value * bright, 0.0, 1.0) * (1.0 - new_saturation * depth)


def adjust_sharpness(image: Image, factor: Scalar) -> Image:
    """Change the sharpness: a smoothed image at factor 0, the image at 1; the border is kept.

    The smoothing filter is Pillow's: 3 x 3, weight 5 in the centre and 1 around it.
    """
    # Not nine shifted slices: XLA would recompute the image for each of them.
    around = jax.lax.reduce_window(image, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), "VALID")
    smooth = image.at[1:-1, 1:-1].set((around + 4.0 * image[1:-1, 1:-1]) / 13.0)
    return _blend(image, smooth, factor)


def posterize(image: Image, bits: Int[Array, ""] | int) -> Image:
    """Keep the highest `bits`, from 0 to 8, of each 8-bit value."""
    dropped = 8 - jnp.asarray(bits, jnp.int32)
    return ((_levels(image) >> dropped) << dropped).astype(image.dtype) / 255.0


def solarize(image: Image, threshold: Scalar) -> Image:
    """Invert the values that are at least `threshold`, in 8-bit levels from 0 to 255."""
    return jnp.where(jnp.round(image * 255.0) >= threshold, 1.0 - image, image)


def autocontrast(image: Image) -> Image:
    """Stretch every channel so that its darkest value is 0 and its brightest 1."""
    low = jnp.min(jnp.min(image, axis=0, keepdims=True), axis=1, keepdims=True)
    high = jnp.max(jnp.max(image, axis=0, keepdims=True), axis=1, keepdims=True)
    stretched = (image - low) / jnp.where(high == low, 1.0, high - low)
    return jnp.where(high == low, image, stretched)


def equalize(image: Image) -> Image:
    """Equalise the histogram of 8-bit values of every channel, by Pillow's integer rule."""
    pixels = image.shape[0] * image.shape[1]
    entries = _levels(image) + 256 * jnp.arange(3)[None, None, :]
    counts = jnp.zeros(3 * 256, jnp.int32).at[entries].add(1, mode="promise_in_bounds")
    counts = counts.reshape(3, 256)
    at_most = jnp.cumsum(counts, axis=1)
    brightest = jnp.max(jnp.where(at_most < pixels, 0, counts), axis=1, keepdims=True)
    step = (pixels - brightest) // 255
    table = jnp.minimum((step // 2 + at_most - counts) // jnp.maximum(step, 1), 255)
    # A channel with one value, or with too few pixels to spread, is unchanged.
    table = jnp.where(step == 0, jnp.arange(256)[None, :], table)
    levels = table.ravel().at[entries].get(mode="promise_in_bounds")
    return levels.astype(image.dtype) / 255.0


def _levels(image: Image) -> Int[Array, "height width 3"]:
    return jnp.round(image * 255.0).astype(jnp.int32)


def color_jitter(
    key: Key[Array, ""],
    image: Image,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Image:
    """Change brightness, contrast, saturation and hue by random amounts in a random order.

    Args:
        key: random key.
        image: one image.
        brightness: the factor is uniform in `[max(0, 1 - brightness), 1 + brightness]`.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        hue: the shift is uniform in `[-hue, hue]`, at most 0.5.
    """
    changes: list[tuple[int, Callable[[Image, Scalar], Image], float, float]] = [
        (index, change, max(0.0, 1.0 - strength), 1.0 + strength)
        for index, (change, strength) in enumerate(
            [
                (adjust_brightness, brightness),
                (adjust_contrast, contrast),
                (adjust_saturation, saturation),
            ]
        )
        if strength > 0
    ]
    if hue > 0:
        changes.append((3, adjust_hue, -hue, hue))
    if not changes:
        return image
    amounts = [
        jax.random.uniform(jax.random.fold_in(key, index), minval=low, maxval=high)
        for index, _, low, high in changes
    ]
    branches = [
        lambda x, change=change, amount=amount: change(x, amount)
        for (_, change, _, _), amount in zip(changes, amounts, strict=True)
    ]
    order = jax.random.permutation(jax.random.fold_in(key, len(branches) + 4), len(branches))
    for which in order:
        image = jax.lax.switch(which, branches, image)
    return image


def pca_color(key: Key[Array, ""], image: Image, std: float = 0.1) -> Image:
    """Shift all pixels by one random colour along ImageNet's principal components of colour.

    Krizhevsky et al. 2012, section 4.1; the result is clipped to 0..1.

    Args:
        key: random key.
        image: one image.
        std: the standard deviation, in units of each component's scale.
    """
    multiples = std * jax.random.normal(key, (3,))
    shift = jnp.sum(PCA_VECTORS * (multiples * PCA_SCALES)[None, :], axis=1)
    return jnp.clip(image + shift[None, None, :], 0.0, 1.0)
