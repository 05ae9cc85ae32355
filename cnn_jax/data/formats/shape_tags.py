"""`shapes` for multi-label classification: scenes of several shapes, labelled with these shapes."""

from cnn_jax.data.formats.shapes import ShapesSource, open_shapes, scene
from cnn_jax.data.source import Example, Settings, Split

OBJECTS = (1, 3)
"""The least and the largest number of shapes in a scene."""


class ShapeTagsSource(ShapesSource):
    """Scenes with one to three shapes: `image`, and `labels`, the shapes in it."""

    def __getitem__(self, index: int) -> Example:
        drawn = scene(
            self._seed, index, self._image_size, split=self._split, objects=OBJECTS, clutter=(0, 2)
        )
        return {"image": drawn.image, "labels": drawn.tags}


def open_shape_tags(argument: str, split: Split, settings: Settings) -> ShapeTagsSource:
    """Open the built-in scenes with tags."""
    open_shapes(argument, split, settings)
    return ShapeTagsSource(split, settings.seed, settings.image_size)
