"""Batches that worker processes load into shared memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.data.shared import Arrays, Column, Kinds, Slots, allocated, columns
from cnn_jax.data.workers import worker_processes

Batch = dict[str, np.ndarray]


@runtime_checkable
class Load(Protocol):
    """A function that loads the batch of a step; `cnn_jax.data.batches` has it.

    Attributes:
        examples: a `cnn_jax.data.batches.KeptRows`, of which worker processes have copies.
    """

    examples: Any

    def __call__(self, step: int) -> Batch:
        """Load a batch."""
        ...

    def into(self, step: int, allocate: Callable[[Kinds], Arrays]) -> Batch:
        """Load a batch into arrays that `allocate` returns."""
        ...

    def indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the stream of a batch's rows, and their indices."""
        ...

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices of the examples that a batch is read from."""
        ...

    def kinds(self, example: Kinds) -> Kinds:
        """The arrays of a batch of such examples."""
        ...


@contextmanager
def fetching(load: Load, start: int, workers: int) -> Iterator[Callable[[int], Batch]]:
    """Start processes that load batches; they end with the block.

    Args:
        load: the function that they call.
        start: the first step.
        workers: the number of processes.

    Yields:
        A function that waits for the batch of a step.

    Raises:
        UserError: see `worker_processes`.
    """
    first = load.read(load.indices(start)[1])[0]
    _, size = columns(load.kinds(load.examples.share(int(first))))
    slots = Slots(size)
    with worker_processes(_Fill(load, slots), workers) as submit:
        yield _Fetch(load, slots, submit)


@dataclass(frozen=True)
class _Fill:
    """The work of a worker process: it loads a batch into shared memory."""

    load: Load
    slots: Slots

    def __call__(self, task: tuple[int, int | None, np.ndarray]) -> list[Column] | Batch:
        """Return where the arrays lie in the slot; or the batch, where there is no room in it."""
        step, slot, kept = task
        indices = self.load.read(self.load.indices(step)[1])
        self.load.examples.note(indices[kept])
        laid: list[Column] = []

        def allocate(kinds: Kinds) -> Arrays:
            found = None if slot is None else self.slots.arrays(slot, kinds)
            if found is None:
                return allocated(kinds)
            laid.extend(found[0])
            return found[1]

        batch = self.load.into(step, allocate)
        return laid or batch


@dataclass(frozen=True)
class _Fetch:
    """The batch of a step, from memory or from a worker process."""

    load: Load
    slots: Slots
    submit: Callable[[Any], Future]

    def __call__(self, step: int) -> Batch:
        indices = self.load.read(self.load.indices(step)[1])
        kept = self.load.examples.kept(indices)
        if kept.all():
            return self.load(step)
        slot, found = self.slots.take(), None
        try:
            found = self.submit((step, slot, kept)).result()
        finally:
            if slot is not None and not isinstance(found, list):
                self.slots.free(slot)
        self.load.examples.note(indices)
        return self.slots.view(slot, found) if isinstance(found, list) else found
