"""Augmentations that move or hide pixels: crops, flips, affine maps, random erasing.

The functions take one example and have fixed shapes: `jax.vmap` them over keys and images.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from cnn_jax.errors import UserError

Interpolation = Literal["nearest", "bilinear"]

# The number of tries to draw a random rectangle, as in torchvision.
_TRIES = 10


def random_flip(
    key: Key[Array, ""], image: Float[Array, "height width channels"], probability: float = 0.5
) -> Float[Array, "height width channels"]:
    """Mirror the image left to right with the given probability."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def random_crop(
    key: Key[Array, ""], image: Float[Array, "height width channels"], size: int
) -> Float[Array, "{size} {size} channels"]:
    """Cut out a random window of `size` x `size` pixels (Krizhevsky et al. 2012, 4.1).

    Raises:
        UserError: the image is smaller than the window.
    """
    height, width, channels = image.shape
    if min(height, width) < size:
        raise UserError(
            f"a random crop of {size} x {size} pixels needs an image at least as large, not "
            f"{height} x {width}: make the canvas larger or the crop smaller"
        )
    corner = jax.random.randint(key, (2,), 0, jnp.array([height - size + 1, width - size + 1]))
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, channels))


def pad_and_crop(
    key: Key[Array, ""],
    image: Float[Array, "size size channels"],
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
) -> Float[Array, "size size channels"]:
    """Pad every side, with zeros or with the mirrored border, and crop to the original size.

    This is the usual augmentation of CIFAR (He et al. 2016, section 4.2).
    """
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
    return random_crop(key, padded, image.shape[0])


def crop_and_resize(
    image: Float[Array, "height width channels"], box: Num[Array, "4"], size: tuple[int, int]
) -> Float[Array, "new_height new_width channels"]:
    """Cut a box out of the image and resample it, bilinear and antialiased.

    For a box of whole pixels this is Pillow's `image.crop(box).resize(size, BILINEAR)` without
    its rounding: the filter widens with the reduction and ignores pixels outside the box.

    Args:
        image: one image.
        box: top, left, height and width in pixels of the image, not necessarily whole numbers.
        size: the height and the width of the result.
    """
    box = box.astype(jnp.float32)
    rows = _resampling_weights(image.shape[0], size[0], box[0], box[2])
    columns = _resampling_weights(image.shape[1], size[1], box[1], box[3])
    # Full precision: by default, accelerators would round pixels to 8 or 10 bits.
    contract = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return contract("xw,ywc->yxc", columns, contract("yh,hwc->ywc", rows, image))


