"""Detections and objects of a whole set as rows, and functions of their groups, vmapped.

Average precision ranks all detections of a set, so all are kept as flat arrays, a row each,
without padding. Matching needs one image, or one class of an image, at a time: `in_groups` pads
groups of about the same size to the same shape and runs many of them side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cnn_jax.metrics.host import on_host

Columns = dict[str, np.ndarray]

# Padded sizes of groups grow by this factor: each size is compiled once.
_GROWTH = 4
_SMALLEST_DETECTIONS, _SMALLEST_OBJECTS = 8, 4

# The number of groups that run side by side, and the largest number of their pairs of boxes.
_MOST_GROUPS, _MOST_PAIRS = 1024, 2**20


@dataclass(frozen=True)
class DetectionRows:
    """Detections of a set, in any order.

    Attributes:
        image: the number of each one's image; numbers increase in the set's order.
        boxes, labels, scores: one row each.
    """

    image: Int[np.ndarray, " detections"]
    boxes: Float[np.ndarray, "detections 4"]
    labels: Int[np.ndarray, " detections"]
    scores: Float[np.ndarray, " detections"]

    @classmethod
    def from_padded(
        cls,
        image: Int[np.ndarray, " images"],
        boxes: Float[np.ndarray, "images rows 4"],
        labels: Int[np.ndarray, "images rows"],
        scores: Float[np.ndarray, "images rows"],
        valid: Bool[np.ndarray, "images rows"],
    ) -> "DetectionRows":
        """The valid rows of a batch of images."""
        images = np.broadcast_to(image[:, None], valid.shape)
        return cls(images[valid], boxes[valid], labels[valid], scores[valid])

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: Any) -> "DetectionRows":
        return DetectionRows(
            self.image[rows], self.boxes[rows], self.labels[rows], self.scores[rows]
        )


@dataclass(frozen=True)
class ObjectRows:
    """Objects of a set, in any order.

    Attributes:
        image: the number of each one's image, as in `DetectionRows`.
        boxes, labels: one row each.
        ignored: objects that need not be found: difficult ones in VOC, crowds in COCO.
        area: for COCO's sizes, in pixels: that of the object's outline where it is known; the
            boxes' areas by default.
    """

    image: Int[np.ndarray, " objects"]
    boxes: Float[np.ndarray, "objects 4"]
    labels: Int[np.ndarray, " objects"]
    ignored: Bool[np.ndarray, " objects"] | None = None
    area: Float[np.ndarray, " objects"] | None = None

    @classmethod
    def from_padded(
        cls,
        image: Int[np.ndarray, " images"],
        boxes: Float[np.ndarray, "images rows 4"],
        labels: Int[np.ndarray, "images rows"],
        valid: Bool[np.ndarray, "images rows"],
        ignored: Bool[np.ndarray, "images rows"] | None = None,
    ) -> "ObjectRows":
        """The valid rows of a batch of images."""
        images = np.broadcast_to(image[:, None], valid.shape)
        ignored = None if ignored is None else ignored[valid]
        return cls(images[valid], boxes[valid], labels[valid], ignored)

    def __len__(self) -> int:
        return len(self.image)

    def is_ignored(self) -> Bool[np.ndarray, " objects"]:
        """`ignored`, nothing by default."""
        return np.zeros(len(self), bool) if self.ignored is None else self.ignored

    def areas(self) -> Float[np.ndarray, " objects"]:
        """`area`, that of the boxes by default."""
        return box_areas(self.boxes) if self.area is None else self.area


def box_areas(boxes: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, " boxes"]:
    """Compute width times height in float64."""
    width, height = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).T
    return width * height


def class_groups(
    detections: DetectionRows, objects: ObjectRows
) -> tuple[Int[np.ndarray, " detections"], Int[np.ndarray, " objects"]]:
    """Number each (image, class), alike for detections and objects; returned in that order."""
    pairs = np.concatenate(
        [np.stack([rows.image, rows.labels], axis=1) for rows in (detections, objects)]
    )
    _, numbers = np.unique(pairs, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    return numbers[: len(detections)], numbers[len(detections) :]


def by_falling_score(
    detections: DetectionRows, groups: Int[np.ndarray, " detections"]
) -> tuple[Int[np.ndarray, " detections"], Int[np.ndarray, " detections"]]:
    """Order rows group by group, best first (equal scores as given), and rank them in a group."""
    order = np.lexsort((-detections.scores.astype(np.float64), groups))
    ordered = groups[order]
    return order, np.arange(len(order)) - np.searchsorted(ordered, ordered)


def in_groups(
    function: Callable[[dict[str, Any], dict[str, Any]], Any],
    detections: Columns,
    objects: Columns,
    detection_groups: Int[np.ndarray, " detections"],
    object_groups: Int[np.ndarray, " objects"],
    missing: int | float,
) -> np.ndarray:
    """Apply a function to every group of detections that has objects.

    It runs on the host in float64, so that borderline overlaps fall as they do in NumPy.

    Args:
        function: of padded groups side by side: columns [groups, rows, ...] of detections and of
            objects, each with `valid` besides; gives [groups, detections, ...]. Compiled: the same
            function object should come every time.
        detections: columns, their rows sorted by group.
        objects: columns, their rows sorted by group.
        detection_groups, object_groups: the group of each row, ascending.
        missing: the result in groups without objects.

    Returns:
        The results of all detections, in their order.
    """
    names, starts, counts = np.unique(detection_groups, return_index=True, return_counts=True)
    object_starts = np.searchsorted(object_groups, names)
    object_counts = np.searchsorted(object_groups, names, side="right") - object_starts
    shapes = np.stack(
        [_padded(counts, _SMALLEST_DETECTIONS), _padded(object_counts, _SMALLEST_OBJECTS)], axis=1
    )
    full = object_counts > 0
    result = None
    for rows, object_rows in np.unique(shapes[full], axis=0).tolist():
        members = np.flatnonzero(full & np.all(shapes == (rows, object_rows), axis=1))
        size = int(np.clip(_MOST_PAIRS // (rows * object_rows), 1, _MOST_GROUPS))
        for first in range(0, len(members), size):
            chosen = members[first : first + size]
            places, valid = _places(starts[chosen], counts[chosen], size, rows)
            values = on_host(
                function,
                _take(detections, places, valid),
                _take(
                    objects,
                    *_places(object_starts[chosen], object_counts[chosen], size, object_rows),
                ),
            )
            if result is None:
                shape = (len(detection_groups), *values.shape[2:])
                result = np.full(shape, missing, values.dtype)
            result[places[valid]] = values[valid]
    if result is None:
        # No group has an object; a group of padding tells the shape.
        nothing = np.zeros((1, 1), int), np.zeros((1, 1), bool)
        padding = (
            {name: np.zeros((1, *column.shape[1:]), column.dtype) for name, column in rows.items()}
            for rows in (detections, objects)
        )
        values = on_host(function, *(_take(rows, *nothing) for rows in padding))
        result = np.full((len(detection_groups), *values.shape[2:]), missing, values.dtype)
    return result


def _padded(counts: np.ndarray, smallest: int) -> np.ndarray:
    sizes = np.full_like(counts, smallest)
    while np.any(sizes < counts):
        sizes = np.where(sizes < counts, sizes * _GROWTH, sizes)
    return sizes


def _places(
    starts: np.ndarray, counts: np.ndarray, groups: int, rows: int
) -> tuple[Int[np.ndarray, "groups rows"], Bool[np.ndarray, "groups rows"]]:
    """Compute the places of the rows of padded groups, and mark those that are not padding."""
    valid = np.zeros((groups, rows), bool)
    valid[: len(counts)] = np.arange(rows) < counts[:, None]
    places = np.zeros((groups, rows), np.int64)
    places[: len(starts)] = starts[:, None] + np.arange(rows)
    return np.where(valid, places, 0), valid


def _take(columns: Columns, places: np.ndarray, valid: np.ndarray) -> Columns:
    return {name: column[places] for name, column in columns.items()} | {"valid": valid}
