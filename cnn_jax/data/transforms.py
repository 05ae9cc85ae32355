"""What the host does to a decoded example so that a batch has one shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from cnn_jax.data import resize

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
