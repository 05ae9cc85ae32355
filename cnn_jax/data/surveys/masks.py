"""Survey of all masks before the first step: validity, and frequency of each class."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from cnn_jax import processors
from cnn_jax.data.resize import resize_mask
from cnn_jax.errors import UserError
from cnn_jax.progress import track


@runtime_checkable
class Masked(Protocol):
    """A source whose masks can be read without the images."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def mask(self, index: int) -> np.ndarray:
        """Return classes [height, width]; raise UserError for an invalid mask."""
        ...


def survey(source: Masked, most: int | None = None) -> Int[np.ndarray, "images classes"]:
    """Count the pixels of each class in each mask, and so check all masks.

    Args:
        source: the masks.
        most: the number of masks to read, for generated sources; None reads all.

    Raises:
        UserError: a mask is invalid; the message names the first one.
    """
    classes = len(source.class_names)
    images = len(source) if most is None else min(most, len(source))

    known = getattr(source, "mask_counts", None)

    def counts(index: int) -> np.ndarray:
        if known is not None:
            return known(index)
        return np.bincount(source.mask(index).ravel(), minlength=256)[:classes]

    progress = track(_read_ahead(counts, images), "Checking masks", images)
    return np.stack(list(progress)).astype(np.int64)


def position_prior(
    training: Masked, evaluated: Masked, size: tuple[int, int]
) -> Int[np.ndarray, "classes classes"]:
    """Compute the confusion matrix of a predictor without the image, a floor for every network.

    It predicts for every pixel the most frequent class at its place in the training masks. Among
    equal classes it is the first, also where no training mask has a class.

    Args:
        training, evaluated: the masks.
        size: rows and columns to which all masks are resized.
    """
    classes = len(training.class_names)
    votes = np.zeros((classes, *size), np.int32)
    for mask in _read_ahead(lambda index: resize_mask(training.mask(index), size), len(training)):
        for label in np.unique(mask[mask < classes]):
            votes[label] += mask == label
    prior = votes.argmax(axis=0)
    confusion = np.zeros(classes * classes, np.int64)
    for mask in _read_ahead(lambda index: resize_mask(evaluated.mask(index), size), len(evaluated)):
        counted = mask < classes
        pairs = mask[counted].astype(np.int64) * classes + prior[counted]
        confusion += np.bincount(pairs, minlength=classes * classes)
    return confusion.reshape(classes, classes)


def median_frequency(
    counts: Int[np.ndarray, "images classes"], class_names: Sequence[str]
) -> Float[np.ndarray, " classes"]:
    """Compute the weight of each class: the median of all classes' frequencies over its own.

    A class's frequency is its fraction of the pixels, without ignored ones, of the images that
    contain it (Eigen & Fergus 2015, section 6.3.2).

    Args:
        counts: the result of :func:`survey` for the training set.
        class_names: the names of the classes, for the message.

    Raises:
        UserError: a class is in no image.
    """
    there = counts > 0
    totals = counts.sum(axis=1)
    pixels = counts.sum(axis=0)
    if (pixels == 0).any():
        missing = class_names[int(np.argmin(pixels))]
        raise UserError(
            f"--class-weights median_frequency: no training mask has the class {missing!r}"
        )
    frequency = pixels / (there * totals[:, None]).sum(axis=0)
    return np.median(frequency) / frequency


def _read_ahead(read: Callable[[int], np.ndarray], images: int) -> Iterator[np.ndarray]:
    """Read all images in threads, in order; few at a time, to save memory."""
    with ThreadPoolExecutor(processors.available()) as pool:
        for start in range(0, images, 64):
            yield from pool.map(read, range(start, min(start + 64, images)))
