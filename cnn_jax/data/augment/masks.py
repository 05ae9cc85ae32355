"""Augmentation of an image together with its mask, on the device.

One random map of coordinates moves the pixels of the image (bilinear or bicubic), of the mask
(nearest neighbour) and of the weights. The functions take one example and have fixed shapes:
`jax.vmap` them over keys and examples.
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from cnn_jax.conventions import IGNORED
from cnn_jax.data.augment import color
from cnn_jax.data.resize import Interpolation
from cnn_jax.errors import UserError, check
from cnn_jax.ranges import LARGEST_SIDE, Range, check_ranges

# Every step's key is folded with its position in this list: append to it, never reorder it.
_STEPS = ("window", "flip", "flip_vertical", "turn", "zoom", "elastic", "color_jitter")


@dataclasses.dataclass(frozen=True)
class MaskAugmentation:
    """Augmentation of training images and their masks on the device."""

    crop_size: Annotated[tuple[int, int], Range(1, LARGEST_SIDE)] | None = None
    """Rows and columns of a random crop, in pixels; default: the whole image."""
    flip: bool = False
    """Mirror images left to right with probability 1/2."""
    flip_vertical: bool = False
    """Mirror images top to bottom with probability 1/2."""
    rotate: Annotated[float, Range(0, 360)] = 0.0
    """The largest rotation in degrees, in either direction."""
    zoom: Annotated[tuple[float, float], Range(0.01, 100)] = (1.0, 1.0)
    """The smallest and the largest factor of the size, uniform in its logarithm."""
    elastic: Annotated[float, Range(0, 1000)] = 0.0
    """The standard deviation of U-Net's elastic deformation in pixels (10 in the paper)."""
    elastic_grid: Annotated[int, Range(2, 100)] = 3
    """The points on a side of the grid of random displacements for the elastic deformation."""
    interpolation: Interpolation = "bilinear"
    """The interpolation of images that are rotated, zoomed or deformed. `bilinear` smooths noise,
    which the images of an evaluation keep; `bicubic` smooths it less."""
    color_jitter: Annotated[float, Range(0, 10)] = 0.0
    """The largest relative change of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.zoom
        check(low <= high, "zoom", self.zoom, "a range LOW HIGH with LOW <= HIGH")
        used = self.interpolation == "bilinear" or self.resamples
        check(used, "interpolation", self.interpolation, "given with rotate, zoom or elastic")

    @property
    def resamples(self) -> bool:
        """True if pixels move to places between others."""
        return bool(self.rotate or self.elastic or self.zoom != (1.0, 1.0))


def augment_with_mask(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    mask: Int[Array, "mask_height mask_width"],
    weights: Float[Array, "mask_height mask_width"] | None,
    config: MaskAugmentation,
) -> tuple[
    Float[Array, "new_height new_width channels"],
    Int[Array, "new_mask_height new_mask_width"],
    Float[Array, "new_mask_height new_mask_width"] | None,
]:
    """Augment an image, its mask and the weights of the mask's pixels.

    The image may extend beyond its mask, equally far on opposite sides, as a network without
    padding needs. So does the result.

    Args:
        key: the example's own random key.
        image: its pixels, in 0..1.
        mask: the class of every pixel, or `IGNORED`.
        weights: the weight of every pixel's loss, or None.
        config: the steps and their strengths.

    Returns:
        Image, mask and weights of the window. Pixels from outside the image are mirrored, and
        ignored in the mask.

    Raises:
        UserError: the mask is smaller than the window.
    """
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(_STEPS)}
    size = config.crop_size or mask.shape
    if size[0] > mask.shape[0] or size[1] > mask.shape[1]:
        raise UserError(
            f"--crop-size {size[0]} {size[1]}: larger than the images, which have "
            f"{mask.shape[0]} x {mask.shape[1]} pixels"
        )
    places = jnp.array([have - want + 1 for have, want in zip(mask.shape, size, strict=True)])
    corner = jax.random.randint(keys["window"], (2,), 0, places)
    margins = [(i - m) // 2 for i, m in zip(image.shape[:2], mask.shape, strict=True)]
    image_size = tuple(s + 2 * m for s, m in zip(size, margins, strict=True))

    if config.resamples:
        # From the window's pixels to the image's, relative to the mask's corner.
        corner = corner.astype(jnp.float32)
        rows, columns = _coordinates(keys, size, image_size, corner, config)
        offset = jnp.array(margins, jnp.float32)
        image = _interpolated(image, rows + offset[0], columns + offset[1], config.interpolation)
        inner = tuple(slice(m, m + s) for m, s in zip(margins, size, strict=True))
        rows, columns = (jnp.round(x[inner]).astype(jnp.int32) for x in (rows, columns))
        mask_rows, inside_rows = _inside(rows, mask.shape[0])
        mask_columns, inside_columns = _inside(columns, mask.shape[1])
        inside = inside_rows & inside_columns
        mask = jnp.where(inside, mask[mask_rows, mask_columns], IGNORED)
        if weights is not None:
            weights = weights[mask_rows, mask_columns]
    else:
        start = (corner[0], corner[1])
        image = jax.lax.dynamic_slice(image, (*start, 0), (*image_size, image.shape[2]))
        mask = jax.lax.dynamic_slice(mask, start, size)
        if weights is not None:
            weights = jax.lax.dynamic_slice(weights, start, size)
    for name, axis in (("flip", 1), ("flip_vertical", 0)):
        if getattr(config, name):
            mirrored = jax.random.bernoulli(keys[name])
            image, mask = (jnp.where(mirrored, jnp.flip(x, axis), x) for x in (image, mask))
            if weights is not None:
                weights = jnp.where(mirrored, jnp.flip(weights, axis), weights)
    if config.color_jitter:
        strength = config.color_jitter
        image = color.color_jitter(keys["color_jitter"], image, strength, strength, strength, 0.0)
    return image, mask, weights


def _coordinates(
    keys: dict[str, Key[Array, ""]],
    size: tuple[int, int],
    image_size: tuple[int, int],
    corner: Float[Array, "2"],
    config: MaskAugmentation,
) -> tuple[Float[Array, "rows columns"], Float[Array, "rows columns"]]:
    """Compute the source row and column of each pixel of the window and its surroundings.

    They are relative to the centre of the mask's first pixel.
    """
    centre = [(s - 1) / 2 for s in size]
    outer = [(s - 1) / 2 for s in image_size]
    y, x = jnp.meshgrid(
        *(jnp.arange(s, dtype=jnp.float32) - c for s, c in zip(image_size, outer, strict=True)),
        indexing="ij",
    )
    limit = jnp.deg2rad(config.rotate)
    angle = jax.random.uniform(keys["turn"], minval=-limit, maxval=limit)
    low, high = (jnp.log(z) for z in config.zoom)
    factor = jnp.exp(jax.random.uniform(keys["zoom"], minval=low, maxval=high))
    cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    rows = cosine * y - sine * x + centre[0] + corner[0]
    columns = sine * y + cosine * x + centre[1] + corner[1]
    if config.elastic:
        moved = displacements(keys["elastic"], image_size, config.elastic, config.elastic_grid)
        rows, columns = rows + moved[..., 0], columns + moved[..., 1]
    return rows, columns


def displacements(
    key: Key[Array, ""], size: tuple[int, int], sigma: float, grid: int = 3
) -> Float[Array, "height width 2"]:
    """Draw smooth displacements in pixels: normal on a coarse grid, interpolated bicubically.

    Ronneberger et al. 2015, section 3.1: a grid of 3 x 3 points, sigma 10 pixels.

    Args:
        key: random key.
        size: rows and columns of the field.
        sigma: the standard deviation at the grid's points.
        grid: the points on a side of the grid.
    """
    coarse = sigma * jax.random.normal(key, (grid, grid, 2))
    return jax.image.resize(coarse, (*size, 2), "cubic", antialias=False)


def _weights(
    share: Float[Array, "*shape"], interpolation: Interpolation
) -> dict[int, Float[Array, "*shape"]]:
    """Compute the weights of the pixels around a place, by their distance from the one before it.

    Bicubic: Keys 1981, with the a of OpenCV and torch, which keeps more of what is fine than -1/2.
    """
    if interpolation == "bilinear":
        return {0: 1 - share, 1: share}
    a = -0.75
    near = {tap: jnp.abs(share - tap) for tap in (0, 1)}
    far = {tap: jnp.abs(share - tap) for tap in (-1, 2)}
    weights = {tap: ((a + 2) * x - (a + 3)) * x * x + 1 for tap, x in near.items()}
    weights |= {tap: ((a * x - 5 * a) * x + 8 * a) * x - 4 * a for tap, x in far.items()}
    return weights


def _interpolated(
    image: Float[Array, "height width channels"],
    rows: Float[Array, "new_height new_width"],
    columns: Float[Array, "new_height new_width"],
    interpolation: Interpolation,
) -> Float[Array, "new_height new_width channels"]:
    """Interpolate the image between its pixels, within 0..1; it is mirrored outside."""
    top, left = jnp.floor(rows), jnp.floor(columns)
    down = _weights((rows - top)[..., None], interpolation)
    right = _weights((columns - left)[..., None], interpolation)
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)

    def pixels(row: int, column: int) -> Array:
        places = _mirrored(top + row, image.shape[0]), _mirrored(left + column, image.shape[1])
        return image[places]

    def along(row: int) -> Array:
        return _sum([pixels(row, column) * weight for column, weight in right.items()])

    mixed = _sum([along(row) * weight for row, weight in down.items()])
    return mixed if interpolation == "bilinear" else jnp.clip(mixed, 0, 1)  # edges overshoot


def _sum(terms: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _mirrored(places: Int[Array, "*shape"], length: int) -> Int[Array, "*shape"]:
    """Mirror places along an axis at the outermost pixels' centres."""
    period = max(2 * (length - 1), 1)
    places = jnp.mod(places, period)
    return jnp.minimum(places, period - places) if length > 1 else jnp.zeros_like(places)


def _inside(
    places: Int[Array, "*shape"], length: int
) -> tuple[Int[Array, "*shape"], Bool[Array, "*shape"]]:
    """Clip places to an axis; also return which of them are on it."""
    return jnp.clip(places, 0, length - 1), (places >= 0) & (places < length)
