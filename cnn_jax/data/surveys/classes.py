"""Survey of the classes of a training set, from annotations alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cnn_jax.data.source import Source
from cnn_jax.progress import in_threads


@dataclass(frozen=True)
class Classes:
    """The classes of the objects in a set's examples; a classified image is one object.

    Attributes:
        examples: the number of examples.
        owner: the example of each object, rising.
        label: the class of each object.
    """

    examples: int
    owner: Int[np.ndarray, " objects"]
    label: Int[np.ndarray, " objects"]

    def counts(self, num_classes: int) -> Int[np.ndarray, " {num_classes}"]:
        """Count the objects of each class."""
        return np.bincount(self.label, minlength=num_classes)

    def in_examples(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """List the classes in each example once: the examples, and their classes."""
        pairs = np.unique(np.stack([self.owner, self.label]), axis=1)
        return pairs[0], pairs[1]


def survey(source: Source, most: int | None = None) -> Classes:
    """Find the classes of a set's objects, without decoding an image.

    Args:
        source: one with `labels` of its examples, or with `classes(index)`, the class of each
            object of an example that is trained on.
        most: the number of examples to look at, for generated sources; None looks at all.
    """
    examples = len(source) if most is None else min(most, len(source))
    labels = getattr(source, "labels", None)
    if labels is not None:
        return Classes(examples, np.arange(examples), np.asarray(labels[:examples], np.int64))
    listed = list(in_threads(source.classes, range(examples), "Counting classes"))
    owner = np.repeat(np.arange(examples), [len(each) for each in listed])
    return Classes(examples, owner, np.concatenate([*listed, np.zeros(0, np.int64)]))


def balanced_weights(counts: Int[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    """Compute weights that make all classes count alike: `n / (k * count)`, as scikit-learn has it.

    Of n objects each has the weight of its class, and the sum of them is n. A class without objects
    has the weight 1 and is none of the k classes.

    Args:
        counts: the number of objects, or pixels, of each class.
    """
    there = counts > 0
    balanced = counts.sum() / (max(there.sum(), 1) * np.maximum(counts, 1))
    return np.where(there, balanced, 1.0)
