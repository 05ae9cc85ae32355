"""`shapes` for detection: scenes with several objects, and their boxes."""

import numpy as np
from jaxtyping import Int

from cnn_jax.data.formats.shapes import ShapesSource, open_shapes, scene
from cnn_jax.data.source import Example, Settings, Split

OBJECTS = (1, 6)
"""The least and the largest number of objects in a scene."""


class ShapeBoxesSource(ShapesSource):
    """Detection on scenes of up to six shapes; the keys are those of `BoxSource`."""

    notices: tuple[str, ...] = ()

    def __getitem__(self, index: int) -> Example:
        drawn = scene(self._seed, index, self._image_size, split=self._split, objects=OBJECTS)
        none = np.zeros(len(drawn.classes), bool)
        return {
            "image": drawn.image,
            "boxes": drawn.boxes,
            "labels": drawn.classes,
            "difficult": none,
            "crowd": none,
            "area": (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).prod(axis=1),
        }

    def classes(self, index: int) -> Int[np.ndarray, " objects"]:
        """Return the classes of the objects."""
        return self[index]["labels"]

    def object_count(self, index: int) -> int:
        """The largest number of objects that a scene may have: it is known without drawing it."""
        return OBJECTS[1]


def open_shape_boxes(argument: str, split: Split, settings: Settings) -> ShapeBoxesSource:
    """Open the built-in scenes with boxes."""
    open_shapes(argument, split, settings)
    return ShapeBoxesSource(split, settings.seed, settings.image_size)
