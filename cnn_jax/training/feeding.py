"""How examples reach the step: batch by batch from the host, or from arrays on the device.

Both give the same states and sums to the last bit.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.training import parallel
from cnn_jax.training.clock import DeviceClock
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Sums, Task

HostBatch = dict[str, np.ndarray]

STEPS_AT_ONCE = 32
"""The most updates in one program. A stop and the progress bar wait for them."""


@runtime_checkable
class Batches(Protocol):
    """Training batches: batch k is a function of the seed and k."""

    def iterate(self, start_step: int) -> Iterator[HostBatch]:
        """Batches start_step, start_step + 1, ... without end."""
        ...


@runtime_checkable
class WholeSet(Batches, Protocol):
    """Training batches whose examples can be had all at once.

    Attributes:
        keeps: whether the examples are to be kept in memory at all.
        reading: a line for the user about who reads them; empty for none.
    """

    keeps: bool
    reading: str

    def total_bytes(self) -> int:
        """The bytes of all examples."""
        ...

    def everything(self) -> HostBatch:
        """All examples, stacked."""
        ...

    def places(self, step: int) -> HostBatch:
        """A batch without its examples; `row` int32 [rows] says where they are in `everything`."""
        ...


class Feed(Protocol):
    """What makes updates of a state."""

    def advance(
        self, state: TrainState, sums: Sums | None, key: jax.Array, most: int
    ) -> tuple[TrainState, Sums, int]:
        """Make at least one update and at most `most`.

        Returns:
            The new state, the sums with those of the new updates added, and their number.
        """
        ...


class FromHost:
    """One update a call, from batches that are copied to the device as they are read.

    Args:
        task, optimizer: see `Task`.
        batches: the examples.
        step: the number of updates made before.
        clock: told what is done.
        settings: `accumulate` and `average` of `train_step`.
    """

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        batches: Batches,
        step: int,
        clock: DeviceClock,
        **settings: Any,
    ) -> None:
        self._step = parallel.compile_train_step(task, optimizer, **settings)
        self._examples = parallel.prefetch(batches.iterate(step), during=clock.during)
        self._add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
        self._clock = clock
        self._queued: deque[Sums] = deque()

    def advance(
        self, state: TrainState, sums: Sums | None, key: jax.Array, most: int
    ) -> tuple[TrainState, Sums, int]:
        """Make one update."""
        _, batch = next(self._examples)
        state, new = self._clock.step(self._step, state, batch, key, ends_with=1)
        # At most two steps are queued: batches do not pile up on the device.
        self._queued.append(new)
        if len(self._queued) > 2:
            jax.block_until_ready(self._queued.popleft())
        return state, new if sums is None else self._add(sums, new), 1


class FromDevice:
    """Many updates a call, from examples that all lie on the device; see `FromHost`."""

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        batches: WholeSet,
        step: int,
        clock: DeviceClock,
        **settings: Any,
    ) -> None:
        self._task, self._optimizer = task, optimizer
        self._steps = parallel.compile_train_steps(task, optimizer, **settings)
        self._batches, self._at, self._clock = batches, step, clock
        with clock.during("loading"):
            self._examples = parallel.replicate(batches.everything())
        self._none: Sums | None = None
        self._queued: deque[Sums] = deque()

    def advance(
        self, state: TrainState, sums: Sums | None, key: jax.Array, most: int
    ) -> tuple[TrainState, Sums, int]:
        """Make as many updates as one program does."""
        count = min(most, STEPS_AT_ONCE)
        with self._clock.during("data"):
            each = [self._batches.places(self._at + number) for number in range(count)]
            each += each[-1:] * (STEPS_AT_ONCE - count)
            places = {name: np.stack([one[name] for one in each]) for name in each[0]}
        if sums is None:
            sums = self._no_sums(state, each[0])
        state, sums = self._clock.step(
            self._steps,
            state,
            sums,
            self._examples,
            parallel.split_steps(places),
            np.int32(count),
            key,
            ends_with=1,
        )
        self._at += count
        self._queued.append(sums)
        if len(self._queued) > 1:
            jax.block_until_ready(self._queued.popleft())
        return state, sums, count

    def _no_sums(self, state: TrainState, places: HostBatch) -> Sums:
        """Zeros in place of the sums of the steps before the first."""
        if self._none is None:
            rows = len(places["row"])
            batch = {
                k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype)
                for k, v in self._examples.items()
            }
            batch |= {k: v for k, v in places.items() if k != "row"}
            self._none = parallel.replicate(
                parallel.no_sums(self._task, self._optimizer, state, batch)
            )
        return self._none
