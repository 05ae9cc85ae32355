"""What the host does to a decoded example so that a batch has one shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np

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
