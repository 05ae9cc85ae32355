"""Exact search for the nearest of many vectors, as matrix products and partial sorts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Neighbors(NamedTuple):
    """The nearest vectors of each query, best first.

    Attributes:
        scores: inner products with the query; of unit vectors, the cosines.
        rows: the places of the vectors.
    """

    scores: Float[Array | np.ndarray, "queries k"]
    rows: Int[Array | np.ndarray, "queries k"]


def inner_products(
    queries: Float[Array, "queries size"], vectors: Float[Array, "rows size"]
) -> Float[Array, "queries rows"]:
    """Multiply every query with every vector, in full precision on an accelerator too."""
    return jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)


def nearest(
    queries: Float[Array, "queries size"],
    vectors: Float[Array, "rows size"],
    k: int,
    first: int | Int[Array, ""] = 0,
) -> Neighbors:
    """Find the `k` vectors with the highest inner products, or all where there are fewer.

    Of equal products the lower row comes first.

    Args:
        queries: vectors to search for.
        vectors: a block of the vectors that are searched.
        k: the number of neighbours.
        first: the row of the block's first vector.
    """
    scores, rows = jax.lax.top_k(inner_products(queries, vectors), min(k, vectors.shape[0]))
    return Neighbors(scores, rows + jnp.asarray(first, rows.dtype))


def merge(before: Neighbors, after: Neighbors, k: int) -> Neighbors:
    """The best `k` of two blocks' neighbours, as if they were one block.

    Args:
        before: those of the block with the lower rows.
        after: those of the other block.
        k: the number of neighbours.
    """
    scores, rows = (jnp.concatenate(both, axis=1) for both in zip(before, after, strict=True))
    scores, places = jax.lax.top_k(scores, min(k, scores.shape[1]))
    return Neighbors(scores, jnp.take_along_axis(rows, places, axis=1))
