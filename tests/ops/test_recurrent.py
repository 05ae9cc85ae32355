"""Recurrent cells against NumPy written from the equations, and against flax's other cell."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops import recurrent


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gated_by_the_book(state, x, w_z, w_r, w):
    """The lecture's equations, with one matrix for [state, x] each."""
    z = sigmoid(w_z @ np.concatenate([state, x]))
    r = sigmoid(w_r @ np.concatenate([state, x]))
    candidate = np.tanh(w @ np.concatenate([r * state, x]))
    return (1 - z) * state + z * candidate


def test_the_gated_cell_is_the_equations():
    hidden, size = 4, 3
    w_z, w_r, w = (normal(i, hidden, hidden + size) for i in range(3))
    state, x = normal(3, hidden), normal(4, size)
    projected = jnp.concatenate([m[:, hidden:] @ x for m in (w_z, w_r, w)])
    gates = jnp.concatenate([w_z[:, :hidden].T, w_r[:, :hidden].T], axis=1)
    ours = recurrent.gated_cell(state, projected, gates, w[:, :hidden].T)
    np.testing.assert_allclose(ours, gated_by_the_book(state, x, w_z, w_r, w), rtol=1e-5)


def test_closed_update_gate_keeps_the_state_and_closed_reset_gate_forgets_it():
    state, candidate = normal(0, 4), normal(1, 4)
    zeros, low, high = jnp.zeros((4, 8)), np.full(4, -99.0), np.full(4, 99.0)
    kernel = normal(2, 4, 4)

    def step(z, r):
        projected = jnp.concatenate([z, r, candidate]).astype(jnp.float32)
        return recurrent.gated_cell(state, projected, zeros, kernel)

    np.testing.assert_allclose(step(low, high), state, rtol=1e-6)
    np.testing.assert_allclose(step(high, low), np.tanh(candidate), rtol=1e-5)
    np.testing.assert_allclose(
        step(high, high), np.tanh(candidate + state @ kernel), rtol=1e-4, atol=1e-6
    )


def test_flaxs_gru_cell_is_a_different_cell():
    """On the same weights, even with flax's update gate turned round."""
    hidden, size = 4, 3
    cell = nn.GRUCell(hidden)
    state, x = normal(0, hidden), normal(1, size)
    params = cell.init(jax.random.key(0), state, x)["params"]
    z_and_r = jnp.concatenate([params["hz"]["kernel"], params["hr"]["kernel"]], axis=1)
    projected = [x @ params[name]["kernel"] for name in ("iz", "ir", "in")]
    # flax: h' = (1 - z) n + z h; turned round by the sign of what goes into z.
    turned = jnp.concatenate([-projected[0], projected[1], projected[2]])
    gates = jnp.concatenate([-z_and_r[:, :hidden], z_and_r[:, hidden:]], axis=1)
    ours = recurrent.gated_cell(state, turned, gates, params["hn"]["kernel"])
    theirs, _ = cell.apply({"params": params}, state, x)
    assert not np.allclose(ours, theirs, atol=1e-3)
    # Only the reset gate is left between them: where it is open, they agree.
    opened = jnp.concatenate([-projected[0], jnp.full(hidden, 99.0), projected[2]])
    ours = recurrent.gated_cell(state, opened, gates, params["hn"]["kernel"])
    params["ir"]["bias"] = jnp.full(hidden, 99.0)
    theirs, _ = cell.apply({"params": params}, state, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_running_skips_padding_in_both_directions():
    inputs, kernel = normal(0, 5, 3), normal(1, 3, 3)
    mask = jnp.array([True, True, True, False, False])

    def cell(state, x):
        return recurrent.tanh_cell(state, x, kernel)

    for reverse in (False, True):
        last, states = recurrent.run(cell, jnp.zeros(3), inputs, mask, reverse)
        order = [2, 1, 0] if reverse else [0, 1, 2]
        state = np.zeros(3)
        for j in order:
            state = np.tanh(inputs[j] + state @ kernel)
            np.testing.assert_allclose(states[j], state, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(last, state, rtol=1e-4, atol=1e-6)
        assert (np.asarray(states[3:]) == 0).all()
