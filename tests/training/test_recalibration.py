"""Recalibration of batch norm: the mean of the batches' own statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.models.layers import BatchNorm, on_axis
from cnn_jax.training import prng
from cnn_jax.training.recalibration import recalibrated
from cnn_jax.training.state import create


class Normalized:
    """A task whose network is one batch norm."""

    def __init__(self, momentum=0.9):
        self.norm = BatchNorm(use_running_average=False, momentum=momentum)

    def init(self, key):
        variables = dict(self.norm.init(key, jnp.zeros((2, 3))))
        return variables.pop("params"), variables

    def loss(self, params, model_state, batch, keys, axis_name=None):
        variables = {"params": params, **model_state}
        y, moved = on_axis(self.norm, axis_name).apply(
            variables, batch["x"], mutable=["batch_stats"]
        )
        return jnp.sum(y), (moved, {"examples": len(batch["x"])})

    # Nothing is evaluated here.
    predict = measure = summarize = init


class Batches:
    def __init__(self, values):
        self.values = values

    def iterate(self, start_step):
        return ({"x": x} for x in self.values[start_step:])


def state_of(ema):
    params, model_state = Normalized().init(jax.random.key(0))
    return create(params, model_state, optax.identity(), ema=ema)


def check(result, values):
    mean, variance = values.mean(axis=1), values.var(axis=1)
    np.testing.assert_allclose(result["batch_stats"]["mean"], mean.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result["batch_stats"]["var"], variance.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.6])
def test_the_statistics_are_the_mean_over_batches(momentum):
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, (6, 8, 3)).astype(np.float32)
    change = partial(
        recalibrated, task=Normalized(momentum), batches=Batches(values), key=prng.root(0)
    )
    before = state_of(ema=False)
    after = change(before, steps=4)
    check(after.model_state, values[:4])
    assert after.params is before.params
    averaged = change(state_of(ema=True), steps=6)
    check(averaged.ema[1], values)


def test_a_network_without_statistics_stays_as_it_is():
    state = create({"w": jnp.ones(2)}, {}, optax.identity())
    assert recalibrated(state, Normalized(), Batches([]), 3, prng.root(0)) is state
