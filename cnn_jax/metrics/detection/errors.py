"""The kinds of a detector's mistakes, and the score at which it counts objects best."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows, by_falling_score, in_groups
from cnn_jax.metrics.detection.voc import VocMatches
from cnn_jax.ops import boxes as box_ops

KINDS = ("correct", "localization", "similar", "other", "background")
"""The kinds of detections, in the order of the columns of `error_kinds`."""


def error_kinds(
    detections: DetectionRows,
    objects: ObjectRows,
    matches: VocMatches,
    num_classes: int,
    similar: Sequence[Sequence[int]] = (),
) -> Int[np.ndarray, "classes 5"]:
    """Count the best detections of each class by kind.

    This is the analysis of Hoiem et al. 2012, as Redmon et al. 2016 (section 4.2) use it: of each
    class the best detections are looked at, as many as it has objects.

    - correct: the right class, IoU above .5, the first one on its object;
    - localization: the right class, IoU above .1, too little or an object that is taken;
    - similar: IoU above .1 with an object of a similar class;
    - other: IoU above .1 with an object of any other class;
    - background: the rest.

    Detections of objects to be ignored are passed over, the next best taken instead.

    Args:
        detections, objects: those of all images.
        matches: VOC's, of these detections and objects.
        num_classes: number of classes.
        similar: sets of labels that are taken for similar, such as animals and vehicles.

    References:
        Hoiem, Chodpathumwan and Dai, `Diagnosing Error in Object Detectors
        <https://doi.org/10.1007/978-3-642-33712-3_25>`_, 2012
    """
    alike = np.zeros((num_classes, num_classes), bool)
    for labels in similar:
        alike[np.ix_(labels, labels)] = True
    forgiven, wanted = matches.ignored(objects), ~objects.is_ignored()
    by_image, _ = by_falling_score(detections, detections.image)
    object_order = np.argsort(objects.image, kind="stable")
    overlaps = np.zeros((len(detections), 3))
    overlaps[by_image] = in_groups(
        _best_overlaps,
        {
            "boxes": detections.boxes[by_image].astype(np.float64),
            "labels": detections.labels[by_image],
            "alike": alike[detections.labels[by_image]],
        },
        {
            "boxes": objects.boxes[object_order].astype(np.float64),
            "labels": objects.labels[object_order],
        },
        detections.image[by_image],
        objects.image[object_order],
        missing=0.0,
    )
    own_class, similar_class, any_class = overlaps.T > 0.1
    kind = np.select([matches.first, own_class, similar_class, any_class], [0, 1, 2, 3], default=4)
    counts = np.zeros((num_classes, len(KINDS)), np.int64)
    for label in range(num_classes):
        own = np.flatnonzero((detections.labels == label) & ~forgiven)
        best = own[np.argsort(-detections.scores[own].astype(np.float64), kind="stable")]
        total = int(np.sum((objects.labels == label) & wanted))
        counts[label] = np.bincount(kind[best[:total]], minlength=len(KINDS))
    return counts


@jax.jit
def _best_overlaps(
    detections: dict[str, Array], objects: dict[str, Array]
) -> Float[Array, "groups detections 3"]:
    """Compute each detection's highest IoU with objects of its class, of similar ones, of any."""

    def one_image(detections, objects):
        overlaps = box_ops.iou(detections["boxes"], objects["boxes"])
        overlaps = jnp.where(objects["valid"][None], overlaps, 0.0)
        own = detections["labels"][:, None] == objects["labels"][None]
        similar = detections["alike"][:, objects["labels"]]
        return jnp.stack(
            [jnp.max(jnp.where(pairs, overlaps, 0.0), axis=1) for pairs in (own, similar, True)],
            axis=1,
        )

    return jax.vmap(one_image)(detections, objects)


class CountThreshold(NamedTuple):
    """The score from which on detections are counted, and the error at that score."""

    score: float
    mean_absolute_error: float


def best_count_threshold(
    detections: DetectionRows,
    objects: ObjectRows,
    images: Int[np.ndarray, " images"],
    num_classes: int,
    candidates: Sequence[float] = tuple(i / 20 for i in range(1, 20)),
) -> CountThreshold:
    """Choose the score at which the number of objects of a class in an image is least wrong.

    It is to be chosen on validation data, never on the data that is reported.

    Args:
        detections, objects: those of all images; objects to be ignored are not counted.
        images: the numbers of all images, those without objects and detections too.
        num_classes: number of classes.
        candidates: the scores to choose from; of equally good ones the highest is taken.
    """
    wanted = ~objects.is_ignored()
    truth = _counts(images, objects.image[wanted], objects.labels[wanted], num_classes)

    def error(score: float) -> float:
        kept = detections.scores >= score
        counted = _counts(images, detections.image[kept], detections.labels[kept], num_classes)
        return float(np.abs(counted - truth).mean())

    errors = {score: error(score) for score in candidates}
    best = min(errors, key=lambda score: (errors[score], -score))
    return CountThreshold(best, errors[best])


def _counts(
    images: np.ndarray, image: np.ndarray, labels: np.ndarray, num_classes: int
) -> Int[np.ndarray, "images classes"]:
    ordered = np.sort(images)
    cells = np.searchsorted(ordered, image) * num_classes + labels
    return np.bincount(cells, minlength=len(ordered) * num_classes).reshape(-1, num_classes)
