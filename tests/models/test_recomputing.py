"""Blocks whose insides are computed again in the backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.models.summary import summarize, trace

SIZE = 32


def build(name, remat):
    return models.create(name, 5, width=0.25, remat=remat, stem="small")


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "densenet121", "googlenet"])
def test_the_insides_of_blocks_are_not_kept(name):
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    whole, recomputed = (summarize(trace(build(name, remat), image)) for remat in (False, True))
    assert recomputed.activation_bytes < 0.75 * whole.activation_bytes
    assert recomputed.multiply_adds == whole.multiply_adds
    assert recomputed.parameters == whole.parameters


def test_gradients_and_statistics_are_the_same():
    images = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE, 3))
    variables = build("resnet20", False).init(jax.random.key(1), images)

    def loss(params, remat):
        logits, moved = build("resnet20", remat).apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits[0] ** 2), moved

    results = [
        jax.jit(jax.value_and_grad(lambda p, r=remat: loss(p, r), has_aux=True))(
            variables["params"]
        )
        for remat in (False, True)
    ]
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)
