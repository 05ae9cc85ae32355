"""Tiles of one size, cut from large images with their surroundings (U-Net's overlap-tile).

A tile's image has `margin` more pixels on every side than its mask: those of the neighbouring
tiles and, beyond the image's border, of its mirror image (Ronneberger et al. 2015, figure 2). So a
network whose output is smaller than its input predicts every pixel.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.conventions import IGNORED
from cnn_jax.data.source import Example


@runtime_checkable
class Sized(Protocol):
    """A source of images and masks that knows the images' sizes without reading them."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def describe(self, index: int) -> str: ...

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns of an image."""
        ...


class Tiles:
    """The images of a source, cut into tiles of `tile` x `tile` pixels that do not overlap.

    Beyond the image's border, a tile is mirrored and its mask is ignored, so every pixel counts
    once.

    Attributes:
        class_names: the source's class names.
    """

    def __init__(self, source: Sized, tile: int, margin: int = 0):
        self.class_names = source.class_names
        self._source = source
        self._tile, self._margin = tile, margin
        self._places = [
            (index, *corner)
            for index in range(len(source))
            for corner in corners(source.size(index), tile)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        number, top, left = self._places[index]
        example = self._source[number]
        mask = np.full((self._tile, self._tile), IGNORED, np.uint8)
        part = example["mask"][top : top + self._tile, left : left + self._tile]
        mask[: part.shape[0], : part.shape[1]] = part
        return {
            "image": window(example["image"], top, left, self._tile, self._tile, self._margin),
            "mask": mask,
        }

    def describe(self, index: int) -> str:
        number, top, left = self._places[index]
        return (
            f"{self._source.describe(number)}[{top}:{top + self._tile}, {left}:{left + self._tile}]"
        )

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns of a tile's mask."""
        return self._tile, self._tile


def corners(size: tuple[int, int], tile: int) -> Iterator[tuple[int, int]]:
    """Yield the top left corners of the tiles that cover an image of `size`."""
    for top in range(0, size[0], tile):
        for left in range(0, size[1], tile):
            yield top, left


def window(
    image: np.ndarray, top: int, left: int, height: int, width: int, margin: int = 0
) -> np.ndarray:
    """Cut out a part of an image with `margin` pixels around it, mirrored beyond the image."""
    rows = _mirrored(np.arange(top - margin, top + height + margin), image.shape[0])
    columns = _mirrored(np.arange(left - margin, left + width + margin), image.shape[1])
    return image[rows[:, None], columns]


def _mirrored(places: np.ndarray, length: int) -> np.ndarray:
    """Mirror places outside an axis at its outermost pixels, which do not repeat."""
    if length == 1:
        return np.zeros_like(places)
    period = 2 * (length - 1)
    places = np.abs(places) % period
    return np.minimum(places, period - places)
