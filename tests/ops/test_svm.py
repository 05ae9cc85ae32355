"""Support vector machines against scikit-learn, ridge regression against a plain solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.ridge import ridge
from cnn_jax.ops.svm import train_svm

svm = pytest.importorskip("sklearn.svm")
trained = jax.jit(train_svm, static_argnames=("bias_multiplier", "tolerance", "max_passes"))


def problem(seed, examples=60, features=5, share=0.3):
    rng = np.random.default_rng(seed)
    positive = rng.random(examples) < share
    x = rng.normal(size=(examples, features)) + 0.8 * positive[:, None]
    return (2 * x).astype(np.float32), positive


def objective(weights, bias, x, positive, cost, multiplier):
    margin = np.where(positive, 1, -1) * (x.astype(np.float64) @ weights + bias)
    penalty = 0.5 * (weights @ weights) + 0.5 * (bias / multiplier) ** 2
    return penalty + (cost * np.maximum(0, 1 - margin)).sum()


@pytest.mark.parametrize(
    ("c", "weight", "multiplier"), [(1e-3, 2.0, 10.0), (0.1, 1.0, 1.0), (0.05, 3.0, 10.0)]
)
def test_the_hyperplane_equals_liblinears(c, weight, multiplier):
    for seed in range(3):
        x, positive = problem(seed)
        cost = np.where(positive, weight * c, c).astype(np.float32)
        result = trained(
            jnp.array(x),
            jnp.array(positive),
            jnp.array(cost),
            jax.random.key(seed),
            bias_multiplier=multiplier,
            tolerance=1e-4,
            max_passes=50_000,
        )
        other = svm.LinearSVC(
            C=c,
            loss="hinge",
            class_weight={True: weight, False: 1.0},
            intercept_scaling=multiplier,
            tol=1e-8,
            max_iter=1_000_000,
            random_state=0,
        ).fit(x, positive)
        theirs = other.coef_[0], float(other.intercept_[0])
        ours = np.asarray(result.weights, np.float64), float(result.bias)
        arguments = (x, positive, cost, multiplier)
        assert objective(*ours, *arguments) == pytest.approx(
            objective(*theirs, *arguments), rel=1e-4
        )
        np.testing.assert_allclose(ours[0], theirs[0], atol=2e-3 * np.abs(theirs[0]).max())
        assert ours[1] == pytest.approx(theirs[1], abs=5e-3)


def test_padding_and_order_change_nothing():
    x, positive = problem(7)
    cost = np.full(len(x), 0.1, np.float32)
    plain = trained(jnp.array(x), jnp.array(positive), jnp.array(cost), jax.random.key(0))
    padded = trained(
        jnp.array(np.concatenate([x, 100 * np.ones((9, 5), np.float32)])),
        jnp.array(np.concatenate([positive, np.ones(9, bool)])),
        jnp.array(np.concatenate([cost, np.zeros(9, np.float32)])),
        jax.random.key(1),
    )
    np.testing.assert_allclose(padded.weights, plain.weights, atol=2e-3)
    assert float(padded.bias) == pytest.approx(float(plain.bias), abs=5e-3)


def test_without_counted_examples_nothing_is_learnt():
    result = trained(jnp.ones((3, 2)), jnp.ones(3, bool), jnp.zeros(3), jax.random.key(0))
    assert not np.any(result.weights) and result.bias == 0


@pytest.mark.parametrize("features", [4, 40])
def test_ridge_regression_is_that_of_whitened_targets(features):
    rng = np.random.default_rng(features)
    x = rng.normal(size=(25, features)).astype(np.float32)
    t = (x[:, :4] @ rng.normal(size=(4, 4)) + 0.1 * rng.normal(size=(25, 4)) + 3).astype(np.float32)
    result = ridge(x, t, penalty=2.0)
    # By the book: the whitening matrix by its definition, the minimum by stacked least squares.
    centred = t.astype(np.float64) - t.astype(np.float64).mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / 25)
    whiten = vectors @ np.diag(1 / np.sqrt(values + 1e-3)) @ vectors.T
    rows = np.concatenate([x, np.ones((25, 1))], axis=1)
    stacked = np.concatenate([rows, np.sqrt(2.0) * np.eye(features + 1)])
    goal = np.concatenate([centred @ whiten, np.zeros((features + 1, 4))])
    solution = np.linalg.lstsq(stacked, goal, rcond=None)[0]
    expected = rows @ solution @ np.linalg.inv(whiten) + t.mean(axis=0)
    np.testing.assert_allclose(x @ result.weights + result.bias, expected, atol=1e-4)


def test_ridge_regression_of_one_example_gives_its_target():
    result = ridge(np.zeros((1, 3), np.float32), np.float32([[1, 2, 3, 4]]))
    np.testing.assert_allclose(result.bias, [1, 2, 3, 4])
    assert not result.weights.any()
