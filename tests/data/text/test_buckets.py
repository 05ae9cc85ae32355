"""Batches of pairs: every pair once an epoch, few shapes, a function of (seed, step)."""

import itertools

import numpy as np
import pytest

from cnn_jax.conventions import END, PAD
from cnn_jax.data.text.buckets import (
    EvaluationBuckets,
    TrainingBuckets,
    assign,
    bucket_shapes,
    encode,
)
from cnn_jax.data.text.pairs import Pairs
from cnn_jax.data.text.vocabulary import Vocabulary
from cnn_jax.errors import UserError


def made(count, longest=12, seed=0):
    rng = np.random.default_rng(seed)
    texts = [["a" * n for n in rng.integers(1, longest, count)] for _ in range(2)]
    return Pairs(*texts, "made")


VOCABULARY = Vocabulary.build(["a"], "char")


def encoded(pairs, maximum=20, cut=False):
    return encode(pairs, VOCABULARY, VOCABULARY, maximum, cut=cut)


def test_every_pair_once_an_epoch_in_few_shapes():
    data = encoded(made(103))
    shapes = bucket_shapes(data.lengths, 3)
    stream = TrainingBuckets(data, shapes, batch_size=8, seed=1)
    for epoch in range(2):
        steps = range(epoch * stream.batches_per_epoch, (epoch + 1) * stream.batches_per_epoch)
        batches = [stream[step] for step in steps]
        seen = np.concatenate([b["index"][b["valid"]] for b in batches])
        assert sorted(seen) == list(range(103))
        assert {(b["source"].shape[1], b["target"].shape[1]) for b in batches} <= set(shapes)
        for batch in batches:
            for row in np.flatnonzero(batch["valid"]):
                source = batch["source"][row]
                np.testing.assert_array_equal(
                    source[source != PAD], data.source[batch["index"][row]]
                )
            assert (batch["source"][~batch["valid"]] == PAD).all()
    orders = [np.concatenate([stream[s]["index"] for s in range(4)]) for s in (0,)]
    other = TrainingBuckets(data, shapes, batch_size=8, seed=2)
    assert not np.array_equal(orders[0], np.concatenate([other[s]["index"] for s in range(4)]))


def test_a_stream_goes_on_anywhere_and_processes_share_it():
    data = encoded(made(50))
    shapes = bucket_shapes(data.lengths, 2)
    stream = TrainingBuckets(data, shapes, batch_size=4, seed=0)
    iterator = stream.iterate(17)
    halves = [
        TrainingBuckets(data, shapes, batch_size=4, seed=0, process_index=i, process_count=2)
        for i in range(2)
    ]
    for step in range(17, 40):
        batch = next(iterator)
        np.testing.assert_equal(batch, stream[step])
        assert batch["ordinal"].tolist() == list(range(4 * step, 4 * step + 4))
        parts = [half[step] for half in halves]
        for name, column in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), column)


def padded(lengths, shapes):
    """Tokens of all rows, padding included."""
    return sum(sum(shapes[bucket]) for bucket in assign(lengths, shapes))


def test_shapes_hold_everything_with_the_least_padding():
    lengths = encoded(made(200)).lengths
    shapes = bucket_shapes(lengths, 4)
    assert len(shapes) == 4
    percentiles = np.sort(lengths, axis=0)[1::2].tolist()
    others = sorted({tuple(shape) for shape in percentiles})
    assert padded(lengths, shapes) == min(
        padded(lengths, [*chosen, others[-1]]) for chosen in itertools.combinations(others[:-1], 3)
    )
    assert shapes[-1] == tuple(lengths.max(0))
    assert assign(lengths, shapes).max() == 3
    assert bucket_shapes(lengths, 1) == (shapes[-1],)
    equal = np.full((10, 2), 5)
    assert bucket_shapes(equal, 3) == ((5, 5),)


def test_evaluation_has_every_pair_even_those_longer_than_in_training():
    shapes = bucket_shapes(encoded(made(60, longest=8)).lengths, 2)
    data = encoded(made(45, longest=30), cut=True)
    batches = list(EvaluationBuckets(data, shapes, batch_size=8, maximum=20).iterate())
    seen = np.concatenate([b["index"][b["valid"]] for b in batches])
    assert sorted(seen) == list(range(45))
    assert {b["source"].shape for b in batches} <= {
        (8, s) for s in (shapes[0][0], shapes[-1][0], 20)
    }


def test_long_sentences_are_left_out_of_training_and_cut_for_evaluation():
    pairs = Pairs(["aaa", "a" * 9, "aa"], ["a", "a", "a" * 7], "made")
    train, held = encoded(pairs, 6), encoded(pairs, 6, cut=True)
    assert (len(train), train.long) == (1, 2)
    assert (len(held), held.long) == (3, 2)
    assert held.source[1].tolist() == [4, 4, 4, 4, 4, END]
    # A target that goes on beyond the maximum has no end to be right about.
    assert held.target[2].tolist() == [4] * 6
    assert held.source[0].tolist() == [4, 4, 4, END]
    with pytest.raises(UserError, match=r"--max-length 2"):
        encoded(pairs, 2)
