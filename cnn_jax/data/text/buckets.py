"""Batches of sentence pairs with few shapes; pairs of similar lengths share a batch.

Batch k is a pure function of (pairs, shapes, seed, k). Every shape is compiled once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cnn_jax.conventions import END, PAD
from cnn_jax.data.batches import Batch, process_rows
from cnn_jax.data.text.pairs import Pairs
from cnn_jax.data.text.vocabulary import Vocabulary
from cnn_jax.errors import UserError

Shape = tuple[int, int]
"""The numbers of source and target tokens in a bucket's rows."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Sentence pairs as token indices.

    Attributes:
        pairs: the sentence pairs, in the same order.
        source, target: token indices with their `END`.
        long: the number of pairs longer than the maximum, which were dropped or cut.
    """

    pairs: Pairs
    source: Sequence[np.ndarray]
    target: Sequence[np.ndarray]
    long: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def lengths(self) -> np.ndarray:
        """The numbers of source and target tokens, int [pairs, 2]."""
        return np.array([[len(s), len(t)] for s, t in zip(self.source, self.target, strict=True)])


def encode(
    pairs: Pairs, source: Vocabulary, target: Vocabulary, maximum: int, *, cut: bool
) -> Encoded:
    """Convert sentence pairs to token indices.

    Args:
        pairs: the sentences.
        source, target: their vocabularies.
        maximum: the largest number of tokens of a sentence, `END` included.
        cut: whether longer sentences are cut (for evaluation, which must not choose its examples)
            or dropped with their translations (for training). The missing end of a cut target
            counts nowhere.

    Raises:
        UserError: every pair is too long.
    """
    sources = [source.encode(text) for text in pairs.sources]
    targets = [target.encode(text) for text in pairs.targets]
    fits = [max(len(s), len(t)) <= maximum for s, t in zip(sources, targets, strict=True)]
    rows = range(len(pairs)) if cut else np.flatnonzero(fits).tolist()
    if not rows:
        raise UserError(f"{pairs.name}: no pair is within --max-length {maximum}")
    return Encoded(
        pairs.take(rows),
        [np.array([*sources[i][: maximum - 1], END][: len(sources[i])], np.int32) for i in rows],
        [np.array(targets[i][:maximum], np.int32) for i in rows],
        len(fits) - sum(fits),
    )


def bucket_shapes(lengths: np.ndarray, count: int) -> tuple[Shape, ...]:
    """Choose the shapes with the least padding among the percentiles of both lengths.

    Args:
        lengths: the lengths of the training data, int [pairs, 2].
        count: the largest number of shapes; the last one has the longest of both sides.
    """
    ordered = np.sort(lengths, axis=0)
    ranks = np.ceil(np.arange(1, 101) / 100 * len(lengths)).astype(int) - 1
    shapes = sorted({(int(s), int(t)) for s, t in ordered[ranks]})
    held = [int(np.sum(np.all(lengths <= shape, axis=1))) for shape in shapes]
    # Each shape contains the one before, so a bucket holds the pairs that fit its shape but not the
    # one before. best[j]: the least number of tokens, padding included, of shapes that end with j.
    best = [(held[j] * sum(shape), (j,)) for j, shape in enumerate(shapes)]
    for _ in range(count - 1):
        best = [
            min(
                best[j],
                *(
                    (best[i][0] + (held[j] - held[i]) * sum(shape), (*best[i][1], j))
                    for i in range(j)
                ),
            )
            if j
            else best[j]
            for j, shape in enumerate(shapes)
        ]
    return tuple(shapes[j] for j in best[-1][1])


def assign(lengths: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """Find the first shape that holds each pair; `len(shapes)` if none does."""
    fits = np.all(lengths[:, None] <= np.array(shapes)[None], axis=-1)
    return np.where(fits.any(1), fits.argmax(1), len(shapes))


class TrainingBuckets:
    """An endless stream of batches of one bucket each; an epoch has every pair once.

    A batch has `source` and `target` (int32 [rows, tokens]), `index` (in the pairs), `ordinal`
    (the row's position in the stream, which restarts from 0 at 2**31) and `valid`. The last batch
    of a bucket in an epoch is padded with rows that are not valid.
    """

    def __init__(
        self,
        data: Encoded,
        shapes: Sequence[Shape],
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Define the stream.

        Args:
            data: the pairs.
            shapes: the shapes of the buckets, from `bucket_shapes` for the same data.
            batch_size: the number of rows in a batch over all processes.
            seed: the run's seed.
            process_index, process_count: the index of this process, and the number of processes
                that share each batch.
        """
        self._data, self._shapes, self._seed = data, shapes, seed
        self._batch_size = batch_size
        self._rows = process_rows(batch_size, process_index, process_count)
        self._bucket = assign(data.lengths, shapes)
        counts = np.bincount(self._bucket, minlength=len(shapes))
        self.batches_per_epoch = int(np.sum(-(-counts // batch_size)))
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def __getitem__(self, step: int) -> Batch:
        """Return this process's rows of the batch for step `step`, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        bucket, indices = self._epoch(epoch)[place]
        ordinal = step * self._batch_size + np.arange(self._batch_size)
        batch = _batch(self._data, indices, self._shapes[bucket], self._batch_size)
        batch["ordinal"] = (ordinal % 2**31).astype(np.int32)
        return {name: column[self._rows] for name, column in batch.items()}

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start_step` on."""
        step = start_step
        while True:
            yield self[step]
            step += 1

    def _make_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """Return (bucket, pairs) of each batch of an epoch."""
        rng = np.random.default_rng([self._seed, *b"order", epoch])
        order = rng.permutation(len(self._data))
        batches = _cut(order, self._bucket, self._batch_size, len(self._shapes))
        return [batches[i] for i in rng.permutation(len(batches))]


class EvaluationBuckets:
    """Batches of every pair once, bucket by bucket; their content is as in `TrainingBuckets`."""

    def __init__(
        self,
        data: Encoded,
        shapes: Sequence[Shape],
        *,
        batch_size: int,
        maximum: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Define the batches; pairs too long for all shapes get one of `maximum` tokens."""
        self._data, self._batch_size = data, batch_size
        self._shapes = [*shapes, (maximum, maximum)]
        self._rows = process_rows(batch_size, process_index, process_count)
        bucket = assign(data.lengths, shapes)
        self._batches = _cut(np.arange(len(data)), bucket, batch_size, len(self._shapes))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        bucket, indices = self._batches[number]
        batch = _batch(self._data, indices, self._shapes[bucket], self._batch_size)
        return {name: column[self._rows] for name, column in batch.items()}

    def iterate(self) -> Iterator[Batch]:
        """Yield all batches."""
        return (self[number] for number in range(len(self)))


def _cut(
    order: np.ndarray, bucket: np.ndarray, batch_size: int, buckets: int
) -> list[tuple[int, np.ndarray]]:
    """Return (bucket, pairs) of each batch, with the pairs of a bucket in the given order."""
    batches = []
    for number in range(buckets):
        chosen = order[bucket[order] == number]
        for start in range(0, len(chosen), batch_size):
            batches.append((number, chosen[start : start + batch_size]))
    return batches


def _batch(data: Encoded, indices: np.ndarray, shape: Shape, rows: int) -> Batch:
    batch = {
        "source": np.full((rows, shape[0]), PAD, np.int32),
        "target": np.full((rows, shape[1]), PAD, np.int32),
        "index": np.zeros(rows, np.int32),
        "valid": np.arange(rows) < len(indices),
    }
    for row, index in enumerate(indices):
        source, target = data.source[index], data.target[index]
        batch["source"][row, : len(source)] = source
        batch["target"][row, : len(target)] = target
        batch["index"][row] = index
    return batch
