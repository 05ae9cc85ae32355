"""Images with boxes around their objects: the parts shared by all readers of such data."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from cnn_jax.data.decode import decode, open_image
from cnn_jax.data.source import Example
from cnn_jax.errors import UserError

# A box may extend this many pixels beyond the image, for rounding, without a notice.
_SLACK = 1.0


@dataclass(frozen=True)
class BoxedImage:
    """An image's file and its objects; without objects it is a background image.

    Attributes:
        path: the image's file.
        boxes: [x1, y1, x2, y2] in pixels, or in fractions of the sides (see `BoxSource`).
        labels: the positions in the class names.
        difficult: marks objects that an evaluation ignores.
        crowd: marks boxes around many objects of a class.
        area: the areas in pixels, if known more exactly than from the boxes.
    """

    path: str
    boxes: Float[np.ndarray, "objects 4"]
    labels: Int[np.ndarray, " objects"]
    difficult: Bool[np.ndarray, " objects"] | None = None
    crowd: Bool[np.ndarray, " objects"] | None = None
    area: Float[np.ndarray, " objects"] | None = None


class BoxSource:
    """Detection: `image`, and for each object `boxes`, `labels`, `difficult`, `crowd`, `area`.

    The number of objects varies; `cnn_jax.data.transforms.BoxTransform` makes the shapes equal.

    Attributes:
        class_names: the names of the classes.
        notices: the repairs of faulty data, one line each.
    """

    def __init__(
        self,
        class_names: tuple[str, ...],
        images: Sequence[BoxedImage],
        notices: Sequence[str] = (),
        *,
        relative: bool = False,
    ):
        """Store the images; with `relative`, boxes are in fractions of the image's sides."""
        self.class_names = class_names
        self.notices = tuple(notices)
        self._images = images
        self._relative = relative

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        image = self._images[index]
        pixels = decode(image.path)
        boxes = image.boxes
        if self._relative:
            height, width = pixels.shape[:2]
            boxes = boxes * np.array([width, height, width, height])
        none = np.zeros(len(boxes), bool)
        sides = boxes[:, 2:] - boxes[:, :2]
        return {
            "image": pixels,
            "boxes": boxes.astype(np.float32),
            "labels": image.labels.astype(np.int32),
            "difficult": none if image.difficult is None else image.difficult,
            "crowd": none if image.crowd is None else image.crowd,
            "area": np.asarray(
                sides.prod(axis=1) if image.area is None else image.area, np.float32
            ),
        }

    def describe(self, index: int) -> str:
        return self._images[index].path

    def object_count(self, index: int) -> int:
        """The number of objects in an image."""
        return len(self._images[index].labels)

    def object_counts(self) -> Int[np.ndarray, " images"]:
        """Return the number of objects in each image."""
        return np.array([len(image.labels) for image in self._images], np.int64)


@dataclass
class Repairs:
    """A repair of faulty boxes that counts them.

    Attributes:
        counts: the number of boxes by kind of repair, and the place of the first one.
    """

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def repair(
        self,
        boxes: Float[np.ndarray, "boxes 4"],
        size: tuple[int | float, int | float],
        where: Callable[[int], str],
        slack: float = _SLACK,
    ) -> tuple[Float[np.ndarray, "boxes 4"], Bool[np.ndarray, " boxes"]]:
        """Swap reversed corners, clip boxes to the image, and drop boxes without area in it.

        Args:
            boxes: the boxes of one image.
            size: height and width of the image.
            where: names the file (and the line) of a box by its number.
            slack: the distance by which a box may extend beyond the image without a notice.

        Returns:
            The boxes, and a mask of those to keep, which have an area in the image.

        Raises:
            UserError: a coordinate is not finite.
        """
        for number in np.flatnonzero(~np.isfinite(boxes).all(axis=1))[:1]:
            raise UserError(f"{where(int(number))}: box {boxes[number].tolist()} is not finite")
        lower, upper = (
            np.minimum(boxes[:, :2], boxes[:, 2:]),
            np.maximum(boxes[:, :2], boxes[:, 2:]),
        )
        ordered = np.concatenate([lower, upper], axis=1)
        height, width = size
        clipped = np.clip(ordered, 0, np.array([width, height, width, height]))
        empty = np.any(upper <= lower, axis=1)
        kept = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
        swapped = np.any(boxes[:, :2] > boxes[:, 2:], axis=1)
        moved = np.any(np.abs(clipped - ordered) > slack, axis=1)
        for what, chosen in (
            ("without area, dropped", empty),
            ("outside the image, dropped", ~empty & ~kept),
            ("with swapped corners, put in order", kept & swapped),
            ("beyond the image's border, cut off there", kept & moved),
        ):
            if np.any(chosen):
                first = where(int(np.argmax(chosen)))
                count, place = self.counts.get(what, (0, first))
                self.counts[what] = (count + int(chosen.sum()), place)
        return clipped, kept

    def notices(self) -> list[str]:
        """Describe each kind of repair in one line."""
        return [
            f"{count} {'box' if count == 1 else 'boxes'} {what} "
            f"({'in' if count == 1 else 'the first in'} {place})"
            for what, (count, place) in self.counts.items()
        ]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read height and width of an image file as `decode` gives it, mostly from its header.

    Raises:
        UserError: the file is missing or not an image.
    """
    try:
        with open_image(path) as image:
            orientation = image.getexif().get(0x0112, 1)
            width, height = image.size
    except (OSError, SyntaxError, ValueError):
        # `decode` has the right message for such a file.
        height, width = decode(path).shape[:2]
        return height, width
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def require_folder(path: Path, spec: str) -> None:
    """Raise `UserError` unless the path is a folder."""
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "no such folder"
        raise UserError(f"--data {spec}: {path}: {problem}")
