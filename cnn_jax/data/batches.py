"""Batches of a source's examples, read ahead by threads or processes.

Batch k is a pure function of (source, transform, seed, k). A run can therefore continue without
saved state, and the number of threads, workers and processes does not affect the numbers.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import grain
import numpy as np

from cnn_jax import memory
from cnn_jax.data.source import Example, Source, Transform
from cnn_jax.data.workers import worker_processes
from cnn_jax.errors import UserError
from cnn_jax.progress import in_threads

Batch = dict[str, np.ndarray]
"""Arrays by name, `index`, `ordinal` and `valid` included; their first axis is the batch."""

Order = Callable[[np.ndarray], np.ndarray]
"""A map from positions in a stream to indices of examples; those beyond the source are padding."""

_MAX_THREADS = 16


class TrainingBatches:
    """An endless stream of batches: each epoch is a new permutation of the source.

    A batch may hold the last examples of one epoch and the first of the next. Besides the stacked
    examples, a batch has

    - `ordinal` int32 [rows]: the example's position in the stream, the key of its augmentation (it
      restarts from 0 at 2**31),
    - `index` int32 [rows]: its index in the source,
    - `valid` bool [rows]: all true.

    Several processes share the stream: each gets its own rows of every batch.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 0,
        cache_bytes: int = 0,
        order: Order | None = None,
    ):
        """Define the stream; nothing is read yet.

        Args:
            source: the examples.
            transform: prepares one example on the host; gives all examples the same shapes.
            batch_size: the number of examples in a batch over all processes.
            seed: the run's seed.
            process_index: the index of this process.
            process_count: the number of processes that share each batch.
            workers: the number of worker processes that read ahead; 0 reads ahead in threads.
            cache_bytes: the largest size of all transformed examples at which they are kept in
                memory (of each worker process) and read only once.
            order: the order of the stream; by default all examples, reshuffled every epoch.

        Raises:
            UserError: the batch size is not divisible by the number of processes, or the source is
                empty.
        """
        rows = process_rows(batch_size, process_index, process_count)
        order = order or _Shuffled(_length(source), seed)
        load = _Load(KeptRows(source, transform, cache_bytes), order, batch_size, rows)
        self._reader = _Reader(load, sys.maxsize // batch_size, workers)

    def __getitem__(self, step: int) -> Batch:
        """Return this process's rows of the batch for step `step`, counted from 0."""
        return self._reader.load(step)

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start_step` on, read ahead; close the iterator to stop."""
        return self._reader.read_ahead(start_step)

    def everything(self) -> Batch:
        """Read all examples, stacked in the order of the source, and a row of zeros for padding."""
        return self._reader.load.examples.stacked()

    @property
    def nbytes(self) -> int:
        """The bytes of `everything`; one example is read to learn that."""
        return self._reader.load.examples.nbytes

    @property
    def keeps(self) -> bool:
        """Whether the examples are kept in memory where they fit."""
        return self._reader.load.examples.keeps

    def places(self, step: int) -> Batch:
        """Return a batch without its examples: `index`, `ordinal`, `valid`, and `row`.

        `row` int32 [rows] is where each example is among `everything`.
        """
        return self._reader.load.places(step)


class EvaluationBatches:
    """Batches of every example once, in order; the last batch is padded.

    Padding rows are zeros with `valid` false. With several processes, each gets its own rows of
    every batch, so all have the same number of batches.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        *,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 0,
        cache_bytes: int = 0,
    ):
        """Define the batches; the arguments are those of `TrainingBatches`."""
        rows = process_rows(batch_size, process_index, process_count)
        load = _Load(KeptRows(source, transform, cache_bytes), _in_order, batch_size, rows)
        self._reader = _Reader(load, -(-_length(source) // batch_size), workers)

    @property
    def rows(self) -> "KeptRows":
        """The transformed examples one by one, for another reader of the same source."""
        return self._reader.load.examples

    def __len__(self) -> int:
        return self._reader.count

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        return self._reader.load(number)

    def iterate(self) -> Iterator[Batch]:
        """Yield all batches, read ahead; close the iterator to stop reading."""
        return self._reader.read_ahead()


class KeptRows:
    """The transformed examples of a source, kept in memory if they fit."""

    def __init__(self, source: Source, transform: Transform, cache_bytes: int):
        self.source = source
        self._transform = transform
        self._cache_bytes = cache_bytes
        self._kept: dict[int, Example] = {}

    def __getitem__(self, index: int) -> Example:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        # Copies: a crop of a large image must not keep the whole image in memory.
        example = {
            name: np.array(value) for name, value in self._transform(self.source[index]).items()
        }
        # All examples are equally large, so each one shows whether all fit. At worst, two threads
        # prepare the same example.
        if sum(v.nbytes for v in example.values()) * len(self.source) <= self._cache_bytes:
            self._kept[index] = example
        return example

    @property
    def keeps(self) -> bool:
        """Whether any number of bytes is kept."""
        return self._cache_bytes > 0

    @property
    def nbytes(self) -> int:
        """The bytes of `stacked`; one example is read to learn that."""
        sizes = (np.asarray(value).nbytes for value in self[0].values())
        return (len(self.source) + 1) * sum(sizes)

    def stacked(self) -> Batch:
        """Read all examples into arrays, with a row of zeros after the last."""
        count = len(self.source)
        arrays = _allocate(self[0], count + 1)
        for column in arrays.values():
            column[count] = 0

        def read(index: int) -> None:
            _put(arrays, index, self._transform(self.source[index]), self.source.describe)

        for _ in in_threads(read, range(count), "Reading examples"):
            pass
        return arrays


@dataclass(frozen=True)
class _Shuffled:
    """The order of a training stream: a map from positions to indices of examples.

    It uses NumPy's permutations instead of Grain's shuffle, which handles one example at a time
    and takes milliseconds for each one of a small source.
    """

    count: int
    seed: int

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, self.count)
        indices = np.empty_like(positions)
        for epoch in range(epochs[0], epochs[-1] + 1):
            chosen = epochs == epoch
            indices[chosen] = _permutation(self.count, self.seed, epoch)[places[chosen]]
        return indices


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, *b"order", epoch]).permutation(count)


def _in_order(positions: np.ndarray) -> np.ndarray:
    return positions


@dataclass(frozen=True)
class _Load:
    """A function that loads batch `step`; positions beyond the source are padding."""

    examples: KeptRows
    order: Order
    batch_size: int
    rows: slice

    def __call__(self, step: int) -> Batch:
        source = self.examples.source
        positions, indices, valid = self._of(step)
        # A process whose rows are all padding still reads an example, to learn the shapes.
        read = indices[valid].tolist() or [len(source) - 1]
        first_example = self.examples[read[0]]
        _require_memory(first_example, len(indices))
        examples = [first_example, *(self.examples[index] for index in read[1:])]
        batch = _stack(examples, len(indices), lambda row: source.describe(read[row]))
        for column in batch.values():
            column[~valid] = 0
        return batch | _fields(positions, indices, valid)

    def places(self, step: int) -> Batch:
        """The batch without its examples, and the row of each among all of the source."""
        positions, indices, valid = self._of(step)
        rows = np.minimum(indices, len(self.examples.source)).astype(np.int32)
        return {"row": rows, **_fields(positions, indices, valid)}

    def _of(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = step * self.batch_size
        positions = np.arange(first + self.rows.start, first + self.rows.stop)
        indices = self.order(positions)
        return positions, indices, indices < len(self.examples.source)


def _fields(positions: np.ndarray, indices: np.ndarray, valid: np.ndarray) -> Batch:
    """The fields that every batch has."""
    return {
        "index": np.where(valid, indices, 0).astype(np.int32),
        "ordinal": (positions % 2**31).astype(np.int32),
        "valid": valid,
    }


def _require_memory(example: Example, rows: int) -> None:
    """Refuse batches that do not fit: one that is read, one that waits, one on its way."""
    size = sum(np.asarray(value).nbytes for value in example.values())
    purpose = f"reading batches of {rows} examples of {memory.shown(size)}"
    memory.require(3 * rows * size, purpose, "a smaller batch size or image")


def _stack(examples: Sequence[Example], count: int, describe: Callable[[int], str]) -> Batch:
    """Stack examples key by key into the first of `count` rows."""
    batch = _allocate(examples[0], count)
    for row, example in enumerate(examples):
        _put(batch, row, example, describe)
    return batch


def _allocate(example: Example, rows: int) -> Batch:
    """Room for so many examples that are like this one."""
    arrays = {name: np.asarray(value) for name, value in example.items()}
    return {name: np.empty((rows, *value.shape), value.dtype) for name, value in arrays.items()}


def _put(batch: Batch, row: int, example: Example, describe: Callable[[int], str]) -> None:
    """Write an example into its row of a batch that was allocated for examples like row 0's."""
    if example.keys() != batch.keys():
        raise UserError(
            f"{describe(row)} and {describe(0)}: examples with different contents "
            f"({', '.join(sorted(example))}; {', '.join(sorted(batch))}) cannot be batched"
        )
    for name, value in example.items():
        shape = batch[name].shape[1:]
        if np.shape(value) != shape:
            raise UserError(
                f"{describe(row)} and {describe(0)}: {name} of shapes {np.shape(value)} and "
                f"{shape} cannot be batched; the transform must make them equal"
            )
        batch[name][row] = value


@dataclass(frozen=True)
class _Reader:
    """A reader of batches ahead of their use, in order: Grain's threads, optionally processes."""

    load: _Load
    count: int
    workers: int

    def read_ahead(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start` on; closing the iterator ends threads and processes."""
        steps = grain.MapDataset.range(start, self.count)
        if not self.workers:
            return self._read(steps.map(self.load), min(os.cpu_count() or 1, _MAX_THREADS))
        return self._read_in_processes(steps)

    def _read(self, batches: grain.MapDataset, threads: int) -> Iterator[Batch]:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        with closing(iter(batches.to_iter_dataset(options))) as iterator:
            try:
                yield from iterator
            except UserError as error:
                # Without Grain's note about its own frames.
                raise UserError(*error.args) from None

    def _read_in_processes(self, steps: grain.MapDataset) -> Iterator[Batch]:
        with worker_processes(self.load, self.workers) as submit:
            # Each thread waits for one process; one more batch is always in progress.
            batches = steps.map(lambda step: submit(step).result())
            yield from self._read(batches, self.workers + 1)


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """Select the rows of a batch that one process reads."""
    if batch_size % process_count:
        raise UserError(
            f"--batch-size {batch_size}: is not divisible by the {process_count} processes"
        )
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _length(source: Source) -> int:
    if len(source) == 0:
        raise UserError("the data set has no examples")
    return len(source)
