"""Detection metrics: matches of detections and objects in one image, and the sums of them.

The functions of the first group are of one image, to be vmapped; their counts add. The second group
divides the sums once, on the host. Average precision needs every detection of a set at once and
lies in `voc` and `coco`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from cnn_jax.ops import boxes as box_ops


def greedy_matches(
    overlaps: Float[Array, "detections objects"],
    threshold: float | Float[Array, ""],
    ignored: Bool[Array, " objects"],
    crowd: Bool[Array, " objects"],
) -> Int[Array, " detections"]:
    """Match each detection with the best object of enough overlap that is still free.

    This is COCO's rule. Objects that are not ignored go before those that are, and of equal
    overlaps the later object is taken.

    Args:
        overlaps: of detections in falling order of score; -1 where a pair must not match.
        threshold: the least overlap that matches.
        ignored: objects that need not be found.
        crowd: objects that any number of detections may match.

    Returns:
        Indices of objects; -1 for a detection that finds none.
    """
    places = jnp.arange(overlaps.shape[1], dtype=jnp.int32)
    # A threshold of 1 allows for rounding, as in pycocotools.
    threshold = jnp.minimum(jnp.asarray(threshold, overlaps.dtype), 1 - 1e-10)

    def take(free, row):
        usable = (row >= threshold) & (free | crowd)
        wanted = usable & ~ignored
        pool = jnp.where(jnp.any(wanted), wanted, usable)
        best = jnp.max(jnp.where(pool, row, -1.0))
        index = jnp.max(jnp.where(pool & (row == best), places, -1))
        return free & (places != index), index

    return lax.scan(take, jnp.ones(overlaps.shape[1], bool), overlaps)[1]


def pair_overlaps(
    boxes: Float[Array, "detections 4"],
    labels: Int[Array, " detections"],
    valid: Bool[Array, " detections"],
    object_boxes: Float[Array, "objects 4"],
    object_labels: Int[Array, " objects"],
    object_valid: Bool[Array, " objects"],
    offset: float = 0.0,
) -> Float[Array, "detections objects"]:
    """Compute the IoU of one image's detections and objects; -1 for padding or other labels."""
    pairs = (labels[:, None] == object_labels[None]) & valid[:, None] & object_valid[None]
    return jnp.where(pairs, box_ops.iou(boxes, object_boxes, offset), -1.0)


class MatchCounts(NamedTuple):
    """Numbers of right and wrong detections and of objects, by class; they add over images."""

    true_positives: Num[Array | np.ndarray, "*batch classes"]
    false_positives: Num[Array | np.ndarray, "*batch classes"]
    objects: Num[Array | np.ndarray, "*batch classes"]


def match_counts(
    boxes: Float[Array, "detections 4"],
    labels: Int[Array, " detections"],
    scores: Float[Array, " detections"],
    valid: Bool[Array, " detections"],
    object_boxes: Float[Array, "objects 4"],
    object_labels: Int[Array, " objects"],
    object_valid: Bool[Array, " objects"],
    ignored: Bool[Array, " objects"],
    num_classes: int,
    *,
    threshold: float = 0.5,
    min_score: float = 0.0,
) -> MatchCounts:
    """Match one image's detections with its objects: enough overlap and the right label.

    Args:
        boxes, labels, scores, valid: the detections in any order.
        object_boxes, object_labels, object_valid: the objects.
        ignored: objects, difficult ones or crowds, that need not be found; a detection that finds
            one is neither right nor wrong.
        num_classes: number of classes.
        threshold: the least IoU.
        min_score: detections that score less are left out.
    """
    order = jnp.argsort(-scores)
    boxes, labels, scores, valid = (x[order] for x in (boxes, labels, scores, valid))
    valid &= scores >= min_score
    overlaps = pair_overlaps(boxes, labels, valid, object_boxes, object_labels, object_valid)
    index = greedy_matches(overlaps, threshold, ignored, jnp.zeros_like(ignored))
    right = index >= 0
    forgiven = right & ignored[jnp.maximum(index, 0)]
    return MatchCounts(
        true_positives=_count(labels, right & ~forgiven, num_classes),
        false_positives=_count(labels, valid & ~right, num_classes),
        objects=_count(object_labels, object_valid & ~ignored, num_classes),
    )


class CountErrors(NamedTuple):
    """Errors of the number of objects in an image, by class; they add over images."""

    images: Num[Array | np.ndarray, "*batch classes"]
    exact: Num[Array | np.ndarray, "*batch classes"]
    signed: Num[Array | np.ndarray, "*batch classes"]
    absolute: Num[Array | np.ndarray, "*batch classes"]
    squared: Num[Array | np.ndarray, "*batch classes"]


