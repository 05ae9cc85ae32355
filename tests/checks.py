"""Assertions that many tests share."""

from typing import Any

import jax
import numpy as np


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Assert that two trees have one structure and arrays of equal types, shapes and bits.

    Unlike `np.testing.assert_array_equal` it tells 0.0 from -0.0 and one NaN from another.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, left), right in zip(
        jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        if left.tobytes() != right.tobytes():
            np.testing.assert_array_equal(left, right, err_msg=name)
            raise AssertionError(f"{name}: equal values of different bits")
