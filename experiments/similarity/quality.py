"""Recall and mAP of a search, beside vectors that know nothing of the images or only colours."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.decode import as_rgb
from cnn_jax.data.source import Split
from cnn_jax.errors import UserError
from cnn_jax.metrics import retrieval
from cnn_jax.ops.neighbors import inner_products

from . import regions
from .embedding import Embedder, Pictures
from .index_folder import Index
from .regions import Region

Vectors = Callable[[Pictures], Iterable[tuple[Region, np.ndarray]]]
"""From pictures to their regions with vectors, in order."""

BINS = 8
"""Bins of a colour histogram for each of red, green and blue."""

_RANDOM_SIZE = 128
_AT_A_TIME = 64
_inner_products = jax.jit(inner_products)


def table(index: Index, embedder: Embedder, spec: str, split: Split, baselines: int | None) -> str:
    """Measure the search with labelled queries; a line for each kind of vectors.

    Args:
        index: the gallery, whose rows have labels.
        embedder: the network of the index.
        spec, split: the queries.
        baselines: the seed of what is random; None to measure the index's vectors alone.

    Raises:
        UserError: the index has no labels, or none of the queries'.
    """
    source = regions.open_regions(spec, split, embedder.reading)
    queries = list(embedder.vectors(regions.labelled(source)))
    if not queries:
        raise UserError(f"--queries {spec}: there is no object in {split}")
    truth = Truth(index, [region for region, _ in queries])
    lines = [("trained", truth.figures(np.asarray(index.vectors), _stacked(queries)))]
    if baselines is not None:
        for name, vectors in _baselines(embedder, baselines):
            gallery = vectors(regions.again(index.regions, embedder.read))
            found = vectors(regions.labelled(source))
            lines.append((name, truth.figures(_stacked(gallery), _stacked(found))))
    names = list(lines[0][1])
    shown = [["vectors", *names], *([n, *(f"{100 * f[k]:.2f} %" for k in names)] for n, f in lines)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    text = "".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + "\n"
        for row in shown
    )
    return f"{len(queries):,} queries, {len(index):,} rows\n{text}{truth.notice}"


class Truth:
    """The rows of an index that belong to each query: those of its class, without the query.

    Attributes:
        notice: a line about queries to which no row belongs; empty if there are none.

    Raises:
        UserError: no row belongs to any query.
    """

    def __init__(self, index: Index, queries: list[Region]) -> None:
        labels = [region.label for region in index.regions]
        self._places = {name: i for i, name in enumerate(dict.fromkeys(filter(None, labels)))}
        self._rows = np.array([self._places.get(label, -1) for label in labels])
        self._queries = np.array([self._places.get(region.label, -2) for region in queries])
        self._own = [index.rows_of(region) for region in queries]
        counts = np.bincount(self._rows[self._rows >= 0], minlength=len(self._places) + 1)
        known = self._queries >= 0
        others = counts[np.where(known, self._queries, -1)] - np.array(list(map(len, self._own)))
        missing = int(np.sum(~known | (others <= 0)))
        if missing == len(queries):
            raise UserError(
                f"--queries: the index {index.folder} has no row of their classes; make it of "
                "--data with the same classes"
            )
        self.notice = f"{missing:,} queries have no match in the index\n" if missing else ""

    def figures(self, gallery: np.ndarray, queries: np.ndarray) -> dict[str, float]:
        """Rank all rows for each query, a few queries at a time."""
        vectors = jnp.asarray(gallery)
        parts = [
            self._of(slice(first, first + _AT_A_TIME), queries, vectors)
            for first in range(0, len(queries), _AT_A_TIME)
        ]
        return retrieval.summarize(
            retrieval.Retrieved(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        )

    def _of(self, part: slice, queries: np.ndarray, vectors: jax.Array) -> retrieval.Retrieved:
        scores = np.array(_inner_products(jnp.asarray(queries[part]), vectors))
        relevant = self._rows == self._queries[part, None]
        for number, own in enumerate(self._own[part]):
            scores[number, own], relevant[number, own] = -np.inf, False
        return retrieval.retrieved(scores, relevant)


def _stacked(found: Iterable[tuple[Region, np.ndarray]]) -> np.ndarray:
    return np.stack([vector for _, vector in found])


def _baselines(embedder: Embedder, seed: int) -> Iterator[tuple[str, Vectors]]:
    yield "random", partial(_mapped, partial(_random, np.random.default_rng(seed)))
    yield "colour histograms", partial(_mapped, color_histogram)
    yield "untrained network", embedder.untrained(seed).vectors


def _mapped(
    function: Callable[[np.ndarray], np.ndarray], pictures: Pictures
) -> Iterator[tuple[Region, np.ndarray]]:
    for region, pixels in pictures:
        yield region, function(pixels)


def _random(rng: np.random.Generator, _: np.ndarray) -> np.ndarray:
    vector = rng.normal(size=_RANDOM_SIZE)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def color_histogram(pixels: np.ndarray) -> np.ndarray:
    """The roots of the shares of the pixels in each of 8 x 8 x 8 bins of colour.

    They form a unit vector; the cosine of two is Bhattacharyya's coefficient.
    """
    image = np.ascontiguousarray(as_rgb(pixels))
    counts = cv2.calcHist([image], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3).ravel()
    return np.sqrt(counts / counts.sum())
