"""What the host does to a decoded example so that a batch has one shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np

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
