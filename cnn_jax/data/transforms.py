"""Preparation of decoded examples on the host, so that every batch has one shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from cnn_jax.data import resize
from cnn_jax.data.borders import border_weights
from cnn_jax.data.tiles import window
from cnn_jax.errors import UserError

Example = dict[str, Any]


@dataclass(frozen=True)
class TrainingTransform:
    """A square canvas for the device to augment.

    Attributes:
        canvas_size: the side in pixels.
        keep_aspect: whether to resize the shorter side and crop the centre. Otherwise the whole
            image is squashed, and its original size gives the device the true aspect ratio.
    """

    canvas_size: int
    keep_aspect: bool = False

    def __call__(self, example: Example) -> Example:
        image = example["image"]
        size = np.array(image.shape[:2], np.float32)
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

    def __call__(self, example: Example) -> Example:
        image = example["image"]
        height, width = image.shape[:2]
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
            "image": resize.to_square(image, self.image_size),
            "size": np.array([height, width], np.float32),
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
class EvaluationTransform:
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

    def __call__(self, example: Example) -> Example:
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

    def __call__(self, example: Example) -> Example:
        image, mask = example["image"], example["mask"]
        if self.resized:
            image = resize.resize(image, self.size)
            mask = resize.resize_mask(mask, self.size)
        if mask.shape != self.size:
            raise UserError(
                f"an image of {mask.shape[0]} x {mask.shape[1]} pixels among those of "
                f"{self.size[0]} x {self.size[1]}: give --image-shape to resize them, or --tile"
            )
        if image.shape[:2] == mask.shape:
            image = window(image, 0, 0, *mask.shape, self.margin)
        prepared = {**example, "image": image, "mask": mask}
        if self.border is not None:
            prepared["weight"] = border_weights(mask, *self.border)
        return prepared
