"""The optimizer's updates: bias rates and frozen parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.errors import UserError
from cnn_jax.training.optimizers import optimizer

PARAMS = {
    "backbone": {
        "conv1": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
        "conv2": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
    },
    "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
}


def moved(**options):
    """Return the distance by which a step moves each parameter against a gradient of ones."""
    transformation = optimizer("sgd", 0.1, **options)
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = transformation.update(gradient, transformation.init(PARAMS), PARAMS)
    new = optax.apply_updates(PARAMS, updates)
    return jax.tree.map(lambda a, b: float((b - a)[0]), new, PARAMS), state


def test_biases_learn_at_a_multiple_of_the_rate():
    moves, _ = moved(bias_rate=2.0)
    for layer in (moves["backbone"]["conv1"], moves["backbone"]["conv2"], moves["head"]):
        np.testing.assert_allclose([layer["kernel"], layer["bias"]], [0.1, 0.2], rtol=1e-5)


def test_modules_learn_at_their_own_rates():
    moves, _ = moved(rates={"backbone/conv1": 0.25, "backbone/conv": 9.0, "head": 2.0})
    for layer, factor in (
        (moves["backbone"]["conv1"], 0.25),
        (moves["backbone"]["conv2"], 1.0),  # whole names count, not their beginnings
        (moves["head"], 2.0),
    ):
        np.testing.assert_allclose(list(layer.values()), 0.1 * factor, rtol=1e-5)


def test_rates_beside_frozen_parameters_and_decay():
    moves, _ = moved(rates={"head": 0.5}, frozen=["backbone/conv1"], weight_decay=1.0)
    assert set(moves["backbone"]["conv1"].values()) == {0.0}
    np.testing.assert_allclose(list(moves["backbone"]["conv2"].values()), 0.2, rtol=1e-5)
    np.testing.assert_allclose(list(moves["head"].values()), 0.1, rtol=1e-5)


def test_frozen_parameters_stay_and_have_no_state():
    moves, state = moved(
        frozen=["backbone/conv1"], options={"momentum": 0.9}, weight_decay=1.0, clip_norm=1.0
    )
    assert set(moves["backbone"]["conv1"].values()) == {0.0}
    # A gradient of eight ones is clipped to a norm of 1; the decay adds 1.
    expected = 0.1 * (1 / np.sqrt(8) + 1)
    for layer in (moves["backbone"]["conv2"], moves["head"]):
        np.testing.assert_allclose(list(layer.values()), expected, rtol=1e-5)
    momenta = [x for x in jax.tree.leaves(state) if getattr(x, "shape", ()) == (2,)]
    assert len(momenta) == 4


def test_a_frozen_name_that_no_parameter_has():
    with pytest.raises(UserError, match="--frozen backbone/cov1: no parameter has this prefix"):
        optimizer("sgd", 0.1, frozen=["backbone/cov1"]).init(PARAMS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpsgd", {}, "optimizer dpsgd: needs a value of l2_norm_clip, noise_multiplier, seed; "),
        (
            "dpsgd",
            {"l2_norm_clip": 1.0, "noise_multiplier": 1.0, "seed": 0.0},
            "optimizer dpsgd: cannot be used so",
        ),
        ("noisy_sgd", {}, "optimizer noisy_sgd: its state holds a random key"),
        ("adam", {"mu_dtype": 1.0}, "optimizer adam: cannot be used so"),
        ("adam", {"b1": float("nan")}, "optimizer_options b1=nan: must be a number in [0, 1]"),
        ("adam", {"b1": 5.0}, "optimizer_options b1=5.0: must be a number in [0, 1]"),
        ("adam", {"eps": float("inf")}, "optimizer_options eps=inf: must be a number in [0, 1e6]"),
        ("adam", {"nesterov": 3.0}, "optimizer_options nesterov=3.0: must be true or false"),
        ("sgd", {"momentum": True}, "optimizer_options momentum=True: must be a number in [0, 1]"),
        ("muon", {"ns_steps": 1.5}, "optimizer_options ns_steps=1.5: must be a whole number in "),
        ("sgd", {"key": 0.0}, "optimizer sgd: has no option 'key'; it has "),
    ],
)
def test_optimizers_and_options_that_cannot_be_used_are_told_when_they_are_built(
    name, options, message
):
    with pytest.raises(UserError) as caught:
        optimizer(name, 0.1, options=options)
    assert str(caught.value).startswith(message)


def test_an_option_that_counts_is_whole():
    assert optimizer("muon", 0.1, options={"ns_steps": 5.0})
