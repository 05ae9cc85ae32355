"""Segmentation metrics: from one confusion matrix over all pixels, and along boundaries.

The confusion matrix is `cnn_jax.metrics.classification.confusion_matrix` of an image's pixels,
added over the whole set: not a mean of images' figures. Ignored pixels count nowhere in it.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.conventions import IGNORED
from cnn_jax.metrics.classification import mean_class_accuracy, per_class_accuracy

__all__ = [
    "BOUNDARY_TOLERANCE",
    "ClassPixels",
    "boundary_f1",
    "class_boundaries",
    "class_pixels",
    "intersection_over_union",
    "mean_class_accuracy",
    "mean_iou",
    "per_class_accuracy",
    "pixel_accuracy",
]

BOUNDARY_TOLERANCE = 0.0075
"""How far apart matching boundaries may lie, as a share of the image's diagonal."""


def pixel_accuracy(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Compute the share of pixels with the right class (SegNet's global accuracy); nan if none."""
    pixels = int(confusion.sum())
    return float(np.trace(confusion)) / pixels if pixels else float("nan")


def intersection_over_union(
    confusion: Int[np.ndarray, "classes classes"],
) -> Float[np.ndarray, " classes"]:
    """Compute each class's intersection of truth and prediction over their union.

    It is nan for a class that is absent, neither in the truth nor predicted anywhere, and 0 for
    one that is predicted but not in the truth.
    """
    intersection = np.diagonal(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return np.divide(intersection, union, out=np.full(len(confusion), np.nan), where=union > 0)


def mean_iou(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Average :func:`intersection_over_union` over the classes not absent; nan if all are."""
    values = intersection_over_union(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


class ClassPixels(NamedTuple):
    """Numbers of pixels of each class in one image; those ignored in the mask do not count."""

    right: Int[Array | np.ndarray, "*batch classes"]
    predicted: Int[Array | np.ndarray, "*batch classes"]
    true: Int[Array | np.ndarray, "*batch classes"]


def class_pixels(
    prediction: Int[Array, "height width"], mask: Int[Array, "height width"], num_classes: int
) -> ClassPixels:
    """Count the pixels of one image that are rightly predicted, predicted and true, by class."""
    counted = mask != IGNORED

    def count(labels: Array, chosen: Array) -> Array:
        places = jnp.where(chosen, labels, num_classes).ravel()
        return jnp.zeros(num_classes, jnp.int32).at[places].add(1, mode="drop")

    return ClassPixels(
        right=count(mask, counted & (mask == prediction)),
        predicted=count(prediction, counted),
        true=count(mask, counted),
    )


def boundary_f1(
    prediction: Int[Array, "height width"],
    mask: Int[Array, "height width"],
    num_classes: int,
    tolerance: float | None = None,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Compute the F1 of one image's boundaries per class, averaged over its classes.

    Precision is the share of a class's predicted boundary that lies within the tolerance of the
    true one, recall the share of the true one within the tolerance of the predicted one. Pixels
    that are ignored in the mask are left out of both, and make no boundary.

    Args:
        prediction: the predicted class of every pixel.
        mask: the true one, or `IGNORED`.
        num_classes: number of classes.
        tolerance: in pixels, between pixels' centres; `BOUNDARY_TOLERANCE` of the diagonal if None.

    Returns:
        The mean over the classes in the mask, and whether there is one. A class has 0 where its
        boundary is in only one of the two, and 1 where it is in neither (it fills the image).

    References:
        Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013
    """
    if tolerance is None:
        tolerance = BOUNDARY_TOLERANCE * math.hypot(*mask.shape)
    prediction = jnp.where(mask == IGNORED, IGNORED, prediction)
    true, predicted = (class_boundaries(labels, num_classes) for labels in (mask, prediction))
    precision, in_prediction = _share(predicted, _dilated(true, tolerance))
    recall, in_truth = _share(true, _dilated(predicted, tolerance))
    f1 = 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)
    f1 = jnp.where(in_prediction | in_truth, f1, 1.0)
    classes = jnp.arange(num_classes)[:, None, None]
    present = jnp.any(mask[None] == jnp.broadcast_to(classes, (num_classes, 1, 1)), axis=(1, 2))
    count = jnp.sum(present, dtype=f1.dtype)
    return jnp.sum(f1, where=present) / jnp.maximum(count, 1), jnp.any(present)


def class_boundaries(
    labels: Int[Array, "height width"], num_classes: int
) -> Bool[Array, "{num_classes} height width"]:
    """Mark the pixels of each class that have one of another class above, below, left or right."""
    height, width = labels.shape
    padded = jnp.pad(labels, 1, constant_values=IGNORED)
    edge = jnp.zeros(labels.shape, bool)
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        neighbour = padded[row : row + height, column : column + width]
        edge |= (neighbour != labels) & (neighbour != IGNORED)
    classes = jnp.arange(num_classes)[:, None, None]
    shape = (num_classes, height, width)
    own = jnp.broadcast_to(labels[None], shape) == jnp.broadcast_to(classes, shape)
    return own & jnp.broadcast_to(edge[None], shape)


def _share(
    boundary: Bool[Array, "classes height width"], near: Bool[Array, "classes height width"]
) -> tuple[Float[Array, " classes"], Bool[Array, " classes"]]:
    """The share of each class's boundary that is near, and whether it has one."""
    pixels = jnp.sum(boundary, axis=(1, 2))
    return jnp.sum(boundary & near, axis=(1, 2)) / jnp.maximum(pixels, 1), pixels > 0


def _dilated(
    maps: Bool[Array, "classes height width"], radius: float
) -> Bool[Array, "classes height width"]:
    """Pixels whose centres lie within `radius` of a true one: a disc, one row of it at a time."""
    reach = int(radius)
    height, width = maps.shape[1:]
    rows = jnp.pad(maps, ((0, 0), (reach, reach), (0, 0)))
    padded = jnp.pad(rows, ((0, 0), (0, 0), (reach, reach)))
    result = jnp.zeros(maps.shape, bool)
    # `rows` is dilated by one more column each time; the disc's rows want ever longer ones.
    half = 0
    for offset in range(reach, -1, -1):
        wanted = int(math.sqrt(radius**2 - offset**2))
        for half in range(half + 1, wanted + 1):  # noqa: B020 (it goes on from where it stopped)
            for column in (reach - half, reach + half):
                rows |= padded[:, :, column : column + width]
        for row in {reach - offset, reach + offset}:
            result |= rows[:, row : row + height]
    return result
