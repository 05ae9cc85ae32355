"""PASCAL VOC's average precision in its two forms, and the precision-recall curves below it."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.metrics.detection.rows import (
    DetectionRows,
    ObjectRows,
    by_falling_score,
    class_groups,
    in_groups,
)
from cnn_jax.ops import boxes as box_ops

Interpolation = Literal["all", "11point"]


def best_matches(
    overlaps: Float[Array, "detections objects"],
    threshold: float | Float[Array, ""],
    ignored: Bool[Array, " objects"],
    strict: bool = True,
) -> tuple[Int[Array, " detections"], Bool[Array, " detections"]]:
    """Compare each detection with the object that it overlaps most, and no other: VOC's rule.

    Args:
        overlaps: of detections in falling order of score; -1 where a pair must not match.
        threshold: the overlap that a match exceeds.
        ignored: objects, difficult ones, that any number of detections may match.
        strict: an overlap of exactly the threshold is too little.

    Returns:
        The object that each detection finds, -1 for none; and whether it is the first to do so (of
        ignored objects always).
    """
    best = jnp.argmax(overlaps, axis=1).astype(jnp.int32)
    highest = jnp.max(overlaps, axis=1)
    hit = highest > threshold if strict else highest >= threshold
    claims = hit[:, None] & (best[:, None] == jnp.arange(overlaps.shape[1], dtype=best.dtype)[None])
    first = jnp.argmax(claims, axis=0)[best] == jnp.arange(overlaps.shape[0])
    return jnp.where(hit, best, -1), hit & (first | ignored[best])


@dataclass(frozen=True)
class Curve:
    """Precision and recall as detections are accepted one after another, best first.

    Attributes:
        recall, precision, scores: one entry for each detection that counts.
        objects: the number of objects to find.
    """

    recall: Float[np.ndarray, " detections"]
    precision: Float[np.ndarray, " detections"]
    scores: Float[np.ndarray, " detections"]
    objects: int

    def average_precision(self, interpolation: Interpolation = "all") -> float:
        """Compute the area below the curve; nan without objects, 0 if none is found.

        Args:
            interpolation: `all`, over all changes of recall (VOC from 2010 on), or `11point`, the
                mean of the best precisions at recalls of at least 0, 0.1, ..., 1 (VOC until 2009).
        """
        if self.objects == 0:
            return float("nan")
        return average_precision(self.recall, self.precision, interpolation)


def average_precision(
    recall: Float[np.ndarray, " detections"],
    precision: Float[np.ndarray, " detections"],
    interpolation: Interpolation = "all",
) -> float:
    """Compute the area below a precision-recall curve, whose recall never falls (see `Curve`).

    References:
        Everingham et al., `The PASCAL Visual Object Classes (VOC) Challenge
        <https://doi.org/10.1007/s11263-009-0275-4>`_, 2010, section 4.2
    """
    if len(recall) == 0:
        return 0.0
    # The best precision at each recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "11point":
        # The thresholds of VOC's own code: 0.3 is a little more than three tenths there.
        place = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1))
        return float(np.append(envelope, 0.0)[place].mean())
    steps = np.diff(recall, prepend=0.0)
    return float(np.sum(steps * envelope))


class VocMatches(NamedTuple):
    """The match of each detection of a set, in the given order of the detections.

    Attributes:
        index: the row of the object that the detection finds, -1 for none.
        first: whether it is the first, by score, to find it; true for every match of an object to
            be ignored.
    """

    index: Int[np.ndarray, " detections"]
    first: Bool[np.ndarray, " detections"]

    def ignored(self, objects: ObjectRows) -> Bool[np.ndarray, " detections"]:
        """Mark the detections that find an object to be ignored."""
        is_ignored = np.append(objects.is_ignored(), False)  # The last stands for no object.
        return is_ignored[self.index]


@dataclass(frozen=True)
class VocResult:
    """The outcome of VOC's evaluation.

    Attributes:
        curves: those of the classes, by label.
        matches: those that the curves were counted from.
    """

    curves: tuple[Curve, ...]
    matches: VocMatches

    def by_class(self, interpolation: Interpolation = "all") -> Float[np.ndarray, " classes"]:
        """Compute the average precision of every class; nan for a class without objects to find."""
        return np.array([curve.average_precision(interpolation) for curve in self.curves])

    def mean(self, interpolation: Interpolation = "all") -> float:
        """Average over the classes that have objects; nan if none has."""
        values = self.by_class(interpolation)
        present = values[~np.isnan(values)]
        return float(present.mean()) if len(present) else float("nan")


def evaluate_voc(
    detections: DetectionRows,
    objects: ObjectRows,
    num_classes: int,
    *,
    threshold: float = 0.5,
    offset: float = 0.0,
    strict: bool = True,
) -> VocResult:
    """Compute the precision-recall curves of all classes over a set.

    Difficult objects (`objects.ignored`) need not be found, and detections of them do not count. A
    second detection of an object is wrong. Detections with equal scores rank as they are given.

    Args:
        detections, objects: those of all images.
        num_classes: number of classes.
        threshold: the IoU that a match exceeds.
        offset: 1 counts pixels, as VOC's own evaluation does (see `cnn_jax.ops.boxes`).
        strict: an IoU of exactly the threshold is too little, as in VOC's own.
    """
    matches = voc_matches(detections, objects, threshold, offset, strict)
    counts, wanted = ~matches.ignored(objects), ~objects.is_ignored()
    scores = detections.scores.astype(np.float64)
    curves = []
    for label in range(num_classes):
        own = np.flatnonzero((detections.labels == label) & counts)
        own = own[np.argsort(-scores[own], kind="stable")]
        total = int(np.sum((objects.labels == label) & wanted))
        right = np.cumsum(matches.first[own])
        curves.append(
            Curve(
                recall=right / total if total else np.full(len(own), np.nan),
                precision=right / np.arange(1, len(own) + 1),
                scores=scores[own],
                objects=total,
            )
        )
    return VocResult(tuple(curves), matches)


def voc_matches(
    detections: DetectionRows,
    objects: ObjectRows,
    threshold: float = 0.5,
    offset: float = 0.0,
    strict: bool = True,
) -> VocMatches:
    """Match the detections of a set, each class of each image on its own (see `evaluate_voc`)."""
    groups, object_groups = class_groups(detections, objects)
    order, _ = by_falling_score(detections, groups)
    object_order = np.argsort(object_groups, kind="stable")
    ordered = in_groups(
        partial(_match_groups, threshold=threshold, offset=offset, strict=strict),
        {"boxes": detections.boxes[order].astype(np.float64)},
        {
            "boxes": objects.boxes[object_order].astype(np.float64),
            "ignored": objects.is_ignored()[object_order],
            "row": object_order,
        },
        groups[order],
        object_groups[object_order],
        missing=-1,
    )
    matches = np.empty_like(ordered)
    matches[order] = ordered
    return VocMatches(matches[:, 0], matches[:, 1] > 0)


@partial(jax.jit, static_argnames=("offset", "strict"))
def _match_groups(
    detections: dict[str, Array],
    objects: dict[str, Array],
    threshold: Any,
    offset: float,
    strict: bool,
) -> Int[Array, "groups detections 2"]:
    """Find the row of the object that each detection matches, and whether it is the first."""

    def one_group(detections, objects):
        overlaps = box_ops.iou(detections["boxes"], objects["boxes"], offset)
        pairs = detections["valid"][:, None] & objects["valid"][None]
        overlaps = jnp.where(pairs, overlaps, -1.0)
        index, first = best_matches(overlaps, threshold, objects["ignored"], strict)
        row = jnp.where(index >= 0, objects["row"][index], -1)
        return jnp.stack([row, first.astype(row.dtype)], axis=1)

    return jax.vmap(one_group)(detections, objects)
