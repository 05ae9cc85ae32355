"""The segmenters and detectors whose training steps are timed, and what both contenders feed them.

Every image has a mask and the same number of objects and of regions. No object shares its cell of
YOLO's grid with another, so the loss needs no choice between them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

CLASSES = 20
"""Pascal VOC's."""

SIZES = {"segnet": 352, "unet": 572, "yolo": 448, "fast_rcnn": 608}
"""Pixels on a side of an image, by the network's name. Fast R-CNN is the one on VGG-16."""

GRID = 7
OBJECTS = 4
REGIONS = 64
"""Of an image, as many as a step trains on (Girshick 2015, section 2.3)."""


class Scenes(NamedTuple):
    """Random images with the truth about them.

    Attributes:
        image: values 0 to 255.
        mask: a class for each pixel.
        boxes: corners of the objects in pixels.
        labels: the objects' classes.
        regions: corners in pixels, those of each object together; the first quarter of an object's
            stand for it, the others for the background.
    """

    image: UInt8[np.ndarray, "n height width 3"]
    mask: Int32[np.ndarray, "n rows columns"]
    boxes: Float32[np.ndarray, "n objects 4"]
    labels: Int32[np.ndarray, "n objects"]
    regions: Float32[np.ndarray, "n regions 4"]


def inputs(images: int, size: int, margin: int = 0) -> Scenes:
    """The same random scenes for everyone.

    Args:
        images: number of images.
        size: pixels on a side.
        margin: pixels on every side of an image that its mask lacks.
    """
    rng = np.random.default_rng(0)
    cells = np.stack([rng.permutation(GRID**2)[:OBJECTS] for _ in range(images)])
    centers = (np.stack([cells % GRID, cells // GRID], -1) + 0.5) / GRID
    sides = rng.uniform(0.15, 0.4, (images, OBJECTS, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1)
    # Moved by .03 of its sides, a box has an IoU of .89 with itself; by a quarter of them, .39.
    count = REGIONS // OBJECTS
    shifts = np.where(np.arange(count) < count // 4, 0.03, 0.25)
    moved = shifts[:, None] * sides[:, :, None]
    regions = boxes[:, :, None] + np.concatenate([moved, moved], -1)
    inner = size - 2 * margin
    return Scenes(
        rng.integers(0, 256, (images, size, size, 3), dtype=np.uint8),
        rng.integers(0, CLASSES, (images, inner, inner), dtype=np.int32),
        (size * boxes).astype(np.float32),
        rng.integers(0, CLASSES, (images, OBJECTS), dtype=np.int32),
        (size * regions).reshape(images, REGIONS, 4).astype(np.float32),
    )
