"""Batches of a source's examples, read ahead by threads or processes.

Batch k is a pure function of (source, transform, seed, k). A run can therefore continue without
saved state, and the number of threads, workers and processes does not affect the numbers.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from cnn_jax import memory, processors
from cnn_jax.data.shared import Arrays, Column, Kinds, SharedMemory, allocated, columns
from cnn_jax.data.source import Example, Source, Transform, unchanged
from cnn_jax.data.worker_batches import fetching
from cnn_jax.errors import UserError
from cnn_jax.progress import in_threads

Batch = dict[str, np.ndarray]
"""Arrays by name, those of every batch (`_OWN`) included; their first axis is the batch."""

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
    - `epoch` int32 [rows]: how many times the stream has passed the whole source before it,
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
        reading: str = "",
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
                memory (once for all worker processes) and read only once.
            order: the order of the stream; by default all examples, reshuffled every epoch.
            reading: a line for the user about who reads, which stays an attribute.

        Raises:
            UserError: the batch size is not divisible by the number of processes, or the source is
                empty.
        """
        rows = process_rows(batch_size, process_index, process_count)
        self.reading = reading
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

    def total_bytes(self) -> int:
        """Read one example, and return the bytes of `everything`."""
        return self._reader.load.examples.total_bytes()

    @property
    def keeps(self) -> bool:
        """True if the examples are kept in memory where they fit."""
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
        reading: str = "",
    ):
        """Define the batches; the arguments are those of `TrainingBatches`."""
        self.reading = reading
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
    """The transformed examples of a source, kept in memory if they fit.

    Worker processes share the memory with the process that started them, which alone notes what is
    there: a row counts as kept when its worker has handed in the batch that it is in.

    Attributes:
        source: the examples before the transform.
        keeps: whether examples are kept where they fit.
    """

    def __init__(self, source: Source, transform: Transform, cache_bytes: int):
        self.source = source
        self._transform = transform
        self.keeps = cache_bytes > 0
        # What is mapped from a disk is kept by the system; what is drawn is not drawn again.
        self._most_bytes: int | float = 0 if getattr(source, "mapped", False) else cache_bytes
        if getattr(source, "drawn", False) and cache_bytes:
            self._most_bytes = max(cache_bytes, memory.available() / 2)
        self._columns: Arrays | None = None
        self._shared: tuple[SharedMemory, list[Column], int] | None = None
        self._kept = np.zeros(0, bool)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_columns": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
        if self._shared is not None:
            self._map(self._shared)

    def __getitem__(self, index: int) -> Example:
        if self._columns is not None and self._kept[index]:
            return {name: column[index] for name, column in self._columns.items()}
        example = self._prepared(index)
        if self._columns is None and self._most_bytes:
            self._allocate(example, shared=False)
        self._keep(index, example)
        return example

    def total_bytes(self) -> int:
        """Read one example, and return the bytes of `stacked`."""
        return (len(self.source) + 1) * sum(value.nbytes for value in self._prepared(0).values())

    def stacked(self) -> Batch:
        """Read all examples into arrays, with a row of zeros after the last."""
        count, first = len(self.source), self._prepared(0)
        arrays = allocated({n: (v.dtype, (count + 1, *v.shape)) for n, v in first.items()})
        for column in arrays.values():
            column[count] = 0
        copy = self.gather(np.arange(count))
        if copy is not None:
            copy(arrays)
            return arrays

        def read(index: int) -> None:
            _put(arrays, index, self._prepared(index), self.source.describe)

        for _ in in_threads(read, range(count), "Reading examples"):
            pass
        return arrays

    def share(self, index: int) -> Kinds:
        """Prepare for worker processes, by an example; return its arrays' dtypes and shapes."""
        example = self._prepared(index)
        if self._shared is None and self._most_bytes:
            self._allocate(example, shared=True)
        return {name: (value.dtype, value.shape) for name, value in example.items()}

    def _prepared(self, index: int) -> Example:
        return {name: np.asarray(v) for name, v in self._transform(self.source[index]).items()}

    def kept(self, indices: np.ndarray) -> np.ndarray:
        """Mark the examples that are in memory."""
        return self._kept[indices] if self._columns is not None else np.zeros(len(indices), bool)

    def note(self, indices: np.ndarray) -> None:
        """Note examples that a worker process has kept, or that are kept already."""
        if self._columns is not None:
            self._kept[indices] = True

    def gather(self, indices: np.ndarray) -> Callable[[Arrays], None] | None:
        """Return what copies examples into the first rows of arrays, if that needs no reading.

        None where they must be read one by one.
        """
        own = self._columns
        if own is not None and self._kept[indices].all():

            def copy(rows: Arrays) -> None:
                for name, column in own.items():
                    # Of the modes, this one needs no array between.
                    np.take(column, indices, axis=0, out=rows[name][: len(indices)], mode="clip")

            return copy
        mapped = getattr(self.source, "gather", None)
        if mapped is None or self._transform is not unchanged:
            return None
        return lambda rows: mapped(indices, rows)

    def _keep(self, index: int, example: Example) -> None:
        """Keep an example where there is room for it; two threads may do so at once."""
        if self._columns is None or example.keys() != self._columns.keys():
            return
        for name, column in self._columns.items():
            value = example[name]
            if value.shape != column.shape[1:] or value.dtype != column.dtype:
                return  # it cannot be in one batch with the others, which is told there
            column[index] = value
        self._kept[index] = True

    def _allocate(self, example: Example, shared: bool) -> None:
        """Take the memory for all examples, which are as large as this one, if they may be kept."""
        count = len(self.source)
        kinds = {n: (v.dtype, (count, *v.shape)) for n, v in example.items()}
        laid, size = columns(kinds)
        with self._lock:
            if self._columns is not None and not shared:
                return  # another thread was first
            if count * sum(value.nbytes for value in example.values()) > self._most_bytes:
                self._most_bytes = 0
                return
            self._kept = np.zeros(count, bool)
            if shared:
                room = SharedMemory()
                room.enlarge(size)
                self._map((room, laid, size))
            else:
                self._columns = allocated(kinds)

    def _map(self, shared: tuple[SharedMemory, list[Column], int]) -> None:
        room, laid, size = shared
        whole = room.map(0, size)
        self._columns = {column.name: column.of(whole) for column in laid}
        self._shared = shared


