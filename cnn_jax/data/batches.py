"""From a source to batches: which examples make batch k, read ahead by threads or processes.

Batch k is a pure function of (source, transform, seed, k). Nothing has to be saved to go on where a
run stopped, and the number of threads, workers and processes does not show in the numbers.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import grain
import numpy as np

from cnn_jax.data.source import Example, Source, Transform
from cnn_jax.data.workers import worker_processes
from cnn_jax.errors import UserError

Batch = dict[str, np.ndarray]
"""Names to arrays whose first axis is the batch; `index`, `ordinal` and `valid` among them."""

Order = Callable[[np.ndarray], np.ndarray]
"""From positions in a stream to indices of examples; what lies beyond the source is padding."""

_MAX_THREADS = 16


class TrainingBatches:
    """An endless stream of batches: each epoch is a new permutation of the source.

    Epochs follow each other without a seam: a batch may hold the last examples of one and the first
    of the next. Besides the stacked examples a batch has

    - `ordinal` int32 [rows]: the example's position in the stream, the key of its augmentation (it
      begins again from 0 at 2**31),
    - `index` int32 [rows]: its index in the source,
    - `valid` bool [rows]: all true.

    Each of several processes gets its own rows of every batch: the stream is theirs together.
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
        """Describes the stream; nothing is read yet.

        Args:
            source: the examples.
            transform: prepares one example on the host; gives all examples the same shapes.
            batch_size: the number of examples in a batch over all processes.
            seed: the run's seed.
            process_index: which of the processes this is.
            process_count: the number of processes that share each batch.
            workers: worker processes that read ahead; 0 reads ahead in threads.
            cache_bytes: examples are kept as the transform leaves them, and read only once, where
                all of them together take at most so much memory (in each worker process).
            order: which examples make the stream; by default all, in a new order each epoch.

        Raises:
            UserError: the batch size does not divide by the number of processes, or the source is
                empty.
        """
        rows = process_rows(batch_size, process_index, process_count)
        order = order or _Shuffled(_length(source), seed)
        load = _Load(KeptRows(source, transform, cache_bytes), order, batch_size, rows)
        self._reader = _Reader(load, sys.maxsize // batch_size, workers)

    def __getitem__(self, step: int) -> Batch:
        """This process's rows of the batch that step number `step`, from 0, trains on."""
        return self._reader.load(step)

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """The batches from `start_step` on, read ahead; close the iterator to stop reading."""
        return self._reader.read_ahead(start_step)


class EvaluationBatches:
    """Every example once, in order; the last batch is filled up with rows that are not `valid`.

    The rows added are zeros with `valid` false. With several processes, each gets its own rows of
    every batch, so that all have equally many batches.
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
        """Describes the batches, as `TrainingBatches` does."""
        rows = process_rows(batch_size, process_index, process_count)
        load = _Load(KeptRows(source, transform, cache_bytes), _in_order, batch_size, rows)
        self._reader = _Reader(load, -(-_length(source) // batch_size), workers)

    @property
    def rows(self) -> "KeptRows":
        """The examples one by one, as the transform leaves them, for another reader of the same."""
        return self._reader.load.examples

    def __len__(self) -> int:
        return self._reader.count

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        return self._reader.load(number)

    def iterate(self) -> Iterator[Batch]:
        """All batches, read ahead; close the iterator to stop reading."""
        return self._reader.read_ahead()


class KeptRows:
    """The examples of a source as the transform leaves them, kept in memory where they fit."""

    def __init__(self, source: Source, transform: Transform, cache_bytes: int):
        self.source = source
        self._transform = transform
        self._cache_bytes = cache_bytes
        self._kept: dict[int, Example] = {}

    def __getitem__(self, index: int) -> Example:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        # Copies: what a transform cuts out of a large image must not keep all of it in memory.
        example = {
            name: np.array(value) for name, value in self._transform(self.source[index]).items()
        }
        # All examples are equally large, so that each one tells whether all fit. Threads that meet
        # here at worst prepare the same example twice.
        if sum(v.nbytes for v in example.values()) * len(self.source) <= self._cache_bytes:
            self._kept[index] = example
        return example


@dataclass(frozen=True)
class _Shuffled:
    """The order of a training stream: for each position in it, the index of an example.

    NumPy's permutations rather than Grain's shuffle, which takes an example at a time and, for
    small sources, milliseconds for each.
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
    """Makes batch number `step`; positions past the end of the source are padding."""

    examples: KeptRows
    order: Order
    batch_size: int
    rows: slice

    def __call__(self, step: int) -> Batch:
        source = self.examples.source
        first = step * self.batch_size
        positions = np.arange(first + self.rows.start, first + self.rows.stop)
        indices = self.order(positions)
        valid = indices < len(source)
        # A process whose rows are all padding still reads an example, to know the shapes.
        read = indices[valid].tolist() or [len(source) - 1]
        examples = [self.examples[index] for index in read]
        batch = _stack(examples, len(indices), lambda row: source.describe(read[row]))
        for column in batch.values():
            column[~valid] = 0
        return batch | {
            "index": np.where(valid, indices, 0).astype(np.int32),
            "ordinal": (positions % 2**31).astype(np.int32),
            "valid": valid,
        }


def _stack(examples: Sequence[Example], count: int, describe: Callable[[int], str]) -> Batch:
    """Stacks examples key by key into `count` rows, of which the first are the examples."""
    first = {name: np.asarray(value) for name, value in examples[0].items()}
    batch = {name: np.empty((count, *value.shape), value.dtype) for name, value in first.items()}
    for row, example in enumerate(examples):
        if example.keys() != first.keys():
            raise UserError(
                f"{describe(row)} and {describe(0)}: examples with different contents "
                f"({', '.join(sorted(example))}; {', '.join(sorted(first))}) cannot be batched"
            )
        for name, value in example.items():
            if np.shape(value) != first[name].shape:
                raise UserError(
                    f"{describe(row)} and {describe(0)}: {name} of shapes {np.shape(value)} and "
                    f"{first[name].shape} cannot be batched; the transform must make them equal"
                )
            batch[name][row] = value
    return batch


@dataclass(frozen=True)
class _Reader:
    """Reads batches ahead of their use, in order: in Grain's threads, which may have processes."""

    load: _Load
    count: int
    workers: int

    def read_ahead(self, start: int = 0) -> Iterator[Batch]:
        """The batches from `start` on; closing the iterator ends all threads and processes."""
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
                # Without what Grain adds about its own frames.
                raise UserError(*error.args) from None

    def _read_in_processes(self, steps: grain.MapDataset) -> Iterator[Batch]:
        with worker_processes(self.load, self.workers) as submit:
            # Each thread waits for one process; one more batch is always on its way.
            batches = steps.map(lambda step: submit(step).result())
            yield from self._read(batches, self.workers + 1)


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a batch that one process reads."""
    if batch_size % process_count:
        raise UserError(
            f"--batch-size {batch_size}: does not divide by the {process_count} processes"
        )
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _length(source: Source) -> int:
    if len(source) == 0:
        raise UserError("the data set has no examples")
    return len(source)