def count_errors(
    labels: Int[Array, " detections"],
    valid: Bool[Array, " detections"],
    object_labels: Int[Array, " objects"],
    object_valid: Bool[Array, " objects"],
    num_classes: int,
) -> CountErrors:
    """Compare the number of detections of each class in one image with that of objects.

    Args:
        labels: of the detections.
        valid: marks the detections that count, those above the chosen score.
        object_labels, object_valid: the objects to count.
        num_classes: number of classes.
    """
    counted = _count(labels, valid, num_classes)
    error = counted - _count(object_labels, object_valid, num_classes)
    return CountErrors(
        images=jnp.ones(num_classes, jnp.int32),
        exact=(error == 0).astype(jnp.int32),
        signed=error,
        absolute=jnp.abs(error),
        squared=error**2,
    )


def confusion_with_background(
    boxes: Float[Array, "detections 4"],
    labels: Int[Array, " detections"],
    valid: Bool[Array, " detections"],
    object_boxes: Float[Array, "objects 4"],
    object_labels: Int[Array, " objects"],
    object_valid: Bool[Array, " objects"],
    num_classes: int,
    threshold: float = 0.45,
) -> Int[Array, "{num_classes}+1 {num_classes}+1"]:
    """Count pairs of (true class, detected class) in one image, whatever the labels of a pair.

    Detections and objects are paired one to one, the largest overlaps first. Rows are the truth;
    the last row holds detections of nothing, the last column objects that are not detected.

    Args:
        boxes, labels, valid: the detections to count: those above a score.
        object_boxes, object_labels, object_valid: the objects.
        num_classes: number of classes.
        threshold: pairs overlap by more than this.
    """
    overlaps = box_ops.iou(boxes, object_boxes)
    overlaps = jnp.where(valid[:, None] & object_valid[None], overlaps, -1.0)
    detections, objects = overlaps.shape

    def pair_best(state, _):
        overlaps, partner = state
        row, column = jnp.divmod(jnp.argmax(overlaps), objects)
        pairs = overlaps[row, column] > threshold
        partner = partner.at[row].set(jnp.where(pairs, column, partner[row]))
        cleared = overlaps.at[row].set(-1.0).at[:, column].set(-1.0)
        return (jnp.where(pairs, cleared, overlaps), partner), None

    start = overlaps, jnp.full(detections, -1)
    (_, partner), _ = lax.scan(pair_best, start, length=min(detections, objects))
    paired = partner >= 0
    truth = jnp.where(paired, object_labels[jnp.maximum(partner, 0)], num_classes)
    missed = object_valid & ~jnp.any(partner[:, None] == jnp.arange(objects)[None], axis=0)
    side = num_classes + 1
    cells = jnp.concatenate(
        [
            jnp.where(valid, truth * side + labels, side * side),
            jnp.where(missed, object_labels * side + num_classes, side * side),
        ]
    )
    counts = jnp.zeros(side * side, jnp.int32).at[cells].add(1, mode="drop")
    return counts.reshape(side, side)


def _count(
    labels: Int[Array, " rows"], chosen: Bool[Array, " rows"], classes: int
) -> Int[Array, " {classes}"]:
    """Count the chosen rows of each label."""
    labels = jnp.where(chosen, labels, classes)
    return jnp.zeros(classes, jnp.int32).at[labels].add(1, mode="drop")


class PrecisionRecall(NamedTuple):
    """Shares of the detections that are right and of the objects found, by class or overall."""

    precision: Float[np.ndarray, "*classes"]
    recall: Float[np.ndarray, "*classes"]
    f1: Float[np.ndarray, "*classes"]


def precision_recall_by_class(sums: MatchCounts) -> PrecisionRecall:
    """Divide for every class; nan where nothing was detected, or there is nothing to detect."""
    right, wrong, objects = (np.asarray(leaf, np.float64) for leaf in sums)
    return PrecisionRecall(
        precision=_share(right, right + wrong),
        recall=_share(right, objects),
        f1=_share(2 * right, right + wrong + objects),
    )


def precision_recall(sums: MatchCounts) -> PrecisionRecall:
    """Divide over all classes together (micro average); nan as by class."""
    total = MatchCounts(*(np.asarray(leaf, np.float64).sum(keepdims=True) for leaf in sums))
    return PrecisionRecall(*(value[0] for value in precision_recall_by_class(total)))


class CountSummary(NamedTuple):
    """Mean errors of the number of objects in an image, by class, over a set of images."""

    mean_absolute_error: Float[np.ndarray, " classes"]
    root_mean_square_error: Float[np.ndarray, " classes"]
    bias: Float[np.ndarray, " classes"]
    exact: Float[np.ndarray, " classes"]


def count_summary(sums: CountErrors) -> CountSummary:
    """Average the errors by class: their size, their sign, and the share of exact counts."""
    images, exact, signed, absolute, squared = (np.asarray(leaf, np.float64) for leaf in sums)
    return CountSummary(
        mean_absolute_error=_share(absolute, images),
        root_mean_square_error=np.sqrt(_share(squared, images)),
        bias=_share(signed, images),
        exact=_share(exact, images),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
