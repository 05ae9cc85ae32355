"""One pass over a set of examples: what is measured on the device, and what is made of it after."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.training import parallel
from cnn_jax.training.clock import DeviceClock
from cnn_jax.training.feeding import HostBatch
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Rows, Sums, Task

T = TypeVar("T")
Watcher = Callable[[HostBatch, Any], None]


@runtime_checkable
class EvaluationSet(Protocol):
    """All of a set's examples once, the last batch padded with `valid` False."""

    def iterate(self) -> Iterator[HostBatch]:
        """The batches in order, equally many on every process."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one pass over a set, the same on every process.

    Attributes:
        metrics: the figures.
        sums: what they were divided from (confusion matrix, calibration bins, ...).
        details: what the task derived besides (see `cnn_jax.metrics.summary.Summary`).
    """

    metrics: dict[str, float]
    sums: Sums
    details: Any = None


def evaluate(
    task: Task,
    step_function: Callable[[TrainState, Any], tuple[Sums, Rows, Any]],
    state: TrainState,
    batches: EvaluationSet,
    *,
    watch: Watcher | None = None,
    stop: threading.Event | None = None,
) -> Evaluation:
    """Evaluate every example of a set once; a batch costs the same whatever the size of the set.

    Sums are added and rows collected batch by batch; the metrics are computed once, at the end. The
    rows of the set are then in memory once.

    Args:
        task: see `Task`.
        step_function: from `parallel.compile_evaluation_step`.
        state: what to evaluate.
        batches: the set.
        watch: shown every (host batch, predictions) of this process, for pictures and exports.
        stop: from `stopping.noted`; ends the evaluation early.

    Raises:
        UserError: the set holds no example.
        UnfinishedError: it was stopped, on all processes before the same batch.
    """
    with closing(DeviceClock()) as clock:
        return collect(task, step_function, state, batches, clock, watch, stop)()


def collect(
    task: Task,
    step_function: Callable[[TrainState, Any], tuple[Sums, Rows, Any]],
    state: TrainState,
    batches: EvaluationSet,
    clock: DeviceClock,
    watch: Watcher | None = None,
    stop: threading.Event | None = None,
) -> Callable[[], Evaluation]:
    """Do the part of `evaluate` that needs the device; return the rest as a function."""
    if stop is not None:
        batches = _UntilStopped(batches, stop)
    total, collected, started, examples = None, [], time.perf_counter(), 0
    running = _one_behind(
        (host, clock.step(step_function, state, batch, ends_with=0))
        for host, batch in parallel.prefetch(batches.iterate(), during=clock.during)
    )
    for host, (sums, rows, predictions) in running:
        if watch is not None:
            watch(host, parallel.merge(predictions))
        sums = jax.tree.map(_wide, sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
        examples = int(total["examples"])
        if rows:
            rows = parallel.gather(rows)
            valid = rows.pop("valid")
            collected.append(jax.tree.map(lambda x, valid=valid: x[valid], rows))
    if not examples:
        raise UserError("--data: the evaluation set holds no example")
    rate = examples / (time.perf_counter() - started)

    def summarize() -> Evaluation:
        metrics, details = task.summarize(total, _in_set_order(collected))
        metrics["examples_per_second"] = rate
        return Evaluation(metrics, total, details)

    return summarize


def _one_behind(items: Iterator[T]) -> Iterator[T]:
    """Yield each item when the next one has been made: the device works on that meanwhile."""
    previous = next(items, None)
    for item in items:
        yield previous
        previous = item
    if previous is not None:
        yield previous


def _in_set_order(batches: list[Rows]) -> Rows:
    """Join the rows of a set's batches, ordered by `index`; without any, nothing.

    The list is emptied on the way, so that no row is kept twice.
    """
    if not batches:
        return {}
    indices = np.concatenate([rows.pop("index") for rows in batches])
    places = np.empty(len(indices), np.int64)
    places[np.argsort(indices, kind="stable")] = np.arange(len(indices))
    whole = jax.tree.map(lambda x: np.empty((len(indices), *x.shape[1:]), x.dtype), batches[0])
    start = 0
    while batches:
        rows = batches.pop(0)
        own = places[start : start + len(jax.tree.leaves(rows)[0])]
        for column, part in zip(jax.tree.leaves(whole), jax.tree.leaves(rows), strict=True):
            column[own] = part
        start += len(own)
    return whole


def _wide(x: Any) -> np.ndarray:
    """Convert to NumPy, integers to 64 bits: the pixels of a large set need them."""
    x = np.asarray(x)
    return x.astype(np.int64) if np.issubdtype(x.dtype, np.integer) else x


@dataclass(frozen=True)
class _UntilStopped:
    """The batches of a set; raises UnfinishedError where the run is to stop."""

    batches: EvaluationSet
    stop: threading.Event

    def iterate(self) -> Iterator[HostBatch]:
        for batch in self.batches.iterate():
            if parallel.agreed_stop(self.stop.is_set()):
                raise UnfinishedError("stopped while evaluating")
            yield batch
