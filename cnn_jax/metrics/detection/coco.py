"""COCO's evaluation of boxes: its twelve numbers, without its compiled code.

The rules are those of pycocotools, down to ties: thresholds of IoU from .5 to .95, 101 points of
recall, at most 1, 10 or 100 detections of a class in an image, objects small, medium and large by
area, crowds that may be detected any number of times and need not be. A detection that misses
objects of the size in question counts against it only if it is of that size itself.

Two of its flaws are not reproduced: an annotation with id 0 is an object here like any other, and
the number of detections is never anything but what is asked for.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.metrics.detection.counts import greedy_matches
from cnn_jax.metrics.detection.rows import (
    DetectionRows,
    ObjectRows,
    box_areas,
    by_falling_score,
    class_groups,
    in_groups,
)
from cnn_jax.ops import boxes as box_ops

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Areas of objects in pixels, both ends included."""
MAX_DETECTIONS = (1, 10, 100)
"""Numbers of detections of a class in an image that count."""


@dataclass(frozen=True)
class CocoResult:
    """Precisions and recalls, -1 where there is no object to find.

    Attributes:
        precision: at every threshold, recall, class, area and number of detections, the best one
            at that recall or a higher one.
        recall: at every threshold, class, area and number, the one that all detections reach.
    """

    precision: Float[np.ndarray, "thresholds recalls classes areas numbers"]
    recall: Float[np.ndarray, "thresholds classes areas numbers"]

    def summary(self) -> dict[str, float]:
        """Average to the twelve numbers, in COCO's order; -1 where there is no object to find."""
        fifty, seventy_five = (int(np.argmin(np.abs(THRESHOLDS - t))) for t in (0.5, 0.75))
        small, medium, large = (list(AREAS).index(name) for name in ("small", "medium", "large"))
        return {
            "coco_ap": _mean(self.precision[..., 0, -1]),
            "coco_ap50": _mean(self.precision[fifty, ..., 0, -1]),
            "coco_ap75": _mean(self.precision[seventy_five, ..., 0, -1]),
            "coco_ap_small": _mean(self.precision[..., small, -1]),
            "coco_ap_medium": _mean(self.precision[..., medium, -1]),
            "coco_ap_large": _mean(self.precision[..., large, -1]),
            "coco_ar1": _mean(self.recall[..., 0, 0]),
            "coco_ar10": _mean(self.recall[..., 0, 1]),
            "coco_ar100": _mean(self.recall[..., 0, 2]),
            "coco_ar_small": _mean(self.recall[..., small, -1]),
            "coco_ar_medium": _mean(self.recall[..., medium, -1]),
            "coco_ar_large": _mean(self.recall[..., large, -1]),
        }

    def by_class(self, threshold: float | None = None) -> Float[np.ndarray, " classes"]:
        """Average to the AP of every class; nan for a class without objects to find.

        Args:
            threshold: the least IoU of a match, one of `THRESHOLDS`; None averages over all.
        """
        chosen = self.precision[..., 0, -1]
        if threshold is not None:
            chosen = chosen[np.argmin(np.abs(THRESHOLDS - threshold))][None]
        values = chosen.mean(axis=(0, 1))
        return np.where(values < 0, np.nan, values)


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if len(present) else -1.0