@dataclass(frozen=True)
class _Shuffled:
    """The order of a training stream: a map from positions to indices of examples.

    It uses NumPy's permutations instead of Grain's shuffle, which handles one example at a time
    and takes milliseconds for each one of a small source.
    """

    count: int
    seed: int

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return in_epochs(
            positions, self.count, lambda epoch: _permutation(self.count, self.seed, epoch)
        )


def in_epochs(positions: np.ndarray, count: int, order: Callable[[int], np.ndarray]) -> np.ndarray:
    """Look positions of a stream up in the orders of its epochs.

    Args:
        positions: rising, without gaps.
        count: the examples of an epoch.
        order: returns the indices that an epoch has one after another, by its number.
    """
    epochs, places = np.divmod(positions, count)
    indices = np.empty_like(positions)
    for epoch in range(epochs[0], epochs[-1] + 1):
        chosen = epochs == epoch
        indices[chosen] = order(epoch)[places[chosen]]
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
        return self.into(step, allocated)

    def indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the stream of a batch's rows, and their indices."""
        first = step * self.batch_size
        positions = np.arange(first + self.rows.start, first + self.rows.stop)
        return positions, self.order(positions)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices of the examples that a batch is read from.

        A process whose rows are all padding still reads an example, to learn the shapes.
        """
        last = len(self.examples.source) - 1
        valid = indices[indices <= last]
        return valid if len(valid) else np.array([last])

    def places(self, step: int) -> Batch:
        """The batch without its examples, and the row of each among all of the source."""
        positions, indices = self.indices(step)
        count = len(self.examples.source)
        rows = np.minimum(indices, count).astype(np.int32)
        return {"row": rows, **_own(positions, indices, count)}

    def kinds(self, example: Kinds) -> Kinds:
        """The arrays of a batch of such examples."""
        rows = self.rows.stop - self.rows.start
        own = {name: (dtype, (rows, *shape)) for name, (dtype, shape) in example.items()}
        return own | {name: (dtype, (rows,)) for name, dtype in _OWN.items()}

    def into(self, step: int, allocate: Callable[[Kinds], Arrays]) -> Batch:
        """Load batch `step` into arrays that `allocate` returns."""
        source, (positions, indices) = self.examples.source, self.indices(step)
        valid, read = indices < len(source), self.read(indices)
        first = self.examples[int(read[0])]
        _require_memory(first, len(indices))
        batch = allocate(self.kinds({name: (v.dtype, v.shape) for name, v in first.items()}))
        copy = self.examples.gather(read)
        if copy is not None:
            copy(batch)
        else:
            for row, index in enumerate(read.tolist()):
                example = first if row == 0 else self.examples[index]
                _put(batch, row, example, lambda row: source.describe(int(read[row])))
        for name in first:
            batch[name][~valid] = 0
        for name, column in _own(positions, indices, len(source)).items():
            batch[name][:] = column
        return batch


_OWN = {"index": np.int32, "ordinal": np.int32, "epoch": np.int32, "valid": np.bool_}


def _own(positions: np.ndarray, indices: np.ndarray, count: int) -> Batch:
    """The fields that every batch has, of a source of `count` examples."""
    valid = indices < count
    columns = {
        "index": np.where(valid, indices, 0),
        "ordinal": positions % 2**31,
        "epoch": positions // count,
        "valid": valid,
    }
    return {name: column.astype(_OWN[name]) for name, column in columns.items()}


def _require_memory(example: Example, rows: int) -> None:
    """Refuse batches that do not fit: one that is read, one that waits, one on its way."""
    size = sum(np.asarray(value).nbytes for value in example.values())
    purpose = f"reading batches of {rows} examples of {memory.shown(size)}"
    memory.require(3 * rows * size, purpose, "a smaller batch size or image")


def _put(batch: Batch, row: int, example: Example, describe: Callable[[int], str]) -> None:
    """Copy an example into a row of a batch that has room for such as its first one."""
    if example.keys() != batch.keys() - _OWN.keys():
        first = ", ".join(sorted(batch.keys() - _OWN.keys()))
        raise UserError(
            f"{describe(row)} and {describe(0)}: examples with different contents "
            f"({', '.join(sorted(example))}; {first}) cannot be batched"
        )
    for name, value in example.items():
        room = batch[name][row]
        if np.shape(value) != np.shape(room):
            raise UserError(
                f"{describe(row)} and {describe(0)}: {name} of shapes {np.shape(value)} and "
                f"{np.shape(room)} cannot be batched; the transform must make them equal"
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
            return self._read(steps.map(self.load), min(processors.available(), _MAX_THREADS))
        return self._read_in_processes(steps, start)

    def _read(self, batches: grain.MapDataset, threads: int) -> Iterator[Batch]:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        with closing(iter(batches.to_iter_dataset(options))) as iterator:
            try:
                yield from iterator
            except UserError as error:
                # Without Grain's note about its own frames.
                raise UserError(*error.args) from None

    def _read_in_processes(self, steps: grain.MapDataset, start: int) -> Iterator[Batch]:
        with fetching(self.load, start, self.workers) as fetch:
            # Each thread waits for one process; one more batch is always in progress.
            yield from self._read(steps.map(fetch), self.workers + 1)


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
