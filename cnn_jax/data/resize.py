"""Resizing and cropping of images of 8 or 16 bits on the host.

`resize` has the arithmetic of Pillow, whose filters widen with the reduction (antialiasing);
torchvision uses it for the published figures. The rounding rules are torchvision's. `to_canvas` has
OpenCV's, antialiased too: as good for what is augmented anyway, and several times as fast.
"""

import math
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from cnn_jax.errors import UserError

Interpolation = Literal["bilinear", "bicubic"]

# The farthest distance, in pixels of the image, of the samples that `to_canvas` averages. Each is
# interpolated, so below 2 no pixel is left out.
_SAMPLING = 1.5

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize(
    image: UInt[np.ndarray, "height width channels"],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> UInt[np.ndarray, "new_height new_width channels"]:
    """Resample the whole image to ``size`` = (height, width), antialiased.

    16 bits are resampled in floats, and rounded once.
    """
    if image.shape[:2] == size:
        return image
    new, method = size[::-1], _FILTERS[interpolation]
    deep = image.dtype == np.uint16
    if image.shape[2] == 3 and not deep:
        return np.array(Image.fromarray(image).resize(new, method))
    # One by one: Pillow would take a fourth channel for opacity, and weigh the others with it.
    bands = np.moveaxis(image.astype(np.float32) if deep else image, 2, 0)
    images = (Image.fromarray(np.ascontiguousarray(band)) for band in bands)
    resized = np.stack([np.asarray(band.resize(new, method)) for band in images], 2)
    return np.clip(np.rint(resized), 0, 65535).astype(np.uint16) if deep else resized


def resize_mask(
    mask: UInt8[np.ndarray, "height width"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width"]:
    """Resample a mask to ``size`` = (height, width), with the class of the nearest pixel."""
    if mask.shape == size:
        return mask
    height, width = size
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def resize_shorter_side(
    image: UInt[np.ndarray, "height width channels"],
    size: int,
    interpolation: Interpolation = "bilinear",
) -> UInt[np.ndarray, "new_height new_width channels"]:
    """Resize the shorter side to ``size`` pixels; the longer side is rounded down."""
    height, width = image.shape[:2]
    longer = int(size * max(height, width) / min(height, width))
    return resize(image, (size, longer) if height <= width else (longer, size), interpolation)


def to_canvas(
    image: UInt[np.ndarray, "height width channels"], size: tuple[int, int]
) -> UInt[np.ndarray, "rows columns channels"]:
    """Squash the whole image of any shape to ``size`` = (rows, columns), antialiased.

    Batches have one shape, and nothing is cut off. Along an axis that shrinks, several places a
    pixel are interpolated and averaged.

    This is the training canvas. With the original height and width,
    :func:`cnn_jax.data.augment.random_resized_crop` can sample and resample boxes as if from the
    original.
    """
    if image.shape[:2] == size:
        return image
    # Batches are read by several threads or processes already.
    cv2.setNumThreads(1)
    rows, columns = (
        new * (1 if old <= new else max(2, math.ceil(old / (new * _SAMPLING))))
        for old, new in zip(image.shape[:2], size, strict=True)
    )
    finer = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    if (rows, columns) != size:
        finer = cv2.resize(finer, size[::-1], interpolation=cv2.INTER_AREA)
    return finer.reshape(*size, -1)  # OpenCV drops the axis of a single channel


def to_square(
    image: UInt[np.ndarray, "height width channels"], size: int
) -> UInt[np.ndarray, "{size} {size} channels"]:
    """Squash the whole image to a square canvas; see `to_canvas`."""
    return to_canvas(image, (size, size))


def center_crop(
    image: UInt[np.ndarray, "height width channels"], size: int
) -> UInt[np.ndarray, "{size} {size} channels"]:
    """Cut out the central ``size`` x ``size`` pixels; a smaller image is padded with zeros."""
    height, width = image.shape[:2]
    missing_rows, missing_columns = max(size - height, 0), max(size - width, 0)
    if missing_rows or missing_columns:
        rows = (missing_rows // 2, (missing_rows + 1) // 2)
        columns = (missing_columns // 2, (missing_columns + 1) // 2)
        image = np.pad(image, (rows, columns, (0, 0)))
        height, width = image.shape[:2]
    # Halves round to even, as in torchvision.
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def ten_crop(
    image: UInt[np.ndarray, "height width channels"], size: int
) -> UInt[np.ndarray, "10 {size} {size} channels"]:
    """Cut out the four corners and the centre, then the same five of the mirrored image.

    The test crops of Krizhevsky et al. 2012, section 4.1, in torchvision's order are top left,
    top right, bottom left, bottom right, centre.

    Raises:
        UserError: the image has fewer than ``size`` rows or columns.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise UserError(
            f"ten crops of {size} x {size} pixels need an image at least as large, not "
            f"{height} x {width}: resize its shorter side to {size} or more first"
        )
    bottom, right = height - size, width - size
    return np.stack(
        [
            crop
            for view in (image, image[:, ::-1])
            for crop in (
                view[:size, :size],
                view[:size, right:],
                view[bottom:, :size],
                view[bottom:, right:],
                center_crop(view, size),
            )
        ]
    )
