"""What every data source is: random access to examples, on the host, in NumPy."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.progress import track

Split = Literal["train", "eval", "test"]

Example = Mapping[str, Any]
"""One example: names to NumPy arrays or scalars, `image` uint8 [height, width, 3] among them."""

Transform = Callable[[Example], Example]
"""Host-side preparation of one example, usually resizing; pure, so that order does not matter."""


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split.

    `source[i]` is a pure function of `i`: it may be called from several threads and processes.

    Attributes:
        class_names: the names of the classes, in the order of the labels.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of examples in an epoch."""
        ...

    def __getitem__(self, index: int) -> Example:
        """The example: `image` uint8 [height, width, 3] RGB, `label` int32, perhaps more."""
        ...

    def describe(self, index: int) -> str:
        """Where the example comes from, for messages: a file's path, or `shapes[17]`."""
        ...


@dataclass(frozen=True)
class Settings:
    """What a source may want to know besides its data spec.

    Attributes:
        seed: the run's seed, for sources that generate their examples.
        image_size: the side in pixels of the images that will be asked for, for sources that
            generate their examples.
        draft_size: JPEG files may be decoded at 1/2, 1/4 or 1/8 of their size while the shorter
            side stays at least this many pixels: much faster for large photos, slightly different
            pixels. None decodes at full size.
        holdout_groups: a regular expression whose first group (or whole match), found at the start
            of a file's name, says which files belong together, such as `(\\d+)_` for the frames of
            one track. With it, the split `eval` is held out of the training files by whole groups.
        holdout_fraction: the share of each class's files or groups that is held out of the
            training files where a data set has no evaluation split of its own.
        data_dir: where prepared TFDS data sets lie; None for TFDS's own default.
        class_names: the names of a mask's classes, in the order of their values.
        label_values: the values that stand for the classes in mask files, where not 0, 1, 2, ...
        ignore_labels: the values besides 255 of pixels that are not judged.
        eval_folders, test_folders: the folders of masked images that are held out of training.
        test_every: rows N, 2N, 3N, ... of a table of tagged images are its split `test`.
        patch_size: pixels on a side of the patches that masked images are cut into to be tagged.
        min_area: the share of a patch that a class must exceed to be one of its tags.
    """

    seed: int = 0
    image_size: int = 64
    draft_size: int | None = None
    holdout_groups: str | None = None
    holdout_fraction: float = 0.1
    data_dir: str | os.PathLike[str] | None = None
    class_names: tuple[str, ...] = ()
    label_values: tuple[int, ...] = ()
    ignore_labels: tuple[int, ...] = ()
    eval_folders: tuple[str, ...] = ()
    test_folders: tuple[str, ...] = ()
    test_every: int | None = None
    patch_size: int = 128
    min_area: float = 0.01

    def __post_init__(self):
        if not 0 <= self.holdout_fraction < 1:
            raise UserError(f"--holdout-fraction {self.holdout_fraction}: must be in [0, 1)")


class Subset:
    """The examples of a source at the given indices, in that order."""

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

    def mask(self, index: int) -> np.ndarray:
        """The mask alone, of sources that have them."""
        return self.source.mask(int(self.indices[index]))

    def object_count(self, index: int) -> int:
        """The number of objects (at most), of sources that have boxes."""
        return self.source.object_count(int(self.indices[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Rows and columns, of sources that know them without reading the image."""
        return self.source.size(int(self.indices[index]))


def without(source: Source, left_out: Mapping[int, Any]) -> Source:
    """The source without the examples whose indices are keys of `left_out`.

    Raises:
        UserError: nothing would be left.
    """
    if not left_out:
        return source
    indices = [index for index in range(len(source)) if index not in left_out]
    if not indices:
        raise UserError(f"every one of the {len(source)} images is bad: nothing is left to read")
    return Subset(source, indices)


def find_bad_images(source: Source, workers: int = 0) -> dict[int, str]:
    """Reads every example once and says which ones cannot be read.

    Args:
        source: what to read.
        workers: the number of threads (decoding does not hold Python's lock); 0 for one a core.

    Returns:
        The reason, one line that names the file, by the index of each bad example.
    """

    def problem(index: int) -> str | None:
        try:
            source[index]
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        # Submitted in slices: one future an image would cost more memory than the file names.
        problems = (
            found
            for start in range(0, len(source), 1024)
            for found in pool.map(problem, range(start, min(start + 1024, len(source))))
        )
        progress = track(problems, "Checking images", len(source))
        return {index: found for index, found in enumerate(progress) if found is not None}
