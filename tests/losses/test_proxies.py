"""Losses of proxies against their definitions in float64, one class after the other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.losses import cross_entropy
from cnn_jax.losses.proxies import cosines, proxy_nca

ROWS, SIZE, CLASSES, SCALE = 6, 12, 5, 20.0


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(ROWS, SIZE)), 0).astype(np.float32)
    proxies = (3 * rng.normal(size=(SIZE, CLASSES))).astype(np.float32)
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    return jnp.array(features), jnp.array(proxies), jnp.array(labels)


def cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def by_hand(features, proxies):
    return np.array([[cosine(x - np.float64(x).mean(), p) for p in proxies.T] for x in features])


def test_cosines_equal_their_definition(drawn):
    features, proxies, _ = drawn
    found = jax.vmap(cosines, (0, None))(features, proxies)
    np.testing.assert_allclose(found, by_hand(features, proxies), atol=1e-6)
    scaled = jax.vmap(cosines, (0, None))(7 * features + 2, 0.1 * proxies)
    np.testing.assert_allclose(scaled, found, atol=1e-5)


def test_features_of_zeros_have_a_finite_gradient(drawn):
    _, proxies, _ = drawn
    gradient = jax.grad(lambda x: cross_entropy(SCALE * cosines(x, proxies), jnp.int32(1)))
    assert np.isfinite(gradient(jnp.zeros(SIZE))).all()


def test_normalised_softmax_equals_its_definition(drawn):
    features, proxies, labels = drawn

    def loss(x, label):
        return cross_entropy(SCALE * cosines(x, proxies), label)

    found = jax.vmap(loss)(features, labels)
    for own, label, value in zip(by_hand(features, proxies), labels, found, strict=True):
        chances = [math.exp(SCALE * c) for c in own]
        assert value == pytest.approx(-math.log(chances[label] / sum(chances)), rel=1e-4)


def test_proxy_nca_leaves_the_own_class_out_of_the_denominator(drawn):
    features, proxies, labels = drawn
    scaled = SCALE * by_hand(features, proxies)
    logits = jnp.array(scaled, jnp.float32)
    found = jax.vmap(proxy_nca)(logits, labels)
    one_hot = jax.nn.one_hot(labels, CLASSES)
    np.testing.assert_allclose(jax.vmap(proxy_nca)(logits, one_hot), found, rtol=1e-6)
    for own, label, value in zip(scaled, labels, found, strict=True):
        others = sum(math.exp(s) for z, s in enumerate(own) if z != label)
        assert value == pytest.approx(-own[label] + math.log(others), rel=1e-4)
    weights = jnp.arange(1.0, CLASSES + 1)
    weighted = jax.vmap(lambda x, y: proxy_nca(x, y, class_weights=weights))(logits, labels)
    np.testing.assert_allclose(weighted, weights[labels] * found, rtol=1e-5)
    gradients = jax.vmap(jax.grad(proxy_nca))(logits, labels)
    assert np.isfinite(gradients).all()
    np.testing.assert_allclose(gradients.sum(axis=1), 0, atol=1e-5)
    assert (gradients[np.arange(ROWS), labels] == -1).all()


def test_a_distribution_weighs_the_terms_by_its_complement():
    logits, target = np.array([1.0, -2.0, 0.5]), np.array([0.7, 0.3, 0.0])
    others = (0.3 * math.exp(1.0)) + 0.7 * math.exp(-2.0) + math.exp(0.5)
    expected = -(0.7 * 1.0 + 0.3 * -2.0) + math.log(others)
    found = proxy_nca(jnp.array(logits, jnp.float32), jnp.array(target, jnp.float32))
    assert float(found) == pytest.approx(expected, rel=1e-5)
