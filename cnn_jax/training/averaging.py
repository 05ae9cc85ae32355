"""Averages over the steps of training: a moving average, and look-ahead.

Both keep a second pair of (params, model_state) in the state, which evaluation uses. The moving
average only follows; look-ahead sets training back to it again and again.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class MovingAverage:
    """The exponential moving average.

    Attributes:
        decay: the weight of the old average in a step.
    """

    decay: float

    def __call__(self, step: Int[Array, ""], new: Any, average: Any) -> tuple[Any, Any]:
        """Move the average after a step; training goes on from `new`.

        Args:
            step: the number of updates made.
            new: (params, model_state) after the last of them.
            average: the average before it.

        Returns:
            What training goes on from, and the average.
        """
        return new, optax.incremental_update(new, average, 1.0 - self.decay)


@dataclass(frozen=True)
class Lookahead:
    """Look-ahead with a weight that changes over the run (Jordan 2024, section 3.4).

    Every few steps the average moves towards what was trained, and training goes on from it (Zhang
    et al. 2019, "Lookahead optimizer: k steps forward, 1 step back"). Batch statistics are averaged
    too.

    Attributes:
        every: the steps from one look-ahead to the next.
        weight: the weight of the old average by step, see `growing`.
    """

    every: int
    weight: optax.Schedule

    def __call__(self, step: Int[Array, ""], new: Any, average: Any) -> tuple[Any, Any]:
        """Look ahead if it is time to; arguments and results are those of `MovingAverage`."""
        due = step % self.every == 0
        weight = self.weight(step)
        # In this form, parameters that do not change keep their bits.
        moved = jax.tree.map(lambda a, b: a - weight * (a - b), new, average)
        return tuple(
            jax.tree.map(lambda a, b: jnp.where(due, a, b), moved, other)
            for other in (new, average)
        )


def growing(total_steps: int, decay: float = 0.95**5, power: float = 3.0) -> optax.Schedule:
    """Make the weight of the old average that hardly holds training back at first.

    It is `decay * (step / total_steps) ** power`, and averages over many steps at the end.
    """

    def weight(step: Int[Array, ""]) -> Float[Array, ""]:
        return decay * (step.astype(jnp.float32) / total_steps) ** power

    return weight


Average = MovingAverage | Lookahead
