"""The regions that are compared: whole images, detected objects, or the boxes of a data set."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import BOX_FORMATS, FORMATS, Formats, open_source
from cnn_jax.data.image_reading import Reading
from cnn_jax.data.source import Source, Split
from cnn_jax.errors import UserError
from cnn_jax.progress import track

from ..predict import load, verb_of

CONTEXT = 8 / 7
"""The side of the square that an object is cut out with, over the object's longer side."""

SOURCES: Formats = {
    "folder": FORMATS["folder"],
    **{name: BOX_FORMATS[name] for name in ("voc", "coco", "yolo")},
}
"""The readers of image files with a class or with boxes."""

Box = tuple[float, float, float, float]
Read = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Region:
    """An image, or an object in it.

    Attributes:
        file: the image's file.
        box: [x1, y1, x2, y2] in pixels of the image; None for all of it.
        label: the name of its class; None where that is not known.
    """

    file: str
    box: Box | None = None
    label: str | None = None

    def same_as(self, other: "Region") -> bool:
        """Tell whether both are the same part of the same file, to half a pixel."""
        if os.path.realpath(self.file) != os.path.realpath(other.file):
            return False
        if self.box is None or other.box is None:
            return self.box is other.box
        return bool(np.allclose(self.box, other.box, rtol=0, atol=0.5))

    def __str__(self) -> str:
        place = "" if self.box is None else " at " + " ".join(f"{side:.0f}" for side in self.box)
        return f"{self.file}{place}" + ("" if self.label is None else f" ({self.label})")


def cut_out(pixels: np.ndarray, region: Region) -> np.ndarray:
    """The pixels of a region: all, or a square around its object, moved into the image.

    A square that is larger than the image is cut off.
    """
    if region.box is None:
        return pixels
    height, width = pixels.shape[:2]
    left, top, right, bottom = region.box
    side = max(1, round(CONTEXT * max(right - left, bottom - top)))

    def span(low: float, high: float, length: int) -> slice:
        size = min(side, length)
        start = min(max(round((low + high - size) / 2), 0), length - size)
        return slice(start, start + size)

    return pixels[span(top, bottom, height), span(left, right, width)]


def whole(files: Iterable[str], read: Read) -> Iterator[tuple[Region, np.ndarray]]:
    """Each image, and all of its pixels."""
    for file in files:
        yield Region(file), read(file)


class Detector:
    """The objects that a trained detector finds.

    Args:
        run: the folder of its run.
        score_threshold: the lowest score of an object; None for the run's own.

    Raises:
        UserError: there is no such run, or it is no detector.
    """

    def __init__(self, run: str, score_threshold: float | None = None) -> None:
        if (verb := verb_of(Path(run))) != "detect":
            raise UserError(f"--objects {run}: a run of {verb}; objects are found by one of detect")
        self._loaded = load(run, score_threshold=score_threshold)
        self._reading = self._loaded.predictor.reading

    def found(
        self, files: Iterable[str], reading: Reading, read: Read
    ) -> Iterator[tuple[np.ndarray, list[Region]]]:
        """The pixels of each image, and its objects with a score that counts, best first.

        Args:
            files: the images.
            reading: the way in which the pixels are wanted.
            read: reads them so.
        """
        for file, content, found in self._loaded.network.outcomes(files):
            counted = found["counted"]
            boxes = np.asarray(found["boxes"])[counted].tolist()
            names = [n for n, counts in zip(found["names"], counted, strict=True) if counts]
            objects = [
                Region(str(file), tuple(box), name) for box, name in zip(boxes, names, strict=True)
            ]
            yield content if self._reading == reading else read(str(file)), objects


def objects(
    files: Iterable[str], detector: Detector, reading: Reading, read: Read
) -> Iterator[tuple[Region, np.ndarray]]:
    """Each object that the detector finds, cut out."""
    for pixels, found in detector.found(files, reading, read):
        for region in found:
            yield region, cut_out(pixels, region)


def open_regions(spec: str, split: Split, reading: Reading) -> Source:
    """Open image files with a class, or with boxes.

    Raises:
        UserError: the format is none of `SOURCES`, or its reader raised the error.
    """
    return open_source(spec, split, formats=SOURCES, channels=reading.channels, bits=reading.bits)


def labelled(source: Source) -> Iterator[tuple[Region, np.ndarray]]:
    """Each image of a source with its class, or each of its objects, cut out."""
    for index in track(range(len(source)), "embedding"):
        example, file = source[index], source.describe(index)
        for region in _regions(example, file, source.class_names):
            yield region, cut_out(example["image"], region)


def _regions(example: Any, file: str, names: tuple[str, ...]) -> Iterator[Region]:
    if "boxes" not in example:
        yield Region(file, None, names[int(example["label"])])
        return
    # What is marked as a crowd is no object.
    for box, label, crowd in zip(
        example["boxes"].tolist(), example["labels"], example["crowd"], strict=True
    ):
        if not crowd:
            yield Region(file, tuple(box), names[int(label)])


def again(regions: Iterable[Region], read: Read) -> Iterator[tuple[Region, np.ndarray]]:
    """Regions of an index with their pixels, read again; those of a file follow one another."""
    file, pixels = None, np.zeros(0)
    for region in regions:
        if region.file != file:
            file, pixels = region.file, read(region.file)
        yield region, cut_out(pixels, region)