def _resampling_weights(
    pixels: int, samples: int, start: Float[Array, ""], extent: Float[Array, ""]
) -> Float[Array, "{samples} {pixels}"]:
    """Compute each pixel's weight in each sample of `[start, start + extent)`; rows sum to one."""
    step = extent / samples
    centers = start + (jnp.arange(samples, dtype=jnp.float32) + 0.5) * step
    lower_edges = jnp.arange(pixels, dtype=jnp.float32)
    distance = jnp.abs(lower_edges[None, :] + 0.5 - centers[:, None])
    weights = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(step, 1.0))
    inside = (lower_edges + 1 > start) & (lower_edges < start + extent)
    weights = jnp.where(inside[None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def random_resized_crop(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    original_size: Num[Array, "2"] | None = None,
) -> Float[Array, "{size} {size} channels"]:
    """Cut out a box of random area and aspect ratio, resampled to `size` x `size` pixels.

    Szegedy et al. 2015, section 6, with torchvision's rule for boxes (see :func:`sample_crop`).

    Args:
        key: random key.
        image: one image; it may have been squashed to a canvas of another shape.
        size: the side of the result in pixels.
        scale: the smallest and the largest fraction of the image's area.
        ratio: the smallest and the largest width / height of the box.
        original_size: the height and the width before the image was squashed, to which area and
            aspect ratio refer; None if it was not squashed.
    """
    canvas = jnp.array(image.shape[:2], jnp.float32)
    original = canvas if original_size is None else original_size.astype(jnp.float32)
    box = sample_crop(key, original, scale, ratio)
    return crop_and_resize(image, box * jnp.tile(canvas / original, 2), (size, size))


def sample_crop(
    key: Key[Array, ""],
    image_size: Num[Array, "2"],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Float[Array, "4"]:
    """Sample a box inside an image: top, left, height and width, in whole pixels.

    torchvision's rule: the area is uniform, the aspect ratio uniform in its logarithm. After ten
    tries without a box that fits, it is the largest central box with a legal aspect ratio.

    Args:
        key: random key.
        image_size: the height and the width of the image in pixels.
        scale: the smallest and the largest fraction of the image's area.
        ratio: the smallest and the largest width / height of the box.
    """
    height, width = image_size.astype(jnp.float32)
    size_key, place_key = jax.random.split(key)
    widths, heights = _random_sides(size_key, height * width, scale, ratio)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    extent = jnp.stack([heights[first], widths[first]])
    corner = _random_corner(place_key, jnp.stack([height, width]), extent)

    widest = jnp.minimum(width, jnp.round(height * ratio[1]))
    highest = jnp.minimum(height, jnp.round(width / ratio[0]))
    central = jnp.stack([highest, widest])
    central_corner = jnp.floor((jnp.stack([height, width]) - central) / 2)

    any_fits = jnp.any(fits)
    return jnp.concatenate(
        [jnp.where(any_fits, corner, central_corner), jnp.where(any_fits, extent, central)]
    )


def _random_sides(
    key: Key[Array, ""],
    area: Float[Array, ""] | float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Float[Array, " tries"], Float[Array, " tries"]]:
    """Draw sides of random rectangles, in whole pixels; `ratio` is first over second side."""
    area_key, ratio_key = jax.random.split(key)
    areas = area * jax.random.uniform(area_key, (_TRIES,), minval=scale[0], maxval=scale[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    return jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))


def _random_corner(
    key: Key[Array, ""], image_size: Float[Array, "2"], extent: Float[Array, "2"]
) -> Float[Array, "2"]:
    """Draw top and left of a box of whole pixels, uniformly over the image."""
    places = jnp.maximum(image_size - extent + 1, 1).astype(jnp.int32)
    return jax.random.randint(key, (2,), 0, places).astype(jnp.float32)


def affine(
    image: Float[Array, "height width channels"],
    matrix: Float[Array, "2 3"],
    interpolation: Interpolation = "bilinear",
    fill: float = 0.0,
) -> Float[Array, "height width channels"]:
    """Resample the image through an affine map, as Pillow's `Image.transform` does.

    Args:
        image: one image.
        matrix: `matrix @ (x, y, 1)` is the position in the input of the output's point (x, y).
            Pixel centres lie at halves.
        interpolation: between the four nearest pixels, or none. At the border, the outermost
            pixels are repeated and not blended with `fill`.
        fill: the value of pixels whose centres come from outside the image.
    """
    height, width, _ = image.shape
    y_out, x_out = jnp.meshgrid(
        *(jnp.arange(side, dtype=jnp.float32) + 0.5 for side in (height, width)), indexing="ij"
    )
    x = matrix[0, 0] * x_out + matrix[0, 1] * y_out + matrix[0, 2]
    y = matrix[1, 0] * x_out + matrix[1, 1] * y_out + matrix[1, 2]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)

    def pixels(
        row: Int[Array, "height width"], column: Int[Array, "height width"]
    ) -> Float[Array, "height width channels"]:
        return image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]

    if interpolation == "nearest":
        sampled = pixels(jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32))
    else:
        x, y = x - 0.5, y - 0.5
        left, top = jnp.floor(x), jnp.floor(y)
        right_share, lower_share = (x - left)[..., None], (y - top)[..., None]
        left, top = left.astype(jnp.int32), top.astype(jnp.int32)
        upper = _blend(pixels(top, left), pixels(top, left + 1), right_share)
        lower = _blend(pixels(top + 1, left), pixels(top + 1, left + 1), right_share)
        sampled = _blend(upper, lower, lower_share)
    return jnp.where(inside[..., None], sampled, fill)


def _blend(
    first: Float[Array, "height width channels"],
    second: Float[Array, "height width channels"],
    share: Float[Array, "height width 1"],
) -> Float[Array, "height width channels"]:
    return first * (1.0 - share) + second * share


