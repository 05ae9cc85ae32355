"""Detection of objects whatever their class: all of them are of one class."""

import numpy as np
from jaxtyping import Bool, Int

from cnn_jax.data.source import Example, Source, Subset
from cnn_jax.errors import check


class SingleClass(Subset):
    """A source with boxes whose objects are all of one class.

    Attributes:
        class_names: the name of that class alone.
    """

    def __init__(self, source: Source, name: str):
        """Rename the classes of all objects.

        Args:
            source: examples with `boxes` and `labels`.
            name: the name of the one class.

        Raises:
            UserError: the name is empty.
        """
        check(bool(name.strip()), "single_class", name, "a name")
        super().__init__(source, range(len(source)))
        self.class_names = (name,)
        if hasattr(source, "object_counts"):
            self.object_counts = source.object_counts

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        return {**example, "labels": np.zeros_like(example["labels"])}

    # Examples that are copied by the source itself would keep their classes.
    gather = None

    @property
    def present(self) -> Bool[np.ndarray, "images 1"] | None:
        """Tell which images have objects, of sources that know it without reading images."""
        present = super().present
        return None if present is None else present.any(axis=1, keepdims=True)

    def classes(self, index: int) -> Int[np.ndarray, " objects"]:
        """Return the classes of the objects to train on."""
        return np.zeros_like(super().classes(index))
