"""Recurrent cells, and a loop that runs one along a padded sequence.

A cell receives the product of its input with the input matrix: ``W [s, x] = U s + W_x x``. This
product does not depend on the state and is cheapest for all positions at once. Leading axes are
batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def tanh_cell(
    state: Float[Array, "*batch hidden"],
    projected: Float[Array, "*batch hidden"],
    kernel: Float[Array, "hidden hidden"],
) -> Float[Array, "*batch hidden"]:
    """Compute ``h = tanh(U x + W h_prev)``, the simple recurrence (Elman 1990).

    Args:
        state: ``h_prev``.
        projected: ``U x`` with its bias.
        kernel: ``W``, applied from the right.
    """
    return jnp.tanh(projected + state @ kernel)


def gated_cell(
    state: Float[Array, "*batch hidden"],
    projected: Float[Array, "*batch three_hidden"],
    gates_kernel: Float[Array, "hidden two_hidden"],
    candidate_kernel: Float[Array, "hidden hidden"],
) -> Float[Array, "*batch hidden"]:
    """Apply the gated unit whose reset gate acts on the state before the product::

        z = sigmoid(W_z [s_prev, x])
        r = sigmoid(W_r [s_prev, x])
        s~ = tanh(W [r * s_prev, x])
        s = (1 - z) * s_prev + z * s~

    `flax.linen.GRUCell` and torch's GRU are different cells: there the reset gate multiplies the
    product, ``tanh(W_x x + r * (U s_prev + b))``, and z and 1 - z are swapped.

    Args:
        state: ``s_prev``.
        projected: the input's part of the three products, biases included, concatenated: update
            gate z, reset gate r, candidate s~.
        gates_kernel: the state's part of ``W_z`` and ``W_r``, concatenated.
        candidate_kernel: the state's part of ``W``.

    References:
        Cho et al., `Learning Phrase Representations using RNN Encoder-Decoder for Statistical
        Machine Translation <https://arxiv.org/abs/1406.1078>`_, 2014, section 2.3
        Bahdanau et al., `Neural Machine Translation by Jointly Learning to Align and Translate
        <https://arxiv.org/abs/1409.0473>`_, 2015, appendix A.1.1
    """
    z_input, r_input, candidate_input = jnp.split(projected, 3, axis=-1)
    z_state, r_state = jnp.split(state @ gates_kernel, 2, axis=-1)
    z = jax.nn.sigmoid(z_input + z_state)
    r = jax.nn.sigmoid(r_input + r_state)
    candidate = jnp.tanh(candidate_input + (r * state) @ candidate_kernel)
    return (1 - z) * state + z * candidate


def run(
    cell: Callable[[Array, Array], Array],
    state: Float[Array, "*batch hidden"],
    inputs: Float[Array, "*batch time size"],
    mask: Bool[Array, "*batch time"],
    reverse: bool = False,
) -> tuple[Float[Array, "*batch hidden"], Float[Array, "*batch time hidden"]]:
    """Run a cell along a sequence; positions outside the mask leave the state unchanged.

    Args:
        cell: (state, input) -> state.
        state: the state before the first position.
        inputs: the cell's input at each position.
        mask: the positions that exist.
        reverse: whether to run from the last position to the first.

    Returns:
        The state after the last position of the mask, and the state at every position, zero
        outside the mask.
    """

    def step(state: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        projected, present = at
        state = jnp.where(present[..., None], cell(state, projected), state)
        return state, state

    along = (jnp.moveaxis(inputs, -2, 0), jnp.moveaxis(mask, -1, 0))
    state, states = jax.lax.scan(step, state, along, reverse=reverse)
    return state, jnp.moveaxis(states, 0, -2) * mask[..., None].astype(states.dtype)
