"""Preparation of decoded examples on the host, so that every batch has one shape.

Each transform has two steps. `canvas` makes pixels of one size from an image of any, which is what
takes time; packed data keeps its result. `finish` does the rest, which is cheap and may depend on
more flags. `made` says what `canvas` depends on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from cnn_jax.data import resize
from cnn_jax.data.borders import border_weights
from cnn_jax.data.tiles import window
from cnn_jax.errors import UserError

Example = dict[str, Any]


@runtime_checkable
class HostTransform(Protocol):
    """A preparation in two steps: a call is `finish(canvas(example))`."""

    @property
    def made(self) -> Mapping[str, Any]:
        """Name what `canvas` depends on, in values that JSON has."""
        ...

    def __call__(self, example: Example) -> Example: ...

    def canvas(self, example: Example) -> Example:
        """Return the example with an image of the size that all have."""
        ...

    def finish(self, example: Example) -> Example:
        """Return the example, with its canvas, as batches have it."""
        ...


def whole_size(example: Mapping[str, Any]) -> tuple[float, float]:
    """Rows and columns of the picture that an example shows, in the pixels that its boxes count.

    The image may be a smaller copy; the example then has `size`.
    """
    height, width = example["size"] if "size" in example else example["image"].shape[:2]
    return float(height), float(width)


class _Whole:
    """A transform of a whole image, which has nothing to finish."""

    def __call__(self, example: Example) -> Example:
        return self.canvas(example)

    def finish(self, example: Example) -> Example:
        return dict(example)

    @property
    def made(self) -> dict[str, Any]:
        return {"transform": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class TrainingTransform(_Whole):
    """A square canvas for the device to augment.

    Attributes:
        canvas_size: the side in pixels.
        keep_aspect: whether to resize the shorter side and crop the centre. Otherwise the whole
            image is squashed, and its original size gives the device the true aspect ratio.
    """

    canvas_size: int
    keep_aspect: bool = False

    def canvas(self, example: Example) -> Example:
        image = example["image"]
        size = np.array(whole_size(example), np.float32)
        if self.keep_aspect:
            image = resize.resize_shorter_side(image, self.canvas_size)
            canvas = resize.center_crop(image, self.canvas_size)
            size = np.array(canvas.shape[:2], np.float32)
        else:
            canvas = resize.to_square(image, self.canvas_size)
        return {**example, "image": canvas, "size": size}


@dataclass(frozen=True)
class BoxTransform:
    """A transform of images with boxes: squashed to a square, with the same number of object rows.

    It adds `object_valid`, False for padding rows, and `size`, the image's own height and width.

    Attributes:
        image_size: the side in pixels.
        max_objects: the number of object rows; further objects are left out, crowds first, then
            the smallest (`objects_left_out` counts them).
    """

    image_size: int
    max_objects: int

    ragged = ("boxes", "labels", "difficult", "crowd", "area")
    """The fields with a row for each object, of which there are any number before `finish`."""

    @property
    def made(self) -> dict[str, Any]:
        return {"transform": "BoxTransform", "image_size": self.image_size}

    def __call__(self, example: Example) -> Example:
        return self.finish(self.canvas(example))

    def canvas(self, example: Example) -> Example:
        return {
            **example,
            "image": resize.to_square(example["image"], self.image_size),
            "size": np.array(whole_size(example), np.float32),
        }

    def finish(self, example: Example) -> Example:
        height, width = map(float, example["size"])
        scale = np.array([self.image_size / width, self.image_size / height], np.float32)
        chosen = np.lexsort((-example["area"], example["crowd"]))[: self.max_objects]
        chosen = np.sort(chosen)

        def rows(values: np.ndarray) -> np.ndarray:
            padded = np.zeros((self.max_objects, *values.shape[1:]), values.dtype)
            padded[: len(chosen)] = values[chosen]
            return padded

        return {
            **{name: rows(example[name]) for name in ("labels", "difficult", "crowd")},
            "boxes": rows(example["boxes"] * np.tile(scale, 2)),
            "area": rows(example["area"] * scale.prod()),
            "object_valid": np.arange(self.max_objects) < len(chosen),
            "image": example["image"],
            "size": example["size"],
        }


def objects_left_out(counts: Int[np.ndarray, " images"], max_objects: int) -> str | None:
    """Describe in one line what `BoxTransform` leaves out, given object counts; None: nothing."""
    more = np.maximum(counts - max_objects, 0)
    if not more.any():
        return None
    return (
        f"{more.sum()} of {counts.sum()} objects are left out, in {np.sum(more > 0)} images with "
        f"more than --max-objects {max_objects} (the most: {counts.max()})"
    )


@dataclass(frozen=True)
class EvaluationTransform(_Whole):
    """The papers' test-time crop: the shorter side is resized, then one or ten crops are cut.

    Attributes:
        resize: the shorter side in pixels.
        crop: the side of a crop in pixels.
        ten_crop: whether to cut the corners, the centre and their mirror images instead of the
            centre alone (Krizhevsky et al. 2012, section 4.1).
    """

    resize: int
    crop: int
    ten_crop: bool = False

    def canvas(self, example: Example) -> Example:
        image = resize.resize_shorter_side(example["image"], self.resize)
        crop = resize.ten_crop if self.ten_crop else resize.center_crop
        return {**example, "image": crop(image, self.crop)}


@dataclass(frozen=True)
class MaskTransform:
    """A transform of an image and its mask to one size, with a margin around the image.

    Attributes:
        size: rows and columns of the mask.
        margin: the additional mirrored pixels on every side of the image.
        border: w0 and sigma of U-Net's weights (see `cnn_jax.data.borders`), or None.
        resized: whether images are resized to `size`. Otherwise all must have that size; images
            that already have surroundings (`cnn_jax.data.tiles`) are unchanged.
    """

    size: tuple[int, int]
    margin: int = 0
    border: tuple[float, float] | None = None
    resized: bool = False

    @property
    def made(self) -> dict[str, Any]:
        return {"transform": "MaskTransform", "size": list(self.size)}

    def __call__(self, example: Example) -> Example:
        return self.finish(self.canvas(example))

    def canvas(self, example: Example) -> Example:
        image, mask = example["image"], example["mask"]
        if self.resized:
            image = resize.to_canvas(image, self.size)
            mask = resize.resize_mask(mask, self.size)
        if mask.shape != self.size:
            raise UserError(
                f"an image of {mask.shape[0]} x {mask.shape[1]} pixels among those of "
                f"{self.size[0]} x {self.size[1]}: give --image-shape to resize them, or --tile"
            )
        return {**example, "image": image, "mask": mask}

    def finish(self, example: Example) -> Example:
        image, mask = example["image"], example["mask"]
        if image.shape[:2] == mask.shape:
            image = window(image, 0, 0, *mask.shape, self.margin)
        prepared = {**example, "image": image}
        if self.border is not None:
            prepared["weight"] = border_weights(mask, *self.border)
        return prepared
