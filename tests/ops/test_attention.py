"""Attention's scores and weights: definitions, masks, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.ops.attention import additive_scores, context, dot_scores, masked_softmax

softmax = jax.jit(masked_softmax)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_additive_scores_are_the_definition():
    s, h = normal(0, 3), normal(1, 5, 4)
    w, u, v = normal(2, 3, 6), normal(3, 4, 6), normal(4, 6)
    expected = [v @ np.tanh(w.T @ s + u.T @ h[j]) for j in range(5)]
    np.testing.assert_allclose(additive_scores(s @ w, h @ u, v), expected, rtol=1e-5, atol=1e-6)


def test_dot_and_general_scores_are_the_definition():
    s, h, w = normal(0, 3), normal(1, 5, 4), normal(2, 4, 3)
    expected = [s @ w.T @ h[j] for j in range(5)]
    np.testing.assert_allclose(dot_scores(s, h @ w), expected, rtol=1e-5, atol=1e-6)


def test_leading_axes_are_batches():
    q, k, v = normal(0, 2, 3, 6), normal(1, 2, 3, 5, 6), normal(2, 6)
    whole = additive_scores(q, k, v)
    single = jax.vmap(jax.vmap(additive_scores, (0, 0, None)), (0, 0, None))(q, k, v)
    np.testing.assert_allclose(whole, single, rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_weights_sum_to_one_over_the_mask_and_are_exactly_zero_outside(scores, mask):
    weights = np.asarray(softmax(jnp.array(scores, jnp.float32), jnp.array(mask)))
    assert (weights[~np.array(mask)] == 0).all()
    assert weights.sum() == pytest.approx(float(any(mask)), abs=1e-6)
    assert (weights >= 0).all()


@pytest.mark.parametrize("outside", [jnp.nan, jnp.inf, -jnp.inf, 1e30])
def test_positions_outside_the_mask_affect_neither_values_nor_gradients(outside):
    mask = jnp.array([True, True, False])

    def first(scores):
        return masked_softmax(scores, mask)[0]

    value, gradient = jax.value_and_grad(first)(jnp.array([1.0, 2.0, outside]))
    assert value == pytest.approx(1 / (1 + np.e), rel=1e-6)
    slope = np.e / (1 + np.e) ** 2
    np.testing.assert_allclose(gradient, [slope, -slope, 0.0], rtol=1e-5)


def test_an_empty_mask_gives_zeros_and_no_nan_in_the_gradient():
    gradient = jax.grad(lambda s: masked_softmax(s, jnp.zeros(3, bool)).sum())(jnp.ones(3))
    np.testing.assert_array_equal(gradient, np.zeros(3))


def test_weights_are_float32_for_bfloat16_and_the_context_keeps_its_dtype():
    annotations = normal(1, 5, 4).astype(jnp.bfloat16)
    weights = masked_softmax(dot_scores(annotations[0], annotations), jnp.ones(5, bool))
    assert weights.dtype == jnp.float32
    assert context(weights, annotations).dtype == jnp.bfloat16


def test_one_position_is_its_own_context():
    h = normal(0, 1, 4)
    weights = masked_softmax(jnp.array([-3.0]), jnp.array([True]))
    np.testing.assert_array_equal(context(weights, h), h[0])
