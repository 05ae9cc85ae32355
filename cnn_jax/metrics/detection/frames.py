"""Objects counted over the frames of a video: how many there are, appear, and cross a line.

There is no tracker. An object of a frame is that of the frame before whose box it overlaps enough;
all functions are of two frames, or of one point, to be vmapped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.metrics.detection.counts import greedy_matches, pair_overlaps
from cnn_jax.ops.nms import Detections

SAME_OBJECT = 0.3
"""The least IoU at which boxes of two frames are one object: SORT's (Bewley et al. 2016, 3.4)."""

Point = Float[Array, "2"]


class FrameCounts(NamedTuple):
    """Numbers of objects of one frame, by class.

    Attributes:
        present: objects in the frame.
        appeared: those that match no object of the frame before. Their sum over all frames
            estimates how many distinct objects there are. It is too high where an object is missed
            in a frame, or moves too far between two.
        to_left, to_right: objects that crossed the line since the frame before; see `crossing`.
    """

    present: Int[Array, " classes"]
    appeared: Int[Array, " classes"]
    to_left: Int[Array, " classes"]
    to_right: Int[Array, " classes"]


def count_frame(
    before: Detections,
    now: Detections,
    num_classes: int,
    line: Float[Array, "2 2"] | None = None,
    region: Float[Array, "corners 2"] | None = None,
    same_object: float = SAME_OBJECT,
) -> tuple[FrameCounts, Detections]:
    """Count the objects of a frame.

    Args:
        before: the objects that counted in the frame before, best first; none are valid in the
            first frame.
        now: those of this frame, best first, with as many rows.
        num_classes: the number of classes.
        line: its two ends, in pixels; without one nothing crosses.
        region: the corners of a polygon, in pixels, whose sides may not cross; only objects whose
            centre is inside count.
        same_object: the least IoU with a box of the same class in the frame before at which it is
            the same object. The best detection is matched first.

    Returns:
        The counts, and the objects that count: `before` of the next frame.
    """
    if region is not None:
        within = jax.vmap(inside, (0, None))(centers(now.boxes), region)
        now = now._replace(valid=now.valid & within)
    overlaps = pair_overlaps(
        now.boxes, now.labels, now.valid, before.boxes, before.labels, before.valid
    )
    nothing = jnp.zeros(before.valid.shape, bool)
    match = greedy_matches(overlaps, same_object, nothing, nothing)
    matched = match >= 0
    crossed = jnp.zeros(now.valid.shape, jnp.int32)
    if line is not None:
        starts = centers(before.boxes)[jnp.maximum(match, 0)]
        crossed = jax.vmap(crossing, (0, 0, None))(starts, centers(now.boxes), line)
        crossed = jnp.where(matched, crossed, 0)

    def by_class(chosen: Bool[Array, " boxes"]) -> Int[Array, " classes"]:
        own = now.labels[:, None] == jnp.arange(num_classes, dtype=now.labels.dtype)[None]
        return jnp.sum(own & chosen[:, None], axis=0, dtype=jnp.int32)

    counts = FrameCounts(
        present=by_class(now.valid),
        appeared=by_class(now.valid & ~matched),
        to_left=by_class(crossed < 0),
        to_right=by_class(crossed > 0),
    )
    return counts, now


def centers(boxes: Float[Array, "*batch 4"]) -> Float[Array, "*batch 2"]:
    """Compute the centres of boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def inside(point: Point, polygon: Float[Array, "corners 2"]) -> Bool[Array, ""]:
    """Tell whether a point is inside a polygon: a ray from it passes an odd number of sides.

    Of a side that two polygons share, each point belongs to one of them.
    """
    (x, y), (x1, y1) = point, polygon.T
    x2, y2 = jnp.roll(polygon, -1, axis=0).T
    passes = (y1 > y) != (y2 > y)
    at = x1 + (y - y1) * (x2 - x1) / jnp.where(passes, y2 - y1, 1.0)
    return jnp.sum(passes & (x < at)) % 2 == 1


def crossing(start: Point, end: Point, line: Float[Array, "2 2"]) -> Int[Array, ""]:
    """Tell whether a movement crosses a line between two points, and to which side.

    Sides are those of a person in the picture who walks from the first end of the line to the
    second. A point on the line belongs to the right side, so that an object that stops there
    crosses once.

    Returns:
        1 for a crossing to the right, -1 to the left, 0 for none.
    """
    from_right, to_right = _side(start, *line) >= 0, _side(end, *line) >= 0
    # The ends of the line are on both sides of the movement, or on it.
    between = _side(line[0], start, end) * _side(line[1], start, end) <= 0
    crossed = between & (from_right != to_right)
    return jnp.where(crossed, jnp.where(to_right, 1, -1), 0).astype(jnp.int32)


def _side(point: Point, start: Point, end: Point) -> Float[Array, ""]:
    """Twice the area of the triangle of a line and a point: positive on the right, y downwards."""
    along, off = end - start, point - start
    return along[0] * off[1] - along[1] * off[0]
