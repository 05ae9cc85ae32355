"""Images with boxes around their objects: the parts shared by all readers of such data."""

import os
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cnn_jax.data.decode import Header, Pixels, read_header
from cnn_jax.data.formats.frames import Fit, Size, drawn_before_turning, fit
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.source import Example
from cnn_jax.errors import UserError, one_line
from cnn_jax.progress import in_threads
from cnn_jax.reading import require_file

# A box may extend this many pixels beyond the image, for rounding, without a notice.
_SLACK = 1.0

# Fractions are rounded to six digits, so this distance beyond the border is no mistake.
_RELATIVE_SLACK = 2e-3

# Headers are read by this many threads: on a network drive each waits for its answer.
_READERS = 16

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


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

    Where the image is decoded at a part of its size, boxes and areas still count the pixels of the
    whole one, whose rows and columns are `size`. The number of objects varies;
    `cnn_jax.data.transforms.BoxTransform` makes the shapes equal.

    Attributes:
        class_names: the names of the classes.
        notices: the repairs of faulty data, one line each.
        files: the file of each image.
    """

    def __init__(
        self,
        class_names: tuple[str, ...],
        images: Sequence[BoxedImage],
        notices: Sequence[str] = (),
        *,
        relative: bool = False,
        reading: Reading = RGB,
    ):
        """Store the images.

        Args:
            class_names: the names of the classes.
            images: the files and their objects.
            notices: the repairs of faulty data.
            relative: whether boxes are in fractions of the image's sides.
            reading: the way in which images are decoded.
        """
        self.class_names = class_names
        self.notices = tuple(map(one_line, notices))
        self.files = [image.path for image in images]
        self._images = images
        self._relative = relative
        self._reading = reading

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        image = self._images[index]
        pixels, scale = self._reading.decode_scaled(image.path)
        boxes = image.boxes
        if self._relative:
            height, width = pixels.shape[:2]
            if scale > 1:
                header = read_header(image.path)
                height, width = header.size
            boxes = boxes * np.array([width, height, width, height])
        none = np.zeros(len(boxes), bool)
        sides = boxes[:, 2:] - boxes[:, :2]
        return {
            **scaled(pixels, scale),
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

    @property
    def present(self) -> Bool[np.ndarray, "images classes"]:
        """Tell which classes are in each image."""
        classes = np.arange(len(self.class_names))
        marks = [np.isin(classes, image.labels) for image in self._images]
        return np.array(marks, bool).reshape(len(self), len(classes))

    def classes(self, index: int) -> Int[np.ndarray, " objects"]:
        """Return the classes of the objects to train on."""
        image = self._images[index]
        kept = np.ones(len(image.labels), bool)
        for left_out in (image.difficult, image.crowd):
            if left_out is not None:
                kept &= ~left_out
        return image.labels[kept]

    def object_count(self, index: int) -> int:
        """The number of objects in an image."""
        return len(self._images[index].labels)

    def object_counts(self) -> Int[np.ndarray, " images"]:
        """Return the number of objects in each image."""
        return np.array([len(image.labels) for image in self._images], np.int64)


def scaled(pixels: Pixels, scale: int) -> Example:
    """The image of an example, and the `size` of the whole one if it has other sides.

    The size is in whole pixels of the copy, the last of which may lie partly outside of the whole
    image: so places on both match.
    """
    if scale == 1:
        return {"image": pixels}
    return {"image": pixels, "size": scale * np.array(pixels.shape[:2], np.float32)}


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
            self.count(what, chosen, where)
        return clipped, kept

    def count(
        self, what: str, chosen: Bool[np.ndarray, " boxes"], where: Callable[[int], str]
    ) -> None:
        """Add the chosen boxes of an image to those that were repaired in one way."""
        if np.any(chosen):
            count, place = self.counts.get(what) or (0, where(int(np.argmax(chosen))))
            self.counts[what] = (count + int(chosen.sum()), place)

    def notices(self) -> list[str]:
        """Describe each kind of repair in one line."""
        return [
            f"{count} {'box' if count == 1 else 'boxes'} {what} "
            f"({'in' if count == 1 else 'the first in'} {place})"
            for what, (count, place) in self.counts.items()
        ]


@dataclass(frozen=True)
class StatedImage:
    """An image and its boxes as a file states them, before they are compared with the image.

    Attributes:
        path: the image's file.
        place: where the file speaks of it, for messages: `FILE` or `FILE: images[3]`.
        boxes: [x1, y1, x2, y2] in pixels of an image of `size`, or in fractions of the sides.
        labels: the positions in the class names.
        where: names the place of an object by its number.
        size: rows and columns that the file states for the image; None if it states none.
        difficult, crowd, area: as in `BoxedImage`; `area` in pixels of an image of `size`, NaN
            where it is that of the box.
    """

    path: str
    place: str
    boxes: Float[np.ndarray, "objects 4"]
    labels: Int[np.ndarray, " objects"]
    where: Callable[[int], str]
    size: Size | None = None
    difficult: Bool[np.ndarray, " objects"] | None = None
    crowd: Bool[np.ndarray, " objects"] | None = None
    area: Float[np.ndarray, " objects"] | None = None


def settle(
    items: Sequence[StatedImage], *, relative: bool = False, keep_bad_images: bool = False
) -> tuple[list[BoxedImage], list[str]]:
    """Bring the boxes of a set onto their images, and repair them.

    The size of each image is read from its header. Boxes of an image of another size and the same
    ratio are scaled, boxes of the stored pixels are turned as EXIF turns the image. Boxes outside
    the image or without area, and those that stand twice in it, are left out.

    Args:
        items: what the files say.
        relative: whether boxes are in fractions of the upright image's sides, whatever its size.
        keep_bad_images: whether images that are missing or cannot be read are kept, without
            objects, to be found when they are read.

    Returns:
        The images, and notices about what was changed.

    Raises:
        UserError: an image is missing or unreadable, or is of another size and ratio than its file
            of boxes states, or a coordinate is not finite.
    """
    checked = _headers(items, relative, keep_bad_images)
    fits = [None if header is None else _fit(item, header)
            for item, header in zip(items, checked, strict=True)]  # fmt: skip
    turned = drawn_before_turning(found for found in fits if found is not None)
    repairs = Repairs()
    images = [
        BoxedImage(item.path, np.zeros((0, 4)), np.zeros(0, np.int32))
        if header is None and not relative
        else _settled(item, found, repairs, turned=turned)
        for item, header, found in zip(items, checked, fits, strict=True)
    ]
    return images, [*_fit_notices(items, fits, turned=turned), *repairs.notices()]


def _headers(
    items: Sequence[StatedImage], relative: bool, keep_bad_images: bool
) -> list[Header | None]:
    """Read the header of each image with boxes in pixels; find that all images exist."""

    def read(item: StatedImage) -> Header | None:
        try:
            if len(item.boxes) and not relative:
                return read_header(item.path)
            require_file(item.path)
        except UserError as error:
            if not keep_bad_images:
                raise UserError(f"{item.place}: {error}") from None
        return None

    return list(in_threads(read, items, "Reading sizes of images", _READERS))


def _fit(item: StatedImage, header: Header) -> Fit:
    found = fit(item.size, header)
    if found is None:
        raise UserError(
            f"{item.place}: its size is {_by(item.size)}, but {item.path} has "
            f"{_by(header.size)}: are these the boxes of another image?"
        )
    return found


def _by(size: Size) -> str:
    """Name a size as people do, columns first."""
    return f"{size[1]:g} x {size[0]:g}"


def _settled(item: StatedImage, found: Fit | None, repairs: Repairs, *, turned: bool) -> BoxedImage:
    size, boxes, area, slack = (1.0, 1.0), item.boxes, item.area, _RELATIVE_SLACK
    if found is not None:
        size, slack = found.header.size, _SLACK
        boxes, scale = found.place(boxes, turned=turned)
        area = None if area is None else area * (scale[0] * scale[1])
    boxes, kept = repairs.repair(boxes, size, item.where, slack)
    if area is not None:
        area = np.where(np.isnan(area), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), area)
    crowd = np.zeros(len(boxes), bool) if item.crowd is None else item.crowd
    again = kept & _again(boxes, item.labels, crowd)
    repairs.count("standing twice in an image, read once", again, item.where)
    kept &= ~again
    return BoxedImage(
        item.path,
        boxes[kept],
        item.labels[kept],
        *(None if flags is None else flags[kept] for flags in (item.difficult, item.crowd, area)),
    )


def _again(
    boxes: Float[np.ndarray, "boxes 4"],
    labels: Int[np.ndarray, " boxes"],
    crowd: Bool[np.ndarray, " boxes"],
) -> Bool[np.ndarray, " boxes"]:
    """Mark the boxes of which an earlier one has the same corners and class."""
    seen: set[tuple[float, ...]] = set()
    again = np.zeros(len(boxes), bool)
    for row, key in enumerate(zip(*boxes.T.tolist(), labels.tolist(), crowd.tolist(), strict=True)):
        again[row] = key in seen
        seen.add(key)
    return again


def _fit_notices(
    items: Sequence[StatedImage], fits: Sequence[Fit | None], *, turned: bool
) -> list[str]:
    """Tell which images are not of the size that their files state."""
    pairs = [(item, found) for item, found in zip(items, fits, strict=True) if found is not None]
    turns = [item for item, found in pairs if found.turned]
    unknown = [item for item, found in pairs if found.turned is None]
    scaled = [
        (item, found) for item, found in pairs
        if (found.stored if found.turned else found.upright) != (1.0, 1.0)
    ]  # fmt: skip
    notices = []
    if turns:
        notices.append(
            f"boxes of {_images(len(turns))} are turned with the picture, as its EXIF orientation "
            f"says: they count the pixels before that (the first: {turns[0].path})"
        )
    if unknown:
        taken = (
            "before EXIF turns it, as those of the other turned images" if turned
            else "as it is shown upright"
        )  # fmt: skip
        notices.append(
            f"{_images(len(unknown))} with an EXIF orientation: the stated size is the same before "
            f"and after it, so boxes are taken as of the image {taken} (the first: "
            f"{unknown[0].path})"
        )
    if scaled:
        item, found = scaled[0]
        notices.append(
            f"boxes of {_images(len(scaled))} are scaled to the image's own size (the first: "
            f"{item.path} has {_by(found.header.size)}, {item.place} says "
            f"{_by(item.size)})"
        )
    return notices


def _images(count: int) -> str:
    return f"{count:,} {'image' if count == 1 else 'images'}"


def number(text: str) -> float:
    """Read a number as files of boxes have it; it may not be finite.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if "_" in text:  # Python's own way to write 1000 as 1_000
        raise ValueError(f"{text!r} is no number")
    return value


def short(value: Any) -> str:
    """A value of a file as it is written in Python, cut where it is long or deep."""
    return _REPR.repr(value)


def require_folder(path: Path, spec: str) -> None:
    """Raise `UserError` unless the path is a folder."""
    if not os.path.isdir(path):
        problem = "is not a folder" if os.path.exists(path) else "no such folder"
        raise UserError(f"--data {spec}: {path}: {problem}")
