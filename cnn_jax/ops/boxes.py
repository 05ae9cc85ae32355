"""Boxes: areas, overlaps, the encodings that detectors regress, clipping and conversions.

A box is `[x1, y1, x2, y2]` in continuous coordinates: pixel (row, column) covers
`[column, column + 1) x [row, row + 1)`, and a box is `x2 - x1` wide. Papers and evaluations that
count the pixels from the first to the last, both included, say that a box is `x2 - x1 + 1` wide;
for them every function here accepts `offset=1`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Num

Boxes = Float[Array, "*batch 4"]

MAX_LOG_SCALE = math.log(1000 / 16)
"""The largest logarithm of a size ratio that `decode` uses; exp beyond it would overflow."""

BOXES_AT_A_TIME = 64
"""The number of boxes of an image that `map_boxes` processes at once."""


def sides(boxes: Boxes, offset: float = 0.0) -> Float[Array, "*batch 2"]:
    """Compute widths and heights; a box with swapped corners has none."""
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2] + offset, 0.0)


def area(boxes: Boxes, offset: float = 0.0) -> Float[Array, "*batch"]:
    """Compute areas; a box with swapped corners has none."""
    extents = sides(boxes, offset)
    return extents[..., 0] * extents[..., 1]


def intersection(
    boxes: Float[Array, "boxes 4"], others: Float[Array, "others 4"], offset: float = 0.0
) -> Float[Array, "boxes others"]:
    """Compute the area that each box shares with each other box."""
    first, second = boxes[:, None], others[None]
    shared = jnp.concatenate(
        [
            jnp.maximum(first[..., :2], second[..., :2]),
            jnp.minimum(first[..., 2:], second[..., 2:]),
        ],
        axis=-1,
    )
    return area(shared, offset)


def iou(
    boxes: Float[Array, "boxes 4"], others: Float[Array, "others 4"], offset: float = 0.0
) -> Float[Array, "boxes others"]:
    """Compute the intersection over union of each box with each other box.

    Boxes without area overlap nothing, not even themselves: IoU 0, with a gradient of 0.
    """
    shared = intersection(boxes, others, offset)
    union = area(boxes, offset)[:, None] + area(others, offset)[None] - shared
    return _ratio(shared, union)


def intersection_over_area(
    boxes: Float[Array, "boxes 4"], others: Float[Array, "others 4"], offset: float = 0.0
) -> Float[Array, "boxes others"]:
    """Compute the fraction of each box's area that lies in each other box; 0 without area.

    COCO uses it for the overlap of a detection with a crowd region.
    """
    shared = intersection(boxes, others, offset)
    own = jnp.broadcast_to(area(boxes, offset)[:, None], shared.shape)
    return _ratio(shared, own)


def encode(
    boxes: Float[Array, "*batch 4"],
    references: Float[Array, "*batch 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    offset: float = 0.0,
) -> Float[Array, "*batch 4"]:
    """Compute the targets of box regression, which turn references into boxes.

    Girshick et al. 2014, appendix C: the shift of the centre in units of the reference's sides,
    `(gx - px) / pw` and `(gy - py) / ph`, and the logarithms of the sides' ratios, `log(gw / pw)`
    and `log(gh / ph)`, all multiplied by `weights`.

    Args:
        boxes: the boxes to reach.
        references: proposals or anchors.
        weights: factors of the four targets, (10, 10, 5, 5) in most later detectors.
        offset: see the module.

    Returns:
        The targets. They are finite for all finite boxes: sides count as at least 1e-6 pixels.
    """
    center, size = _center_and_size(boxes, offset)
    reference_center, reference_size = _center_and_size(references, offset)
    shift = (center - reference_center) / reference_size
    deltas = jnp.concatenate([shift, jnp.log(size / reference_size)], axis=-1)
    return deltas * _row(weights, deltas)


def decode(
    deltas: Float[Array, "*batch 4"],
    references: Float[Array, "*batch 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    offset: float = 0.0,
    max_log_scale: float = MAX_LOG_SCALE,
) -> Float[Array, "*batch 4"]:
    """Compute the boxes from the targets of `encode`.

    Args:
        deltas: regressed values.
        references: proposals or anchors.
        weights, offset: as given to `encode`.
        max_log_scale: the upper limit on the logarithms of ratios.
    """
    deltas = deltas / _row(weights, deltas)
    center, size = _center_and_size(references, offset)
    center = center + deltas[..., :2] * size
    size = size * jnp.exp(jnp.minimum(deltas[..., 2:], max_log_scale))
    return jnp.concatenate([center - size / 2, center + size / 2 - offset], axis=-1)


def clip(
    boxes: Float[Array, "*batch 4"],
    image_size: tuple[int, int] | Num[Array, "2"],
    offset: float = 0.0,
) -> Float[Array, "*batch 4"]:
    """Move corners outside the image onto its border.

    Args:
        boxes: the boxes.
        image_size: height and width of the image in pixels.
        offset: 1 makes the last pixel's coordinate the last legal one.
    """
    height, width = image_size
    limits = jnp.stack([jnp.asarray(side, boxes.dtype) - offset for side in (width, height)] * 2)
    return jnp.clip(boxes, 0.0, _row(limits, boxes))


def is_large(
    boxes: Float[Array, "*batch 4"], minimum: float = 0.0, offset: float = 0.0
) -> Bool[Array, "*batch"]:
    """Test whether both sides are above 0 and at least `minimum` pixels."""
    extents = sides(boxes, offset)
    return jnp.all((extents > 0) & (extents >= minimum), axis=-1)


def from_center(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Convert `[center x, center y, width, height]` to corners."""
    half = boxes[..., 2:] / 2
    return jnp.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def to_center(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Convert corners to `[center x, center y, width, height]`."""
    lower, upper = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(lower + upper) / 2, upper - lower], axis=-1)


def round_half_away(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Round to whole numbers, halves away from zero, like C and MATLAB but unlike NumPy."""
    whole = jnp.trunc(x)
    return whole + jnp.where(jnp.abs(x - whole) >= 0.5, jnp.sign(x), jnp.zeros_like(x))


def map_boxes(function: Callable[[Array], Any], boxes: Float[Array, "boxes 4"]) -> Any:
    """Apply `vmap` to a function of one box, in chunks of boxes to bound the memory."""
    if boxes.shape[0] <= BOXES_AT_A_TIME:
        return jax.vmap(function)(boxes)
    return lax.map(function, boxes, batch_size=BOXES_AT_A_TIME)


def _center_and_size(
    boxes: Float[Array, "*batch 4"], offset: float
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2"]]:
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2] + offset, 1e-6)
    return boxes[..., :2] + size / 2, size


def _ratio(part: Float[Array, "*shape"], whole: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Compute `part / whole`, 0 where `whole` is 0, with finite gradients."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def _row(values: tuple[float, ...] | Array, like: Array) -> Array:
    """Reshape values of the last axis to broadcast with `like`."""
    values = jnp.asarray(values, like.dtype)
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
