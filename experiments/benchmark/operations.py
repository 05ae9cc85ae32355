"""The array operations of detection that are timed, and what both contenders feed them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

NAMES = ("box_iou", "nms", "roi_pool", "roi_pool_gradient", "roi_align", "roi_align_gradient")

IMAGE = 512
STRIDE = 16
CHANNELS = 128
BINS = (7, 7)
SAMPLES = 2
THRESHOLD = 0.5


@dataclass(frozen=True)
class Inputs:
    """Boxes in an image of `IMAGE` pixels, and a map of it.

    Attributes:
        boxes: in pixels.
        scores: of the boxes.
        features: the map, one cell for `STRIDE` pixels.
    """

    boxes: Float32[np.ndarray, "boxes 4"]
    scores: Float32[np.ndarray, " boxes"]
    features: Float32[np.ndarray, "height width channels"]


def inputs(boxes: int) -> Inputs:
    """The same random boxes, scores and features for everyone."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.75 * IMAGE, (boxes, 2))
    sides = rng.uniform(8, IMAGE / 4, (boxes, 2))
    cells = IMAGE // STRIDE
    return Inputs(
        np.concatenate([corners, corners + sides], axis=1).astype(np.float32),
        rng.random(boxes).astype(np.float32),
        rng.normal(size=(cells, cells, CHANNELS)).astype(np.float32),
    )
