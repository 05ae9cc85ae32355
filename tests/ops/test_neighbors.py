"""Exact search against a full sort in NumPy, in blocks of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.neighbors import merge, nearest


def brute_force(queries, vectors, k):
    """Scores and rows, best first; of equal scores the lower row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def drawn(count, size, seed, values=None):
    """Unit vectors; or vectors of small whole numbers, whose products are exact and often equal."""
    rng = np.random.default_rng(seed)
    if values is not None:
        return rng.integers(-values, values + 1, (count, size)).astype(np.float32)
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("values", [None, 2])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_the_nearest_are_those_of_a_full_sort(values, k):
    queries, vectors = drawn(7, 16, 0, values), drawn(300, 16, 1, values)
    found = jax.jit(nearest, static_argnums=2)(jnp.array(queries), jnp.array(vectors), k)
    scores, rows = brute_force(queries, vectors, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 100, 299])
def test_blocks_give_what_the_whole_gives(block):
    queries, vectors = drawn(5, 8, 2, values=2), drawn(300, 8, 3, values=2)
    found = None
    for first in range(0, 300, block):
        part = nearest(jnp.array(queries), jnp.array(vectors[first : first + block]), 12, first)
        found = part if found is None else merge(found, part, 12)
    scores, rows = brute_force(queries, vectors, 12)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)
