"""Boxes onto the picture that they are drawn on: the decoded size decides, not the stated one.

A file of boxes states an image's size. The image may have been resized since, or the boxes may
count the stored pixels of a photo that EXIF turns upright.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cnn_jax.data.decode import Header

Size = tuple[int | float, int | float]
"""Rows and columns."""

Scale = tuple[int | float, int | float]
"""The factors of columns and rows."""

_SAME: Scale = (1.0, 1.0)
_MIRROR_COLUMNS = (2, 3, 7, 8)
_MIRROR_ROWS = (3, 4, 6, 7)


@dataclass(frozen=True)
class Fit:
    """The ways in which the boxes of a file can lie on its image.

    Attributes:
        header: the image's own size and orientation.
        upright: the scale, if they are boxes of the upright image; None if they cannot be.
        stored: the scale, if they are boxes of the pixels as stored; None if they cannot be.
    """

    header: Header
    upright: Scale | None
    stored: Scale | None

    @property
    def turned(self) -> bool | None:
        """True if EXIF turns the boxes too; None where the size is the same before and after."""
        if self.header.orientation == 1 or self.stored is None:
            return False
        # A size that is met exactly explains more than a similar ratio.
        exact = self.stored == _SAME
        if self.upright is None or (exact and self.upright != _SAME):
            return True
        return None if exact == (self.upright == _SAME) else False

    def place(
        self, boxes: Float[np.ndarray, "boxes 4"], *, turned: bool
    ) -> tuple[Float[np.ndarray, "boxes 4"], Scale]:
        """Bring boxes onto the upright image.

        Args:
            boxes: the boxes as their file gives them, in continuous coordinates.
            turned: whether they are turned, where `self.turned` leaves it open.

        Returns:
            The boxes, and the scale that was applied.
        """
        turned = turned if self.turned is None else self.turned
        scale = self.stored if turned else self.upright
        with np.errstate(over="ignore"):  # what is too large is found later, as not finite
            boxes = boxes * np.array([*scale, *scale])
        if turned:
            boxes = turn(boxes, self.header.stored, self.header.orientation)
        return boxes, scale


def fit(stated: Size | None, header: Header) -> Fit | None:
    """Find how boxes in an image of the size `stated` lie on the image of `header`.

    Args:
        stated: the size in the file of boxes; None where it states none.
        header: the image's own size and orientation.

    Returns:
        None if the image is neither of this size nor of this ratio, upright or stored.
    """
    if stated is None:
        return Fit(header, _SAME, _SAME)
    upright = _scale(stated, header.size)
    stored = _scale(stated, header.stored)
    return None if upright is None and stored is None else Fit(header, upright, stored)


def _scale(stated: Size, real: Size) -> Scale | None:
    """The scale, if one size is that of a resized copy of the other, to a pixel; else None."""
    height, width = stated
    rows, columns = real
    if (height, width) == (rows, columns):
        return _SAME
    # True also where a product is not finite.
    if not abs(columns * height - rows * width) <= max(height + width, rows + columns):
        return None
    return columns / width, rows / height


def turn(
    boxes: Float[np.ndarray, "boxes 4"], size: Size, orientation: int
) -> Float[np.ndarray, "boxes 4"]:
    """Turn boxes of stored pixels as EXIF's orientation turns the pixels.

    Args:
        boxes: the boxes on the stored pixels.
        size: rows and columns of the stored pixels.
        orientation: EXIF's number from 1 to 8.
    """
    height, width = size
    columns, rows = boxes[:, 0::2], boxes[:, 1::2]
    if orientation in _MIRROR_COLUMNS:
        columns = width - columns[:, ::-1]
    if orientation in _MIRROR_ROWS:
        rows = height - rows[:, ::-1]
    if orientation >= 5:
        columns, rows = rows, columns
    return np.stack([columns, rows], axis=2).reshape(-1, 4)


def drawn_before_turning(fits: Iterable[Fit]) -> bool:
    """Tell whether boxes whose images' sizes leave it open count pixels before EXIF turns them.

    The other turned images of the set tell. Without any, the boxes are of the upright image: tools
    have shown photos upright for years (browsers since 2020, LabelImg, labelme), and Detectron2
    reads them so.
    """
    told = {found.turned for found in fits if found.header.orientation != 1}
    return True in told and False not in told
