"""The protocol of data sources: random access to examples, on the host, in NumPy."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np

from cnn_jax.data.image_reading import Bits, Reading
from cnn_jax.errors import UserError
from cnn_jax.progress import in_threads
from cnn_jax.ranges import LARGEST_INT, LARGEST_SIDE, Range, check_ranges

Split = Literal["train", "eval", "test"]

Example = Mapping[str, Any]
"""One example: NumPy arrays or scalars by name, with `image` uint8 or uint16 [height, width,
channels]."""

Transform = Callable[[Example], Example]
"""The preparation of one example on the host, usually resizing; a pure function."""


def unchanged(example: Example) -> Example:
    """Return an example that is already prepared."""
    return example


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split.

    `source[i]` is a pure function of `i`; several threads and processes may call it.

    Attributes:
        class_names: the names of the classes, in the order of the labels.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of examples in an epoch."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Return the example: `image` uint8 [height, width, channels], RGB unless others are
        asked for, uint16 for images of 16 bits; and others, such as `label`."""
        ...

    def describe(self, index: int) -> str:
        """Return the example's origin for messages: a file's path, or `shapes train[17]`."""
        ...


@dataclass(frozen=True)
class Settings:
    """The settings of a source, besides its data spec.

    Attributes:
        seed: the run's seed, for generated examples.
        image_size: the side in pixels of generated images.
        draft_size: the least rows and columns (or one number for both) down to which JPEG files may
            be decoded at 1/2, 1/4 or 1/8 of their size: much faster for large photos, with slightly
            different pixels. None decodes at full size.
        channels: the number of channels that images are decoded to; see `cnn_jax.data.decode`.
        bits: the bits of a channel; see `cnn_jax.data.deep`.
        holdout_groups: a regular expression that matches the start of a file's name. Files with
            the same first group (or whole match) belong together, such as `(\\d+)_` for the frames
            of one track. If given, the split `eval` is held out by whole groups.
        holdout_fraction: the fraction of each class's files or groups that is held out of the
            training files if the data set has no evaluation split of its own.
        keep_bad_images: whether image files that are missing or cannot be read stay in the source,
            to be found by `find_bad_images`; else they are refused when it is opened, where the
            format knows them.
        data_dir: the folder of prepared TFDS data sets; None for TFDS's own default.
        class_names: the names of a mask's classes, in the order of their values.
        label_values: the values of the classes in mask files, if not 0, 1, 2, ...
        ignore_labels: the values of ignored pixels, besides 255.
        label_colors: the table of the colours of coloured masks: a file, or `voc`. The position of
            a colour is its value.
        eval_folders, test_folders: the folders of masked images that are held out of training.
        test_every: N: rows N, 2N, 3N, ... of a table of tagged images are its split `test`.
        patch_size: the side in pixels of the tagged patches into which masked images are cut.
        min_area: the fraction of a patch that a class must exceed to be one of its tags.
    """

    seed: int = 0
    image_size: int = 64
    draft_size: int | tuple[int, int] | None = None
    channels: Annotated[int, Range(1, 512)] = 3
    bits: Bits = 8
    holdout_groups: str | None = None
    holdout_fraction: Annotated[float, Range(0, 1, below=True)] = 0.1
    keep_bad_images: bool = False
    data_dir: str | os.PathLike[str] | None = None
    class_names: tuple[str, ...] = ()
    label_values: tuple[int, ...] = ()
    ignore_labels: tuple[int, ...] = ()
    label_colors: str | None = None
    eval_folders: tuple[str, ...] = ()
    test_folders: tuple[str, ...] = ()
    test_every: Annotated[int, Range(2, LARGEST_INT)] | None = None
    patch_size: Annotated[int, Range(1, LARGEST_SIDE)] = 128
    min_area: Annotated[float, Range(0, 1, below=True)] = 0.01

    def __post_init__(self):
        check_ranges(self)

    @property
    def reading(self) -> Reading:
        """The way in which images are decoded."""
        return Reading(self.draft_size, self.channels, self.bits)


class Subset:
    """The examples of a source at the given indices, in that order.

    Attributes:
        notices: the source's, if it has some.
        labels, present, files: those of the examples, of sources that know them without reading
            images.
    """

    def __init__(self, source: Source, indices: Sequence[int]):
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(getattr(self.source, "notices", ()))

    @property
    def labels(self) -> np.ndarray | None:
        labels = getattr(self.source, "labels", None)
        return None if labels is None else labels[self.indices]

    @property
    def present(self) -> np.ndarray | None:
        present = getattr(self.source, "present", None)
        return None if present is None else present[self.indices]

    @property
    def files(self) -> list[str] | None:
        files = getattr(self.source, "files", None)
        return None if files is None else [files[index] for index in self.indices.tolist()]

    @property
    def mapped(self) -> bool:
        """Tell whether the examples are mapped from a disk."""
        return getattr(self.source, "mapped", False)

    @property
    def drawn(self) -> bool:
        """Tell whether the examples are drawn, not read."""
        return getattr(self.source, "drawn", False)

    @property
    def gather(self) -> Callable[[np.ndarray, dict[str, np.ndarray]], None] | None:
        """The source's way to copy examples into the rows of arrays, if it has one."""
        gather = getattr(self.source, "gather", None)
        return None if gather is None else lambda rows, into: gather(self.indices[rows], into)

    def mask(self, index: int) -> np.ndarray:
        """Return only the mask, for sources that have masks."""
        return self.source.mask(int(self.indices[index]))

    def classes(self, index: int) -> np.ndarray:
        """Return the classes of the objects to train on, of sources that have no `labels`."""
        return self.source.classes(int(self.indices[index]))

    def object_count(self, index: int) -> int:
        """The number of objects (at most), of sources that have boxes."""
        return self.source.object_count(int(self.indices[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns, for sources that know them without reading the image."""
        return self.source.size(int(self.indices[index]))


def without(source: Source, left_out: Mapping[int, Any]) -> Source:
    """Return the source without the examples whose indices are keys of `left_out`.

    Raises:
        UserError: no example is left.
    """
    if not left_out:
        return source
    indices = [index for index in range(len(source)) if index not in left_out]
    if not indices:
        raise UserError(f"all {len(source)} images are bad: nothing is left to read")
    return Subset(source, indices)


def names_digest(source: Source) -> str:
    """A digest of the names of all examples, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(source)):
        digest.update(source.describe(index).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def find_bad_images(source: Source, workers: int = 0) -> dict[int, str]:
    """Read every example once, and report those that cannot be read.

    Args:
        source: the source to read.
        workers: the number of threads (decoding releases Python's lock); 0 for one per core.

    Returns:
        The reasons by index of the bad examples; each is one line that names the file.
    """

    def problem(index: int) -> str | None:
        try:
            source[index]
        except UserError as error:
            return str(error)
        return None

    problems = in_threads(problem, range(len(source)), "Checking images", workers)
    return {index: reason for index, reason in enumerate(problems) if reason is not None}
