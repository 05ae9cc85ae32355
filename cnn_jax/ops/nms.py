"""Non-maximum suppression with fixed shapes, equal to the greedy loop box for box.

The greedy loop takes the box with the highest score, drops the boxes that overlap it by more than
the threshold, and continues with the rest. Here the same loop runs at most once for each box to
keep. It needs no sorting and no matrix of all overlaps, and `jax.vmap` runs images and classes in
parallel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.ops import boxes as box_ops


class Kept(NamedTuple):
    """The boxes that suppression keeps, best first; invalid rows hold index 0."""

    index: Int[Array, "*batch kept"]
    valid: Bool[Array, "*batch kept"]


class Detections(NamedTuple):
    """The detections of one image, best first; invalid rows hold zeros and label -1."""

    boxes: Float[Array, "*batch kept 4"]
    scores: Float[Array, "*batch kept"]
    labels: Int[Array, "*batch kept"]
    valid: Bool[Array, "*batch kept"]


def nms(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    threshold: float | Float[Array, ""],
    max_kept: int,
    valid: Bool[Array, " boxes"] | None = None,
    labels: Int[Array, " boxes"] | None = None,
    offset: float = 0.0,
) -> Kept:
    """Run greedy non-maximum suppression on the boxes of one image.

    Args:
        boxes: the boxes. Coordinates may be negative; boxes without area overlap nothing.
        scores: the scores. Among equal scores, the first box wins. A box with a score of NaN or
            minus infinity is never kept.
        threshold: a box is dropped if its IoU with a kept box is strictly larger.
        max_kept: the number of rows of the result; the loop ends when they are full.
        valid: False for padding; all boxes are valid by default.
        labels: if given, boxes of different labels do not suppress each other.
        offset: see `cnn_jax.ops.boxes`; 1 in Caffe's and R-CNN's own versions.

    Returns:
        The indices of boxes, which have no gradient.
    """
    boxes, scores, threshold = lax.stop_gradient((boxes, scores, threshold))
    candidates = scores > -jnp.inf
    if valid is not None:
        candidates &= valid

    def unfinished(state):
        count, candidates, _ = state
        return (count < max_kept) & jnp.any(candidates)

    def keep_one(state):
        count, candidates, index = state
        best = jnp.argmax(jnp.where(candidates, scores, -jnp.inf))
        dropped = box_ops.iou(boxes[best][None], boxes, offset)[0] > threshold
        if labels is not None:
            dropped &= labels == labels[best]
        candidates = (candidates & ~dropped).at[best].set(False)
        return count + 1, candidates, index.at[count].set(best.astype(jnp.int32))

    start = jnp.zeros((), jnp.int32), candidates, jnp.zeros(max_kept, jnp.int32)
    count, _, index = lax.while_loop(unfinished, keep_one, start)
    return Kept(index, jnp.arange(max_kept) < count)


def detect(
    boxes: Float[Array, "boxes 4"] | Float[Array, "boxes classes 4"],
    scores: Float[Array, "boxes classes"],
    *,
    threshold: float,
    min_score: float,
    max_per_class: int,
    max_detections: int,
    valid: Bool[Array, " boxes"] | None = None,
    offset: float = 0.0,
) -> Detections:
    """Turn a detector's scores into detections: suppress within each class, keep the best overall.

    Args:
        boxes: one box for all classes, or one for each class.
        scores: the score of every box for every class, without the background.
        threshold: see `nms`.
        min_score: the least score of a detection.
        max_per_class: the largest number of detections of one class.
        max_detections: the largest number of detections in the image; the rows of the result.
        valid: False for padding.
        offset: see `nms`.

    Returns:
        Detections, differentiable in boxes and scores; equal scores are in order of class.
    """
    num_classes = scores.shape[1]
    legal = scores >= min_score
    if valid is not None:
        legal &= valid[:, None]

    def one_class(boxes, scores, legal):
        kept = nms(boxes, scores, threshold, max_per_class, legal, offset=offset)
        rows = jnp.where(kept.valid, scores[kept.index], -jnp.inf)
        return boxes[kept.index], rows

    in_axes = (None if boxes.ndim == 2 else 1, 1, 1)
    by_class = jax.vmap(one_class, in_axes)(boxes, scores, legal)
    candidate_boxes, candidate_scores = (x.reshape(-1, *x.shape[2:]) for x in by_class)
    count = min(max_detections, candidate_scores.shape[0])
    best_scores, best = lax.top_k(candidate_scores, count)
    is_detection = best_scores > -jnp.inf
    labels = jnp.repeat(jnp.arange(num_classes, dtype=jnp.int32), max_per_class)
    rows = Detections(
        boxes=jnp.where(is_detection[:, None], candidate_boxes[best], 0.0),
        scores=jnp.where(is_detection, best_scores, 0.0),
        labels=jnp.where(is_detection, labels[best], -1),
        valid=is_detection,
    )
    padding = Detections(0, 0, -1, False)
    missing = max_detections - count
    return Detections(
        *(
            jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)), constant_values=value)
            for x, value in zip(rows, padding, strict=True)
        )
    )