def inverse_affine_matrix(
    angle: Float[Array, ""] | float,
    translate: Float[Array, "2"],
    scale: Float[Array, ""] | float,
    shear: Float[Array, "2"],
    center: Float[Array, "2"],
) -> Float[Array, "2 3"]:
    """Compute the matrix for :func:`affine` that rotates, scales, shears and moves an image.

    The output is the input sheared along x, then along y, scaled and rotated about `center`, and
    then moved. Order and signs are torchvision's.

    Args:
        angle: the clockwise angle in radians.
        translate: the displacement in pixels, to the right and down.
        scale: the factor of the size.
        shear: the angles along x and along y, in radians.
        center: the point (x, y) that is fixed except for `translate`.
    """
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    shear_x, shear_y = jnp.tan(shear)
    # Inverse rotation, then the inverse shears.
    second_row = jnp.stack([shear_y * cosine - sine, shear_y * sine + cosine])
    first_row = jnp.stack([cosine, sine]) + shear_x * second_row
    linear = jnp.stack([first_row, second_row]) / scale
    moved = center + translate
    offset = center - jnp.stack([jnp.sum(row * moved) for row in linear])
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def random_affine(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    interpolation: Interpolation = "bilinear",
    fill: float = 0.0,
) -> Float[Array, "height width channels"]:
    """Rotate, move, scale and shear the image about its centre, each by a uniform amount.

    Args:
        key: random key.
        image: one image.
        degrees: the largest rotation, in either direction.
        translate: the largest displacement, as a fraction of the width and of the height.
        scale: the smallest and the largest factor of the size.
        shear: the largest shear along x in degrees, in either direction.
        interpolation: see :func:`affine`.
        fill: see :func:`affine`.
    """
    size = jnp.array([image.shape[1], image.shape[0]], jnp.float32)
    draw = [jax.random.fold_in(key, i) for i in range(4)]
    turned = jax.random.uniform(draw[0], minval=-degrees, maxval=degrees)
    moved = jax.random.uniform(draw[1], (2,), minval=-translate, maxval=translate)
    factor = jax.random.uniform(draw[2], minval=scale[0], maxval=scale[1])
    sheared = jax.random.uniform(draw[3], minval=-shear, maxval=shear)
    matrix = inverse_affine_matrix(
        jnp.deg2rad(turned),
        moved * size,
        factor,
        jnp.stack([jnp.deg2rad(sheared), jnp.zeros(())]),
        size / 2,
    )
    return affine(image, matrix, interpolation, fill)


def random_erasing(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    fill: tuple[float, ...] | float = 0.0,
) -> Float[Array, "height width channels"]:
    """Erase a random rectangle with some probability (https://arxiv.org/abs/1708.04896).

    Zhong et al. 2020. torchvision erases normalised images with zero, which is the mean colour;
    pass that colour as `fill` for images in 0..1.

    Args:
        key: random key.
        image: one image.
        probability: the probability of erasing.
        scale: the smallest and the largest fraction of the image's area.
        ratio: the smallest and the largest height / width of the rectangle.
        fill: the value of the erased pixels, for all channels or for each.
    """
    height, width, channels = image.shape
    whether_key, size_key, place_key = (jax.random.fold_in(key, i) for i in range(3))
    heights, widths = _random_sides(size_key, float(height * width), scale, ratio)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    extent = jnp.stack([heights[first], widths[first]])
    top, left = _random_corner(place_key, jnp.array([height, width], jnp.float32), extent)
    erased = rectangle(height, width, top, left, top + extent[0], left + extent[1])
    erased &= jnp.any(fits) & jax.random.bernoulli(whether_key, probability)
    colour = jnp.broadcast_to(jnp.array(fill, image.dtype), (1, 1, channels))
    return jnp.where(erased[..., None], colour, image)


def rectangle(
    height: int,
    width: int,
    top: Num[Array, ""],
    left: Num[Array, ""],
    bottom: Num[Array, ""],
    right: Num[Array, ""],
) -> Bool[Array, "{height} {width}"]:
    """Build the mask of the pixels in `[top, bottom) x [left, right)`."""
    rows, columns = (jnp.arange(side, dtype=top.dtype) for side in (height, width))
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows[:, None] & in_columns[None, :]
