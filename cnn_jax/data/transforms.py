"""What the host does to a decoded example so that a batch has one shape."""

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
        canvas_size: pixels on a side.
        keep_aspect: resize the shorter side and crop the centre, instead of squashing the whole
            image (whose original size then tells the device the true aspect ratio).
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
    """Images with boxes, squashed to a square, and as many rows for objects in each.

    Adds `object_valid`, which rows are objects, and `size`, the image's own height and width.

    Attributes:
        image_size: pixels on a side.
        max_objects: rows for objects; what an image has beyond them is left out, crowds first,
            then the smallest (`objects_left_out` says how many).
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
    """What `BoxTransform` leaves out of images with so many objects, as one line; None: nothing."""
    more = np.maximum(counts - max_objects, 0)
    if not more.any():
        return None
    return (
        f"{more.sum()} of {counts.sum()} objects are left out, in {np.sum(more > 0)} images with "
        f"more than --max-objects {max_objects} (the most: {counts.max()})"
    )


@dataclass(frozen=True)
class EvaluationTransform:
    """The papers' test-time crop: the shorter side resized, then the centre or ten crops.

    Attributes:
        resize: shorter side in pixels.
        crop: pixels on a side of a crop.
        ten_crop: the corners, the centre and their mirror images instead of the centre alone
            (Krizhevsky et al. 2012, section 4.1).
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
    """An image and its mask in one size, the image with what a network wants to see around it.

    Attributes:
        size: rows and columns of the mask.
        margin: pixels that the image has more on every side: its mirror image.
        border: w0 and sigma of U-Net's weights (see `cnn_jax.data.borders`), or None.
        resized: whether images are resized to `size`. Without, all must have it; those that come
            with their surroundings (`cnn_jax.data.tiles`) are left as they are.
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
