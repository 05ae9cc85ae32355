"""Images with boxes around the objects in them: what every reader of such data shares."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from cnn_jax.data.decode import decode
from cnn_jax.data.source import Example
from cnn_jax.errors import UserError

# A box may reach this many pixels beyond the image, for rounding, before that is worth a word.
_SLACK = 1.0


@dataclass(frozen=True)
class BoxedImage:
    """An image's file and the objects in it; without any it is a picture of background.

    Attributes:
        path: the image's file.
        boxes: [x1, y1, x2, y2] in pixels, or in shares of the sides (see `BoxSource`).
        labels: positions in the class names.
        difficult: objects that an evaluation does not ask for.
        crowd: boxes that stand for many objects of a class.
        area: in pixels, where it is known better than from the boxes.
    """

    path: str
    boxes: Float[np.ndarray, "objects 4"]
    labels: Int[np.ndarray, " objects"]
    difficult: Bool[np.ndarray, " objects"] | None = None
    crowd: Bool[np.ndarray, " objects"] | None = None
    area: Float[np.ndarray, " objects"] | None = None


class BoxSource:
    """Detection: `image`, and of each object in it `boxes`, `labels`, `difficult`, `crowd`, `area`.

    Examples have as many objects as there are; `cnn_jax.data.transforms.BoxTransform` makes their
    shapes equal.

    Attributes:
        class_names: the names of the classes.
        notices: what is wrong with the data and has been put right, a line each.
    """

    def __init__(
        self,
        class_names: tuple[str, ...],
        images: Sequence[BoxedImage],
        notices: Sequence[str] = (),
        *,
        relative: bool = False,
    ):
        """Takes the images; with `relative`, boxes are in shares of the image's sides."""
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
        """The number of objects in each image."""
        return np.array([len(image.labels) for image in self._images], np.int64)


@dataclass
class Repairs:
    """Puts boxes right, and keeps count of it.

    Attributes:
        counts: how many boxes by what was done, and where the first of them is.
    """

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def repair(
        self,
        boxes: Float[np.ndarray, "boxes 4"],
        size: tuple[int | float, int | float],
        where: Callable[[int], str],
        slack: float = _SLACK,
    ) -> tuple[Float[np.ndarray, "boxes 4"], Bool[np.ndarray, " boxes"]]:
        """Orders swapped corners, clips what reaches beyond the image, and drops what is not there.

        Args:
            boxes: one image's.
            size: height and width of the image.
            where: names the file (and the line) of a box by its number.
            slack: how far beyond the image a box may reach unmentioned.

        Returns:
            The boxes, and which of them to keep: those that have an area in the image.

        Raises:
            UserError: a coordinate that is not finite.
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
        """A line for each kind of repair."""
        return [
            f"{count} {'box' if count == 1 else 'boxes'} {what} "
            f"({'in' if count == 1 else 'the first in'} {place})"
            for what, (count, place) in self.counts.items()
        ]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file as `decode` gives it, mostly from its first bytes alone.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(0x0112, 1)
            width, height = image.size
    except (OSError, SyntaxError, ValueError):
        # In the words that it has for files like this one.
        height, width = decode(path).shape[:2]
        return height, width
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def require_folder(path: Path, spec: str) -> None:
    """Raises `UserError` unless the path is a folder."""
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "no such folder"
        raise UserError(f"--data {spec}: {path}: {problem}")
