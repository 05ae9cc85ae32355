"""Errors of segmented cells, against scikit-learn's pairs and small images worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.cluster import pair_confusion_matrix

from cnn_jax.metrics import cells as metrics
from cnn_jax.metrics.cells import cells, pixel_error, warping_error
from cnn_jax.metrics.host import on_host


def drawn(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def rand_error(predicted, truth):
    return float(on_host(metrics.rand_error, cells(predicted), cells(truth)))


TWO = drawn(
    "###.####",
    "###.####",
    "###.####",
    "###.####",
)


def test_nothing_wrong_costs_nothing():
    assert pixel_error(TWO, TWO) == rand_error(TWO, TWO) == warping_error(TWO, TWO) == 0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_rand_error_is_that_of_scikit_learn_s_pairs(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.random((2, 7, 9)) < rng.uniform(0.2, 0.9)
    inside, beside = cells(truth)[truth], cells(predicted)[truth]
    error = rand_error(predicted, truth)
    if len(inside) < 2:
        assert error in (0, 1)
        return
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(inside, beside)
    pairs = 2 * true_positive + false_positive + false_negative
    assert error == pytest.approx(1 - 2 * true_positive / pairs if pairs else 0.0)


def test_a_thicker_membrane_is_no_topological_error():
    thicker = TWO.copy()
    thicker[:, 4] = False
    assert pixel_error(thicker, TWO) == 4 / 32
    assert warping_error(thicker, TWO) == 0
    moved = TWO.copy()
    moved[:, 3], moved[:, 4] = True, False
    assert warping_error(moved, TWO) == 0


def test_a_merger_is_an_error_of_both():
    merged = TWO.copy()
    merged[2, 3] = True
    # Closing the gap elsewhere would not help: one pixel stays.
    assert warping_error(merged, TWO) == 1 / 32
    # 12 and 16 pixels in one segment: 12*11 + 16*15 right pairs of 28*27.
    right, together = 12 * 11 + 16 * 15, 28 * 27
    assert rand_error(merged, TWO) == pytest.approx(1 - 2 * right / (right + together))


def test_a_hole_and_an_invented_cell_stay_wrong():
    whole = np.ones((5, 5), bool)
    hole = whole.copy()
    hole[2, 2] = False
    assert warping_error(hole, whole) == warping_error(whole, hole) == 1 / 25
    none = np.zeros((5, 5), bool)
    assert warping_error(~hole, none) == 1 / 25
    # A diagonal contact joins no cells of four neighbours, nor does it part the background.
    assert (
        warping_error(drawn("##..", "##..", "..##", "..##"), drawn("##..", "#...", "..##", "..##"))
        == 0
    )


def test_topology_s_changes_are_all_that_is_left():
    rng = np.random.default_rng(0)
    truth = rng.random((24, 24)) < 0.6
    predicted = truth.copy()
    flipped = rng.random(truth.shape) < 0.1
    predicted[flipped] ^= True
    error = warping_error(predicted, truth)
    assert 0 < error <= pixel_error(predicted, truth)


def test_without_cells():
    none = np.zeros((3, 3), bool)
    assert rand_error(none, none) == 0
    assert rand_error(none, TWO[:3, :3]) == 0  # one cell, whole, under one name
