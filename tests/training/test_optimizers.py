"""The optimizer's updates: bias rates, decay, frozen parameters, and Muon's matrices."""

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
    with pytest.raises(UserError, match="frozen backbone/cov1: no parameter has this prefix"):
        optimizer("sgd", 0.1, frozen=["backbone/cov1"]).init(PARAMS)


@jax.numpy_dtype_promotion("standard")  # optax's schedules, as `train_step` calls them
def test_parameters_can_be_trained_for_some_steps_only():
    transformation = optimizer("sgd", 0.1, frozen_after={"head/bias": 2}, frozen=["backbone/conv1"])
    params, state = PARAMS, transformation.init(PARAMS)
    ways = []
    for _ in range(4):
        updates, state = transformation.update(params, state, params)
        ways.append(jax.tree.map(lambda x: float(x[0]), updates))
        params = optax.apply_updates(params, updates)
    assert [way["head"]["bias"] != 0 for way in ways] == [True, True, False, False]
    assert all(way["head"]["kernel"] != 0 for way in ways)
    assert all(way["backbone"]["conv1"]["bias"] == 0 for way in ways)
    with pytest.raises(UserError, match=r"^frozen_after hed: no parameter .*; nearest: head"):
        optimizer("sgd", 0.1, frozen_after={"hed": 2}).init(PARAMS)


NORMED = {
    "conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
    "norm": {"bias": jnp.ones(2)},
    "scaled": {"norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)}},
}


def test_biases_of_normalisation_can_have_a_rate_of_their_own():
    transformation = optimizer("sgd", 0.1, bias_rate=64.0, bias_rate_on="norms")
    updates, _ = transformation.update(NORMED, transformation.init(NORMED), NORMED)
    rates = jax.tree.map(lambda x: round(-float(x[0]), 4), updates)
    assert rates == {
        "conv": {"kernel": 0.1, "bias": 0.1},
        "norm": {"bias": 6.4},
        "scaled": {"norm": {"scale": 0.1, "bias": 6.4}},
    }


def test_decoupled_decay_takes_the_same_share_of_every_parameter():
    """With gradients of zero: at the highest rate the share asked for, at half of it the half."""
    still = jax.tree.map(jnp.zeros_like, NORMED)
    for rate, highest, share in ((2.0, 2.0, 0.01), (1.0, 2.0, 0.005), (0.0, 0.0, 0.0)):
        options = {"bias_rate": 64.0, "bias_rate_on": "norms", "weight_decay": 0.01}
        transformation = optimizer("sgd", rate, **options, decoupled=True, highest_rate=highest)
        updates, _ = transformation.update(still, transformation.init(NORMED), NORMED)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(leaf, -share, rtol=1e-5)
    with pytest.raises(UserError, match=r"^optimizer adamw: must be one without a decay"):
        optimizer("adamw", 0.1, weight_decay=0.1, decoupled=True)


def test_the_recipe_s_update_is_that_of_torch_s_groups():
    """Three steps of Nesterov SGD, biases at 64 times the rate and the same decay, in NumPy."""
    rate, momentum, decay = 0.5, 0.85, 0.002
    transformation = optimizer(
        "sgd",
        rate,
        options={"momentum": momentum, "nesterov": True},
        weight_decay=decay,
        bias_rate=64.0,
        bias_rate_on="norms",
        decoupled=True,
        highest_rate=rate,
    )
    rng = np.random.default_rng(0)
    params, state = NORMED, transformation.init(NORMED)
    values, momenta = jax.tree.map(np.float64, NORMED), jax.tree.map(np.zeros_like, NORMED)
    factors = jax.tree.map(lambda _: 1.0, NORMED)
    factors["norm"]["bias"] = factors["scaled"]["norm"]["bias"] = 64.0
    for _ in range(3):
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), NORMED)
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        whole = jax.tree.map(lambda g, p, f: g + decay / (rate * f) * p, gradient, values, factors)
        momenta = jax.tree.map(lambda m, g: momentum * m + g, momenta, whole)
        values = jax.tree.map(
            lambda p, g, m, f: p - rate * f * (g + momentum * m), values, whole, momenta, factors
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, values)


@jax.numpy_dtype_promotion("standard")  # as above
def test_muon_makes_kernels_of_convolutions_orthogonal():
    """As matrices [out, height * width * in]; Adam has the rest, at its own rate."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv": {"kernel": (3, 3, 4, 8), "bias": (8,)},
        "wide": {"kernel": (1, 1, 4, 16)},
        "head": {"kernel": (8, 5)},
        "words": {"embedding": (6, 5)},
    }
    params = jax.tree.map(
        lambda shape: jnp.array(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5})
    options = {"ns_steps": 6.0, "adam_learning_rate": 0.02, "nesterov": False}
    transformation = optimizer("muon", schedule, options=options, highest_rate=0.1)
    state, update = transformation.init(params), jax.jit(transformation.update)
    for rate in (0.1, 0.05):
        updates, state = update(params, state, params)
        for layer, fan in (("conv", 1.0), ("wide", 2.0), ("head", 1.0)):
            kernel = np.asarray(updates[layer]["kernel"])
            matrix = kernel.reshape(-1, kernel.shape[-1]).T
            sizes = np.linalg.svd(matrix, compute_uv=False) / (rate * fan)
            assert sizes.min() > 0.6 and sizes.max() < 1.3, (layer, sizes)
        # The first steps of Adam against one gradient are its rate.
        for leaf in (updates["conv"]["bias"], updates["words"]["embedding"]):
            np.testing.assert_allclose(np.abs(leaf), 0.2 * rate, rtol=1e-2)


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
