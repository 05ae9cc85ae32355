"""Smaller training sets: proportions of classes, and tagged examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import data
from cnn_jax.data.subsets import drawn_indices, subset


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_each_group_has_its_share_to_within_one(sizes, share, seed):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(groups))
    found = drawn_indices(groups, count, seed)
    assert len(set(found)) == count and (np.diff(found) > 0).all()
    having = np.bincount(groups[found], minlength=len(sizes))
    assert (np.abs(having - np.array(sizes) * count / len(groups)) <= 1).all()


def test_the_draw_is_written_down_and_that_of_another_seed_is_another():
    groups = np.zeros(100, np.int64)
    assert drawn_indices(groups, 10, 0) == [5, 13, 33, 39, 51, 59, 74, 75, 79, 87]
    assert drawn_indices(groups, 10, 1) != drawn_indices(groups, 10, 0)


class Tagged:
    """Examples with tags; the last one of four has the rare one."""

    class_names = ("common", "rare")
    labels = np.array([[True, i % 4 == 3] for i in range(40)])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        raise AssertionError("no image is read")

    def describe(self, index):
        return str(index)


def test_tagged_examples_are_drawn_by_their_rarest_tag():
    for seed in range(5):
        chosen = subset(Tagged(), 8, seed, by_class=True)
        assert chosen.labels[:, 1].sum() == 2
        assert len(subset(Tagged(), 8, seed, by_class=False)) == 8


@pytest.mark.parametrize("formats", [data.FORMATS, data.MASK_FORMATS])
def test_of_drawn_scenes_the_first_ones_are_taken(formats):
    source = data.open_source("shapes", "train", image_size=32, formats=formats)
    chosen = subset(source, 5, 3, by_class=True)
    assert [chosen.describe(i) for i in range(5)] == [source.describe(i) for i in range(5)]
