"""Orders that draw rare classes more often: shares, rounding, the same indices from anywhere."""

import pickle
from collections import Counter

import numpy as np
import pytest

from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.sampling import SampledOrder, class_balanced, rarest, repeat_factors
from cnn_jax.data.source import unchanged
from cnn_jax.data.surveys.classes import Classes
from tests.data.test_batches import Numbers, assert_same


def labelled(labels):
    return Classes(len(labels), np.arange(len(labels)), np.array(labels))


LABELS = np.repeat([0, 1, 2], [70, 27, 3])

# Objects of four images: 0 and 0; 0 and 1; 2; none.
OBJECTS = Classes(4, np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 2]))


def epochs(order, count, number):
    return order(np.arange(number * count)).reshape(number, count)


def test_every_class_has_its_share_of_every_epoch():
    order = SampledOrder(class_balanced(labelled(LABELS)), LABELS, seed=5)
    drawn = epochs(order, 100, 40)
    for epoch in drawn:
        counts = np.bincount(LABELS[epoch])
        # A third of 100, rounded down or up; each example of the rarest class as often as another.
        assert counts.sum() == 100 and set(counts) <= {33, 34}
        rare = np.bincount(epoch, minlength=100)[97:]
        assert set(rare) <= {11, 12}
    # Over the epochs all examples come, and alike within a class.
    totals = np.bincount(drawn.ravel(), minlength=100)
    assert totals[:70].min() > 0
    np.testing.assert_allclose(totals[:70].mean(), 40 * 100 / 3 / 70, rtol=0.02)
    assert totals[:70].std() < 5
    assert len({tuple(epoch) for epoch in drawn}) == 40


def test_the_place_in_an_epoch_does_not_show_the_class():
    order = SampledOrder(class_balanced(labelled(LABELS)), LABELS, seed=5)
    first = LABELS[epochs(order, 100, 300)[:, :10]]
    for label in range(3):
        assert (first == label).mean() == pytest.approx(1 / 3, abs=0.03)


def test_class_aware_sampling_draws_a_class_and_then_an_image_of_it():
    # Of the class 0 two images, of 1 and 2 one; the image without objects is never drawn.
    expected = 4 / 3 * np.array([1 / 2, 1 / 2 + 1, 1, 0])
    shares = class_balanced(OBJECTS)
    np.testing.assert_allclose(shares, expected)
    order = SampledOrder(shares, rarest(OBJECTS), seed=0)
    counts = np.bincount(order(np.arange(4 * 3000)), minlength=4)
    np.testing.assert_allclose(counts / 3000, expected, atol=0.03)
    assert counts[3] == 0
    np.testing.assert_array_equal(class_balanced(Classes(2, *np.zeros((2, 0), int))), [1, 1])


def test_repeat_factors_are_those_of_the_paper():
    threshold = 0.4
    in_share = {0: 2 / 4, 1: 1 / 4, 2: 1 / 4}
    factor = {c: max(1.0, np.sqrt(threshold / f)) for c, f in in_share.items()}
    per_image = [factor[0], max(factor[0], factor[1]), factor[2], 1.0]
    expected = np.array(per_image) * 4 / sum(per_image)
    np.testing.assert_allclose(repeat_factors(OBJECTS, threshold), expected)
    # Where no class is below the threshold, every image comes once in an epoch.
    shares = repeat_factors(OBJECTS, 0.1)
    np.testing.assert_array_equal(shares, np.ones(4))
    drawn = epochs(SampledOrder(shares, rarest(OBJECTS), seed=2), 4, 5)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(4), (5, 1)))
    # Half of a class's images lack 0.001 of the share that is wanted: the root of it is lacking.
    labels = labelled([0] * 9999 + [1])
    assert repeat_factors(labels, 0.001)[-1] == pytest.approx(np.sqrt(10), rel=1e-3)


def test_an_image_counts_among_its_rarest_class():
    assert rarest(OBJECTS).tolist() == [0, 1, 2, -1]
    assert rarest(labelled(LABELS)).tolist() == LABELS.tolist()


def test_the_order_is_a_function_of_the_seed_and_the_position():
    shares = class_balanced(labelled(LABELS))
    order, again = (SampledOrder(shares, LABELS, seed=7) for _ in range(2))
    whole = order(np.arange(1000))
    for start in (0, 37, 512, 990):
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(again))(np.arange(start, start + 10)),
            whole[start : start + 10],
        )
    other = SampledOrder(shares, LABELS, seed=8)(np.arange(1000))
    assert (other != whole).any() and Counter(LABELS[other]).keys() == {0, 1, 2}


@pytest.mark.parametrize(
    ("workers", "cache_bytes"),
    [(0, 0), (0, 10**6), (1, 10**6), pytest.param(2, 0, marks=pytest.mark.slow)],
)
def test_batches_are_the_same_however_they_are_read(workers, cache_bytes):
    labels = np.arange(30) // 25
    order = SampledOrder(class_balanced(labelled(labels)), labels, seed=1)

    def batches(**reading):
        return TrainingBatches(Numbers(30), unchanged, batch_size=8, seed=1, order=order, **reading)

    plain, read = batches(), batches(workers=workers, cache_bytes=cache_bytes)
    iterator = read.iterate(3)
    for step in range(3, 9):
        assert_same(next(iterator), plain[step])
    iterator.close()
    # The way of the device: the places of the examples among all of them.
    everything, places = read.everything(), read.places(5)
    np.testing.assert_array_equal(everything["image"][places["row"]], plain[5]["image"])
    for name in ("index", "ordinal", "epoch", "valid"):
        np.testing.assert_array_equal(places[name], plain[5][name])
    # Two processes have the halves of every batch.
    halves = [batches(process_index=i, process_count=2)[5]["index"] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), plain[5]["index"])
    # A repeated example has a key of its own for its augmentation.
    assert len(set(plain[0]["ordinal"])) == 8
