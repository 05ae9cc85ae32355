"""`shapes` for segmentation: the built-in scenes with several shapes each, and their masks."""

import numpy as np

from cnn_jax.data.formats.shapes import CLASS_NAMES, Scene, ShapesSource, open_shapes, scene
from cnn_jax.data.source import Example, Settings, Split

OBJECTS = (1, 4)
"""The least and the largest number of shapes in a scene."""


class ShapeMasks(ShapesSource):
    """Scenes of up to four shapes: `image` and `mask`.

    Attributes:
        class_names: the background, then the shapes.
    """

    class_names = ("background", *CLASS_NAMES)

    def __getitem__(self, index: int) -> Example:
        drawn = self._scene(index)
        return {"image": drawn.image, "mask": drawn.mask}

    def mask(self, index: int) -> np.ndarray:
        """Return only the mask."""
        return self._scene(index).mask

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns."""
        return self._image_size, self._image_size

    def _scene(self, index: int) -> Scene:
        return scene(self._seed, index, self._image_size, split=self._split, objects=OBJECTS)


def open_shape_masks(argument: str, split: Split, settings: Settings) -> ShapeMasks:
    """Open the built-in scenes with masks."""
    open_shapes(argument, split, settings)
    return ShapeMasks(split, settings.seed, settings.image_size)
