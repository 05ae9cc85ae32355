"""Losses against torch's frozen results, float64 arithmetic, and their limits."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.losses import class_distribution, cross_entropy, sigmoid_cross_entropy

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
LOGITS = jnp.array(GOLDEN["logits"], jnp.float32)
_jitted = jax.jit(cross_entropy, static_argnums=2)


def _plain_cross_entropy(logits, distribution):
    """The definition in float64, one class after the other."""
    logits = [float(x) for x in logits]
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(x - top) for x in logits))
    return sum(p * (log_sum - x) for x, p in zip(logits, distribution, strict=True) if p)


@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_gradient_equal_torch(kind, smoothing):
    expected = GOLDEN[f"cross_entropy/{kind}/{smoothing}"]
    target = jnp.array(GOLDEN[kind])
    loss_and_gradient = jax.vmap(jax.value_and_grad(cross_entropy), in_axes=(0, 0, None))
    loss, gradient = loss_and_gradient(LOGITS, target, smoothing)
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy_and_gradient_equal_torch(kind, smoothing):
    expected = GOLDEN[f"weighted_cross_entropy/{kind}/{smoothing}"]
    weights = jnp.array(GOLDEN["weights"])
    loss_and_gradient = jax.vmap(jax.value_and_grad(cross_entropy), in_axes=(0, 0, None, None))
    loss, gradient = loss_and_gradient(LOGITS, jnp.array(GOLDEN[kind]), smoothing, weights)
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=2e-5, atol=1e-7)


def test_sigmoid_cross_entropy_and_gradient_equal_torch():
    expected = GOLDEN["sigmoid_cross_entropy"]
    targets = jnp.array(GOLDEN["soft"], jnp.float32)
    loss = jax.vmap(sigmoid_cross_entropy)(LOGITS, targets)
    gradient = jax.grad(lambda x: jax.vmap(sigmoid_cross_entropy)(x, targets).sum())(LOGITS)
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=2e-5, atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5),
    label=st.integers(0, 4),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_cross_entropy_equals_a_plain_loop(logits, label, smoothing):
    distribution = [(1 - smoothing) * (i == label) + smoothing / 5 for i in range(5)]
    loss = _jitted(jnp.array(logits, jnp.float32), label, smoothing)
    expected = _plain_cross_entropy(logits, distribution)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_a_label_equals_its_one_hot_distribution():
    label, one_hot = jnp.array(3), jnp.eye(7)[3]
    np.testing.assert_array_equal(
        cross_entropy(LOGITS[1], label, 0.1), cross_entropy(LOGITS[1], one_hot, 0.1)
    )


def test_cross_entropy_is_linear_in_the_target():
    """Linearity makes mixed targets equal to mixed losses (mixup, cutmix)."""
    mixed = cross_entropy(LOGITS[2], 0.3 * jnp.eye(7)[1] + 0.7 * jnp.eye(7)[5])
    parts = [cross_entropy(LOGITS[2], jnp.array(label)) for label in (1, 5)]
    np.testing.assert_allclose(mixed, 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e4, 1e30, 1e38])
def test_extreme_logits_stay_finite(scale):
    logits = jnp.array([scale, -scale, 0.0], jnp.float32)
    for target in (jnp.array(1), jnp.array([0.5, 0.25, 0.25]), jnp.array([1.0, 0.0, 0.0])):
        loss, gradient = jax.value_and_grad(cross_entropy)(logits, target, 0.1)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
    loss = sigmoid_cross_entropy(logits, jnp.array([0.0, 1.0, 0.5]))
    gradient = jax.grad(lambda x: sigmoid_cross_entropy(x, jnp.array([0.0, 1.0, 0.5])).sum())(
        logits
    )
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient).all()


def test_a_class_masked_with_minus_infinity_adds_no_loss():
    logits = jnp.array([1.0, -jnp.inf, 2.0])
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.array(0))
    np.testing.assert_allclose(loss, math.log(1 + math.e), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert gradient[1] == 0


def test_small_sigmoid_losses_keep_their_precision():
    loss = sigmoid_cross_entropy(jnp.array([30.0, -30.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(loss, [math.exp(-30)] * 2, rtol=1e-5)


@pytest.mark.parametrize("label", [-1, 7, 255])
def test_a_label_that_is_no_class_gives_nan(label):
    assert np.isnan(cross_entropy(LOGITS[0], jnp.array(label)))


def test_bfloat16_logits_are_computed_in_float32():
    logits = LOGITS[1].astype(jnp.bfloat16)
    loss = cross_entropy(logits, jnp.array(2))
    assert loss.dtype == jnp.float32
    assert loss == cross_entropy(logits.astype(jnp.float32), jnp.array(2))
    assert sigmoid_cross_entropy(logits, jnp.ones(7)).dtype == jnp.float32


@pytest.mark.parametrize("target", [jnp.array(2), jnp.array([0.2, 0.0, 0.5, 0.3])])
def test_class_distribution_is_a_distribution(target):
    distribution = class_distribution(target, 4, 0.2)
    np.testing.assert_allclose(distribution.sum(), 1.0, rtol=1e-6)
    assert distribution.min() >= 0.05 - 1e-7
