"""Boxes, masks and pictures that are legal, and rarely what was meant."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt

TINY_SHARE, TINY_SIDE = 1e-4, 3.0
"""A box is tiny below this share of the image, or with a side of fewer pixels."""

WHOLE_SHARE = 0.95
"""A box is nearly the whole image from this share on."""

LONG_RATIO = 10.0
"""A box is extreme if one side is this many times as long as the other."""

SAME_IOU = 0.9
"""Two boxes are around one object from this intersection over union on."""

BEYOND = 1.0
"""Pixels by which a box may extend beyond its image, for rounding."""

FEW = 10
"""A class has very few examples below this number."""

NARROW_RATIO = 5.0
"""A picture is very long or tall if one side is this many times as long as the other."""

Boxes = Float[np.ndarray, "boxes 4"]
Marks = Bool[np.ndarray, " boxes"]


def suspicious_boxes(
    boxes: Boxes, labels: Int[np.ndarray, " boxes"], crowd: Marks, size: tuple[float, float]
) -> dict[str, Marks]:
    """Mark the boxes of an image that are suspicious, by what is suspicious about them.

    Args:
        boxes: [x1, y1, x2, y2] in pixels.
        labels: their classes.
        crowd: marks boxes around many objects, which may be large and overlap others.
        size: rows and columns of the image.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    shares = sides.prod(axis=1) / (size[0] * size[1])
    shortest, longest = sides.min(axis=1), sides.max(axis=1)
    end = np.array([size[1], size[0]])
    beyond = np.concatenate([-boxes[:, :2], boxes[:, 2:] - end], axis=1)
    overlap = _ious(boxes) >= SAME_IOU
    overlap &= np.tri(len(boxes), k=-1, dtype=bool) & ~(crowd[:, None] | crowd[None, :])
    same = labels[:, None] == labels[None, :]
    return {
        "tiny boxes": (shares < TINY_SHARE) | (shortest < TINY_SIDE),
        "boxes of nearly the whole image": (shares >= WHOLE_SHARE) & ~crowd,
        "boxes beyond the image": beyond.max(axis=1, initial=-np.inf) > BEYOND,
        "very long or tall boxes": longest >= LONG_RATIO * np.maximum(shortest, 1e-6),
        "doubled boxes": (overlap & same).any(axis=1),
        "boxes of one object with two classes": (overlap & ~same).any(axis=1),
    }


def _ious(boxes: Boxes) -> Float[np.ndarray, "boxes boxes"]:
    first = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(last - first, 0).prod(axis=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / np.maximum(area[:, None] + area[None, :] - shared, 1e-9)


def suspicious_mask(amounts: Int[np.ndarray, " classes"], pixels: int) -> list[str]:
    """Name what is suspicious about a mask with this many pixels of each class, of so many."""
    if not amounts.any():
        return ["masks of ignored pixels alone"]
    found = ["masks of a single class"] if amounts.max() == pixels else []
    if 2 * amounts.sum() < pixels:
        found.append("masks with more ignored than other pixels")
    return found


def suspicious_picture(image: UInt[np.ndarray, "height width channels"]) -> list[str]:
    """Name what is suspicious about a picture."""
    found = ["pictures of a single colour"] if (image == image[:1, :1]).all() else []
    if max(image.shape[:2]) >= NARROW_RATIO * min(image.shape[:2]):
        found.append("very long or tall pictures")
    return found


def similar_names(class_names: Sequence[str]) -> list[list[str]]:
    """Group the classes whose names differ in case, blanks and marks only."""
    groups: Mapping[str, list[str]] = defaultdict(list)
    for name in class_names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups[re.sub(r"[\W_]+", "", plain) or name].append(name)
    return [names for names in groups.values() if len(names) > 1]
