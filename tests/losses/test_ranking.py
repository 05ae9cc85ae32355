"""Multi-label losses against plain loops, published vectors, and their limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import losses
from cnn_jax.losses import ranking

LABELS = 6
SCORES = st.lists(st.floats(-8, 8, width=32), min_size=LABELS, max_size=LABELS)
HOLDS = st.lists(st.booleans(), min_size=LABELS, max_size=LABELS)


def _plain_warp(scores, holds, rank_of):
    """Gong et al., equation 4, a pair at a time."""
    total = 0.0
    for i, positive in enumerate(holds):
        if not positive:
            continue
        hinges = [
            max(0.0, 1.0 - scores[i] + scores[k]) for k, other in enumerate(holds) if not other
        ]
        weight = sum(1.0 / j for j in range(1, rank_of(i, hinges) + 1))
        total += weight * sum(hinges)
    return total


softmax = jax.jit(ranking.label_softmax)
pairwise = jax.jit(ranking.pairwise_ranking)
exact = jax.jit(ranking.warp)


@settings(deadline=None, max_examples=60)
@given(scores=SCORES, holds=HOLDS)
def test_losses_equal_plain_loops(scores, holds):
    logits, labels = jnp.array(scores, jnp.float32), jnp.array(holds)
    log_sum = math.log(sum(math.exp(s) for s in scores))
    expected = sum(log_sum - s for s, h in zip(scores, holds, strict=True) if h)
    np.testing.assert_allclose(
        softmax(logits, labels), expected / max(sum(holds), 1), rtol=1e-5, atol=1e-5
    )
    hinges = [
        max(0.0, 1 - a + b)
        for a, h in zip(scores, holds, strict=True)
        if h
        for b, g in zip(scores, holds, strict=True)
        if not g
    ]
    np.testing.assert_allclose(pairwise(logits, labels), sum(hinges), rtol=1e-5, atol=1e-5)
    # Ranks are counted from float32 margins, as the function's: ties at the margin are legal.
    scores32 = np.asarray(logits)
    margins = np.float32(1) - scores32[:, None] + scores32[None, :]

    def rank(i, _):
        return int(sum(margins[i, k] > 0 for k, h in enumerate(holds) if not h))

    expected = _plain_warp(scores, holds, rank)
    np.testing.assert_allclose(exact(logits, labels), expected, rtol=1e-5, atol=1e-5)


def test_warp_weights_are_the_harmonic_numbers():
    weights = ranking.rank_weights(7)
    assert weights[0] == 0
    np.testing.assert_allclose(weights[1:], [1, 1.5, 1.8333, 2.0833, 2.2833, 2.45], atol=5e-5)


@pytest.mark.parametrize("violating", [1, 3, 6, 11])
def test_the_estimated_rank_is_floor_of_labels_over_draws(violating):
    """A first violation at draw s among 17 labels: s=1 -> 16, 3 -> 5, 6 -> 2, 11 -> 1."""
    seen = set()
    labels = jnp.arange(17) == 0
    # One positive; `17 - violating` negatives violate, so that the first one comes at any draw.
    logits = jnp.where(jnp.arange(17) > violating, 2.0, -50.0).at[0].set(0.0)
    hinges = float(jnp.sum(jax.nn.relu(1 - logits[0] + logits[1:])))
    keys = jax.random.split(jax.random.key(violating), 400)
    values = jax.vmap(ranking.warp, (None, None, 0))(logits, labels, keys)
    weights = ranking.rank_weights(17)
    legal = {s: weights[16 // s] for s in range(1, violating + 2)}
    for value in np.unique(np.asarray(values) / hinges):
        assert min(abs(value - w) for w in legal.values()) < 1e-4
        seen.add(min(legal, key=lambda s: (abs(legal[s] - value), s)))
    assert 1 in seen


@pytest.mark.parametrize(("draw", "rank"), [(1, 16), (3, 5), (6, 2), (11, 1)])
def test_estimated_ranks_of_known_draws(draw, rank, monkeypatch):
    """A fixed order of draws: label k is drawn as number k."""
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape: jnp.broadcast_to(jnp.arange(17.0) / 17.0, shape)
    )
    logits = jnp.full(17, -50.0).at[0].set(0.0).at[draw].set(1.0)
    value = ranking.warp(logits, jnp.arange(17) == 0, jax.random.key(0))
    np.testing.assert_allclose(value / 2.0, ranking.rank_weights(17)[rank], rtol=1e-6)


def test_sampled_warp_depends_only_on_its_key_and_is_0_without_a_violation():
    logits, labels = jnp.linspace(-1, 1, 12), jnp.arange(12) % 5 == 0
    one, two = (ranking.warp(logits, labels, jax.random.key(3)) for _ in range(2))
    assert one == two
    many = {float(ranking.warp(logits, labels, jax.random.key(i))) for i in range(20)}
    assert len(many) > 1
    assert ranking.warp(jnp.array([9.0, 0, 0]), jnp.array([True, False, False])) == 0
    assert (
        ranking.warp(jnp.array([9.0, 0, 0]), jnp.array([True, False, False]), jax.random.key(0))
        == 0
    )


def test_the_rank_is_a_constant_to_the_gradient():
    logits, labels = jnp.array([0.0, 0.5, 0.2, -3.0]), jnp.array([True, False, False, False])
    gradient = jax.grad(ranking.warp)(logits, labels)
    np.testing.assert_allclose(gradient, [-3.0, 1.5, 1.5, 0.0])


ALL = {
    "softmax": ranking.label_softmax,
    "ranking": ranking.pairwise_ranking,
    "warp": ranking.warp,
    "sampled": lambda x, y: ranking.warp(x, y, jax.random.key(0)),
    "sigmoid": lambda x, y: losses.sigmoid_cross_entropy(x, y.astype(jnp.float32)).sum(),
    "weighted": lambda x, y: ranking.weighted_sigmoid(x, y, jnp.full(x.shape, 3.0)).sum(),
    "focal": lambda x, y: ranking.focal(x, y).sum(),
}


@pytest.mark.parametrize("name", ALL)
def test_finite_with_no_label_all_labels_and_extreme_scores(name):
    scales = jnp.array([0.0, 1.0, 1e4, 1e30], jnp.float32)
    logits = scales[:, None] * jnp.array([[-1.0, 1.0, 0.5]])
    function = jax.jit(jax.vmap(jax.value_and_grad(ALL[name]), (0, None)))
    for labels in ([0, 0, 0], [1, 0, 1], [1, 1, 1]):
        loss, gradient = function(logits, jnp.array(labels) > 0)
        assert np.isfinite(loss).all() and (loss >= 0).all()
        assert np.isfinite(gradient).all()
        if not any(labels) and name in ("softmax", "ranking", "warp", "sampled"):
            assert not loss.any() and not gradient.any()


def test_positive_weights_and_focal_against_their_definitions():
    logits = jnp.array([-2.0, -0.3, 0.0, 1.7])
    labels = jnp.array([True, False, True, False])
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    weights = np.array([3.0, 5.0, 0.5, 7.0])
    truth = np.where(labels, p, 1 - p)
    np.testing.assert_allclose(
        ranking.weighted_sigmoid(logits, labels, jnp.array(weights, jnp.float32)),
        np.where(labels, weights, 1.0) * -np.log(truth),
        rtol=1e-5,
    )
    for gamma in (0.0, 1.0, 2.0):
        np.testing.assert_allclose(
            ranking.focal(logits, labels, gamma), -((1 - truth) ** gamma) * np.log(truth), rtol=1e-5
        )


@pytest.mark.parametrize("function", [ranking.warp, ranking.pairwise_ranking])
def test_bfloat16_scores_are_compared_in_float32(function):
    logits = jnp.array([1.0, 0.5, -0.25], jnp.bfloat16)
    labels = jnp.array([False, True, False])
    assert function(logits, labels).dtype == jnp.float32
    assert function(logits, labels) == function(logits.astype(jnp.float32), labels)
