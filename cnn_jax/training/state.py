"""The state of a run at a step: arrays only, no functions and no keys."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """The state of training. Its leaves are arrays, shapes, or anything else that maps over a tree.

    Attributes:
        step: the number of updates made, int32 [].
        params: the parameters that the optimizer updates.
        model_state: the variables that the model updates in training (batch statistics).
        opt_state: the optimizer's state.
        ema: the average of (params, model_state) over steps, or None (see
            `cnn_jax.training.averaging`).
    """

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: tuple[Any, Any] | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network is applied with in training."""
        return {"params": self.params, **self.model_state}


def create(
    params: Any, model_state: Any, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Create the state before the first step; with `ema`, the average starts from these values."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        # Copies: a donated buffer must appear in the state only once.
        ema=_copy((params, model_state)) if ema else None,
    )


def evaluated(state: TrainState) -> tuple[Any, Any]:
    """Return the (params, model_state) for evaluation: the moving average if there is one."""
    return (state.params, state.model_state) if state.ema is None else state.ema


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
