"""`masks:DIR` for multi-label classification: patches of large images, tagged by their masks."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cnn_jax.data.decode import Pixels
from cnn_jax.data.formats.masks import MaskSource, open_masks
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.errors import UserError


class Patch(NamedTuple):
    """A square of one image's pixels."""

    image: int
    top: int
    left: int
    size: int


class MaskTagsSource:
    """Patches of images, and the classes that cover more than a fraction of each.

    Attributes:
        class_names: the masks' classes.
        labels: the classes of each patch.
        notices: those of the masks.
        files: the image that each patch is cut from.
    """

    def __init__(
        self,
        masked: MaskSource,
        patches: list[Patch],
        labels: Bool[np.ndarray, "patches labels"],
        notices: Sequence[str] = (),
        reading: Reading = RGB,
    ):
        self.class_names = masked.class_names
        self.labels = labels
        self.notices = tuple(notices)
        self.files = [masked.describe(patch.image) for patch in patches]
        self._masked = masked
        self._patches = patches
        self._reading = reading

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: int) -> Example:
        number, top, left, size = self._patches[index]
        image = _decoded(self._masked.describe(number), self._reading)
        return {
            "image": image[top : top + size, left : left + size],
            "labels": self.labels[index],
        }

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns of a patch."""
        return (self._patches[index].size,) * 2

    def describe(self, index: int) -> str:
        number, top, left, _ = self._patches[index]
        return f"{self._masked.describe(number)} at row {top}, column {left}"


def open_mask_tags(directory: str, split: Split, settings: Settings) -> MaskTagsSource:
    """Open one split of `masks:DIR` (see `formats.masks.open_masks`) as tagged patches.

    Images are cut into adjacent squares of `settings.patch_size` pixels; remainders at the right
    and at the bottom are not used. A class is a tag of a patch if it covers more than
    `settings.min_area` of all its pixels, ignored ones included.

    Images are split, not patches, because patches of one scene resemble each other.

    Raises:
        UserError: `open_masks` raised it, a mask is invalid (unless `settings.keep_bad_images`,
            where its image is left out), or the settings leave no patch.
    """
    size, share = settings.patch_size, settings.min_area
    masked = open_masks(directory, split, settings)
    classes = len(masked.class_names)
    patches, labels, bad = [], [], []
    for number in range(len(masked)):
        try:
            mask = masked.mask(number)
        except UserError as error:
            if not settings.keep_bad_images:
                raise
            bad.append(str(error))
            continue
        for top in range(0, mask.shape[0] - size + 1, size):
            for left in range(0, mask.shape[1] - size + 1, size):
                window = mask[top : top + size, left : left + size]
                pixels = np.bincount(window.ravel(), minlength=256)[:classes]
                patches.append(Patch(number, top, left, size))
                labels.append(pixels > share * window.size)
    if not patches and bad:
        raise UserError(f"all images of the split {split!r} are bad; {bad[0]}")
    if not patches:
        raise UserError(f"--patch-size {size}: larger than every image of the split {split!r}")
    # Whole, as patches are cut from the image where they lie in its mask.
    reading = dataclasses.replace(settings.reading, draft_size=None)
    notices = list(masked.notices)
    if bad:
        notices.append(f"{len(bad):,} of {len(masked):,} images left out (the first: {bad[0]})")
    return MaskTagsSource(masked, patches, np.stack(labels), notices, reading)


@lru_cache(maxsize=128)
def _decoded(path: str, reading: Reading) -> Pixels:
    """Decode an image from which many patches are cut, in any order; do not write to it."""
    return reading.decode(path)
