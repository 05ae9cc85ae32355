"""Boxes at regular places, the baseline for methods that use the image."""

import numpy as np
from jaxtyping import Float32


def dense_grid(
    height: int,
    width: int,
    scales: tuple[float, ...] = (0.8, 0.4, 0.2, 0.1),
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    step: float = 0.33,
) -> Float32[np.ndarray, "boxes 4"]:
    """Place boxes of a few sizes and shapes regularly over an image, the largest first.

    Args:
        height, width: the size of the image.
        scales: the square roots of the boxes' areas, as fractions of the image's shorter side.
        ratios: the heights over widths.
        step: the largest step between boxes, as a fraction of their side.

    Returns:
        Boxes within the image; sides are limited to those of the image.
    """
    boxes = []
    for scale in sorted(scales, reverse=True):
        for ratio in ratios:
            side = scale * min(height, width)
            h, w = min(height, side * ratio**0.5), min(width, side / ratio**0.5)
            tops, lefts = (
                np.linspace(0, length - extent, 1 + int(np.ceil((length - extent) / step / extent)))
                for length, extent in ((height, h), (width, w))
            )
            y, x = (axis.reshape(-1) for axis in np.meshgrid(tops, lefts, indexing="ij"))
            boxes.append(np.stack([x, y, x + w, y + h], axis=1))
    return np.concatenate(boxes).astype(np.float32)
