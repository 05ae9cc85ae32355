"""Exact search in any number of vectors, a block on the device at a time."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from cnn_jax.ops.neighbors import Neighbors, merge, nearest

# Numbers of a block of vectors, and products of a block of queries with it.
_BLOCK, _PRODUCTS = 2**26, 2**26

_nearest = jax.jit(nearest, static_argnums=2)
_merge = jax.jit(merge, static_argnums=2)


class Search:
    """A search in vectors.

    Args:
        vectors: unit vectors, in memory or mapped from a disk.
        block: the number of them that lie on the device at a time. Default: what takes 256 MiB. The
            first block stays there; of most indexes it is the only one.
    """

    def __init__(self, vectors: Float32[np.ndarray, "rows size"], block: int | None = None) -> None:
        self._vectors = vectors
        self._block = block or max(1, _BLOCK // vectors.shape[1])

    def nearest(self, queries: Float32[np.ndarray, "queries size"], k: int) -> Neighbors:
        """The `k` nearest rows of each query, or all where there are fewer, as NumPy arrays."""
        at_a_time = max(1, _PRODUCTS // min(self._block, len(self._vectors)))
        parts = [
            jnp.asarray(queries[first : first + at_a_time])
            for first in range(0, len(queries), at_a_time)
        ]
        found: list[Neighbors] = []
        for first in range(0, len(self._vectors), self._block):
            block = self._first if first == 0 else self._on_device(first)
            here = [_nearest(part, block, k, first) for part in parts]
            found = [_merge(*both, k) for both in zip(found, here, strict=True)] if first else here
        return jax.tree.map(lambda *rows: np.concatenate(rows), *jax.device_get(found))

    def neighbors(
        self,
        queries: Float32[np.ndarray, "queries size"],
        k: int,
        left_out: Sequence[Sequence[int]],
    ) -> Iterator[list[tuple[int, float]]]:
        """The `k` nearest rows of each query, with their cosines, without some of its own.

        Args:
            queries: unit vectors.
            k: the number of neighbours.
            left_out: of each query, the rows that are no neighbours.
        """
        found = self.nearest(queries, k + max(map(len, left_out), default=0))
        for scores, rows, own in zip(*found, left_out, strict=True):
            pairs = zip(rows.tolist(), scores.tolist(), strict=True)
            yield [(row, score) for row, score in pairs if row not in own][:k]

    def _on_device(self, first: int) -> jax.Array:
        return jnp.asarray(np.asarray(self._vectors[first : first + self._block]))

    @cached_property
    def _first(self) -> jax.Array:
        return self._on_device(0)
