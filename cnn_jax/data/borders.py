"""U-Net's weights for the pixels between cells that almost touch, computed on the host."""

import cv2
import numpy as np
from jaxtyping import Float32, Integer

# At this many sigmas from the second nearest cell, a weight is below w0 * 2e-8.
_REACH = 6.0


def border_weights(
    mask: Integer[np.ndarray, "height width"],
    w0: float = 10.0,
    sigma: float = 5.0,
    background: int = 0,
    ignored: int = 255,
) -> Float32[np.ndarray, "height width"]:
    """Compute a weight for every pixel: 1, and more on the background between two cells.

    `1 + w0 * exp(-(d1 + d2)^2 / (2 sigma^2))` with the distances d1 and d2 in pixels to the nearest
    and to the second nearest cell (Ronneberger et al. 2015, equation 2, without its class
    weights, which the loss applies). Cells are the connected components (of four neighbours) of
    each class except the background.

    Args:
        mask: the class of every pixel.
        w0: the added weight between two touching cells.
        sigma: the reach of the weight in pixels.
        background: the class of the background.
        ignored: the label of ignored pixels.
    """
    extra = np.zeros(mask.shape, np.float32)
    nearest = np.full(mask.shape, np.inf, np.float32)
    second = np.full(mask.shape, np.inf, np.float32)
    reach = int(np.ceil(_REACH * sigma)) + 1
    height, width = mask.shape
    for cell, (top, left, bottom, right) in _cells(mask, background, ignored):
        window = (
            slice(max(top - reach, 0), min(bottom + reach, height)),
            slice(max(left - reach, 0), min(right + reach, width)),
        )
        outside = np.uint8(1) - cell(window).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The two smallest distances so far.
        farther = np.maximum(nearest[window], distance)
        nearest[window] = np.minimum(nearest[window], distance)
        second[window] = np.minimum(second[window], farther)
    if w0:
        between = (mask == background) & np.isfinite(second)
        total = nearest[between] + second[between]
        extra[between] = w0 * np.exp(-(total**2) / (2 * sigma**2))
    return 1 + extra


def _cells(mask: np.ndarray, background: int, ignored: int):
    """Yield each cell: a function from a window to booleans, and its [top, left, bottom, right]."""
    for label in np.unique(mask):
        if label in (background, ignored):
            continue
        own = (mask == label).astype(np.uint8)
        count, components, boxes, _ = cv2.connectedComponentsWithStats(own, connectivity=4)
        for number in range(1, count):
            left, top, width, height, _ = boxes[number].tolist()

            def inside(window, components=components, number=number):
                return components[window] == number

            yield inside, (top, left, top + height, left + width)
