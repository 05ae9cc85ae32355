"""Average precision as PASCAL VOC has it, in its two forms, and the curves it is the area of."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

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
    """VOC's rule: each detection is held against the object that it overlaps most, and no other.

    Args:
        overlaps: of detections in falling order of score; -1 where a pair must not match.
        threshold: the overlap that a match exceeds.
        ignored: objects, difficult ones, that any number of detections may match.
        strict: whether an overlap of exactly the threshold is too little.

    Returns:
        The object that each detection finds, -1 for none; and whether it is the first to do so (of
        ignored objects always).
    """
    best = jnp.argmax(overlaps, axis=1).astype(jnp.int32)
    highest = jnp.max(overlaps, axis=1)
    hit = highest > threshold if strict else highest >= threshold
    claims = hit[:, None] & (best[:, None] == jnp.arange(overlaps.shape[1])[None])
    first = jnp.argmax(claims, axis=0)[best] == jnp.arange(overlaps.shape[0])
    return jnp.where(hit, best, -1), hit & (first | ignored[best])


@dataclass(frozen=True)
class Curve:
    """What precision and recall become as detections are accepted one after another, best first.

    Attributes:
        recall, precision, scores: one entry for each detection that counts.
        objects: how many there are to find.
    """

    recall: Float[np.ndarray, " detections"]
    precision: Float[np.ndarray, " detections"]
    scores: Float[np.ndarray, " detections"]
    objects: int

    def average_precision(self, interpolation: Interpolation = "all") -> float:
        """The area below the curve; nan where there is nothing to find, 0 if nothing is found.

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
    """The area below a precision-recall curve, whose recall never falls (see `Curve`).

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


@dataclass(frozen=True)
class VocResult:
    """The curves of the classes, by label."""

    curves: tuple[Curve, ...]

    def by_class(self, interpolation: Interpolation = "all") -> Float[np.ndarray, " classes"]:
        """Average precision of every class; nan for a class without objects to find."""
        return np.array([curve.average_precision(interpolation) for curve in self.curves])

    def mean(self, interpolation: Interpolation = "all") -> float:
        """Mean over the classes that have objects; nan if none has."""
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
    """Precision-recall curves of all classes over a set.

    Difficult objects (`objects.ignored`) need not be found, and what finds them does not count. A
    second detection of an object is wrong. Detections with equal scores rank as they are given.

    Args:
        detections, objects: those of all images.
        num_classes: number of classes.
        threshold: the IoU that a match exceeds.
        offset: 1 counts pixels, as VOC's own evaluation does (see `cnn_jax.ops.boxes`).
        strict: whether an IoU of exactly the threshold is too little, as in VOC's own.
    """
    found, first, order = voc_matches(detections, objects, threshold, offset, strict)
    ignored = objects.is_ignored()
    counts = ~ignored[found] | (found < 0) if len(ignored) else np.ones(len(order), bool)
    ordered = detections[order]
    curves = []
    for label in range(num_classes):
        own = (ordered.labels == label) & counts
        total = int(np.sum((objects.labels == label) & ~ignored))
        # Back to the given order first: it decides between equal scores.
        own = np.flatnonzero(own)[np.argsort(order[own])]
        own = own[np.argsort(-ordered.scores[own].astype(np.float64), kind="stable")]
        right = np.cumsum(first[own])
        curves.append(
            Curve(
                recall=right / total if total else np.full(len(own), np.nan),
                precision=right / np.arange(1, len(own) + 1),
                scores=ordered.scores[own].astype(np.float64),
                objects=total,
            )
        )
    return VocResult(tuple(curves))


def voc_matches(
    detections: DetectionRows,
    objects: ObjectRows,
    threshold: float = 0.5,
    offset: float = 0.0,
    strict: bool = True,
) -> tuple[
    Int[np.ndarray, " detections"], Bool[np.ndarray, " detections"], Int[np.ndarray, " detections"]
]:
    """Matches the detections of a set, each class of each image on its own.

    Returns:
        In an order of the detections: the row of the object that each finds (-1: none), whether it
        is the first to find it, and that order itself.
    """
    groups, object_groups = class_groups(detections, objects)
    order, _ = by_falling_score(detections, groups)
    object_order = np.argsort(object_groups, kind="stable")
    matches = in_groups(
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
    return matches[:, 0], matches[:, 1] > 0, order


@partial(jax.jit, static_argnames=("offset", "strict"))
def _match_groups(
    detections: dict[str, Array],
    objects: dict[str, Array],
    threshold: Any,
    offset: float,
    strict: bool,
) -> Int[Array, "groups detections 2"]:
    """The row of the object that each detection finds, and whether it is the first."""

    def one_group(detections, objects):
        overlaps = box_ops.iou(detections["boxes"], objects["boxes"], offset)
        pairs = detections["valid"][:, None] & objects["valid"][None]
        overlaps = jnp.where(pairs, overlaps, -1.0)
        found, first = best_matches(overlaps, threshold, objects["ignored"], strict)
        row = jnp.where(found >= 0, objects["row"][found], -1)
        return jnp.stack([row, first.astype(row.dtype)], axis=1)

    return jax.vmap(one_group)(detections, objects)
