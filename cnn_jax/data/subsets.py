"""Smaller training sets: some examples of each class, the same ones on every machine."""

import numpy as np
from jaxtyping import Int

from cnn_jax.data.sampling import rarest
from cnn_jax.data.source import Source, Subset
from cnn_jax.data.surveys.classes import Classes, survey


def drawn_indices(groups: Int[np.ndarray, " examples"], count: int, seed: int) -> list[int]:
    """Draw some examples, of each group its share to within one.

    It is one systematic sample of a line on which examples lie by group, those of a group in a
    drawn order.

    Args:
        groups: the group of each example.
        count: the number of examples, at most all.
        seed: the number that the draw derives from.

    Returns:
        Their indices, rising.
    """
    rng = np.random.default_rng([seed, *b"subset"])
    line = np.lexsort((rng.random(len(groups)), groups))
    points = (rng.random() + np.arange(count)) * (len(groups) / max(count, 1))
    places = np.minimum(points.astype(np.int64), len(groups) - 1)
    return np.sort(line[places]).tolist()


def subset(source: Source, count: int, seed: int, by_class: bool) -> Subset:
    """Take some examples of a source, by class where that is known without reading an image.

    An example of several classes counts as one of the rarest of them. Of scenes that are drawn for
    the seed, the first ones are taken: they are in no order.

    Args:
        source: the examples.
        count: the number to take, at most all.
        seed: the number that the draw derives from.
        by_class: whether the examples have classes.
    """
    if getattr(source, "drawn", False):
        return Subset(source, range(count))
    groups = rarest(_classes(source)) if by_class else np.zeros(len(source), np.int64)
    return Subset(source, drawn_indices(groups, count, seed))


def _classes(source: Source) -> Classes:
    """The classes of each example, of which a tagged one may have several."""
    labels = getattr(source, "labels", None)
    if labels is None or labels.ndim == 1:
        return survey(source)
    return Classes(len(source), *np.nonzero(labels))