def evaluate_coco(detections: DetectionRows, objects: ObjectRows, num_classes: int) -> CocoResult:
    """Evaluate the detections of a set by COCO's rules.

    Args:
        detections: those of all images. Detections with equal scores rank by image, and then as
            they are given.
        objects: those of all images, in the given order where it decides; `ignored` marks crowds.
        num_classes: number of classes.
    """
    groups, object_groups = class_groups(detections, objects)
    order, rank = by_falling_score(detections, groups)
    kept = rank < MAX_DETECTIONS[-1]
    order, rank = order[kept], rank[kept]
    ordered = detections[order]
    object_order = np.argsort(object_groups, kind="stable")
    crowd, areas = objects.is_ignored(), objects.areas()
    outside = np.stack([(areas < low) | (areas > high) for low, high in AREAS.values()], axis=1)
    ignored = outside | crowd[:, None]

    status = in_groups(
        _match_groups,
        {"boxes": ordered.boxes.astype(np.float64)},
        {
            "boxes": objects.boxes[object_order].astype(np.float64),
            "ignored": ignored[object_order],
            "crowd": crowd[object_order],
        },
        groups[order],
        object_groups[object_order],
        missing=_MISSES,
    )
    own_areas = box_areas(ordered.boxes)[:, None]
    wrong_size = np.concatenate(
        [(own_areas < low) | (own_areas > high) for low, high in AREAS.values()], axis=1
    )
    status = np.where((status == _MISSES) & wrong_size[..., None], _IGNORED, status)

    shape = len(AREAS), len(MAX_DETECTIONS)
    precision = np.full((len(THRESHOLDS), len(RECALLS), num_classes, *shape), -1.0)
    recall = np.full((len(THRESHOLDS), num_classes, *shape), -1.0)
    by_score = np.argsort(-ordered.scores.astype(np.float64), kind="stable")
    by_class = by_score[np.argsort(ordered.labels[by_score], kind="stable")]
    edges = np.searchsorted(ordered.labels[by_class], np.arange(num_classes + 1))
    for label in range(num_classes):
        wanted = np.sum(~ignored[objects.labels == label], axis=0)
        own = by_class[edges[label] : edges[label + 1]]
        for number, most in enumerate(MAX_DETECTIONS):
            accepted = own[rank[own] < most]
            for area in np.flatnonzero(wanted):
                curves = _curves(status[accepted, area].T, int(wanted[area]))
                precision[:, :, label, area, number], recall[:, label, area, number] = curves
    return CocoResult(precision, recall)


# The kinds of detections at one area and threshold.
_MISSES, _FINDS, _IGNORED = 0, 1, 2


@jax.jit
def _match_groups(
    detections: dict[str, Array], objects: dict[str, Array]
) -> Int[Array, "groups detections areas thresholds"]:
    """Determine the kind of each detection of each group: `_FINDS`, `_MISSES` or `_IGNORED`."""

    def one_group(detections, objects):
        boxes, others = detections["boxes"], objects["boxes"]
        overlaps = jnp.where(
            objects["crowd"][None],
            box_ops.intersection_over_area(boxes, others),
            box_ops.iou(boxes, others),
        )
        pairs = detections["valid"][:, None] & objects["valid"][None]
        overlaps = jnp.where(pairs, overlaps, -1.0)

        def match(ignored: Bool[Array, " objects"], threshold: Float[Array, ""]):
            index = greedy_matches(overlaps, threshold, ignored, objects["crowd"])
            status = jnp.where(ignored[index], _IGNORED, _FINDS)
            return jnp.where(index >= 0, status, _MISSES).astype(jnp.int8)

        over_thresholds = jax.vmap(match, (None, 0), out_axes=1)
        over_areas = jax.vmap(over_thresholds, (1, None), out_axes=1)
        return over_areas(objects["ignored"], jnp.asarray(THRESHOLDS))

    return jax.vmap(one_group)(detections, objects)


def _curves(
    status: Int[np.ndarray, "thresholds detections"], wanted: int
) -> tuple[Float[np.ndarray, "thresholds recalls"], Float[np.ndarray, " thresholds"]]:
    """Compute precision at the points of recall, and the final recall, of ranked detections."""
    right = np.cumsum(status == _FINDS, axis=1, dtype=np.float64)
    wrong = np.cumsum(status == _MISSES, axis=1, dtype=np.float64)
    recall = right / wanted
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Recalls that are never reached have precision 0.
    envelope = np.pad(envelope, ((0, 0), (0, 1)))
    places = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])
    final = recall[:, -1] if status.shape[1] else np.zeros(len(status))
    return np.take_along_axis(envelope, places, axis=1), final
