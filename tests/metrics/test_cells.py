"""Errors of segmented cells, against other programs' formulas and small images worked by hand."""

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


def contingency(predicted, truth):
    """The number of pixels of each true cell and each predicted one, background in column 0."""
    table = np.zeros((truth.max() + 1, predicted.max() + 1))
    np.add.at(table, (truth, predicted), 1)
    return table[1:]


def challenge(table):
    """The challenge's formula: `foregroundRestrictedStatsN2` of Fiji's RandError."""
    n, background = table.sum(), table[:, 0].sum()
    both = np.sum((table[:, 1:] / n) ** 2) + background / n**2
    of_prediction = np.sum((table[:, 1:].sum(0) / n) ** 2) + background / n**2
    of_truth = np.sum((table.sum(1) / n) ** 2)
    precision, recall = both / of_prediction, both / of_truth
    return 1 - 2 * precision * recall / (precision + recall)


def adapted(table):
    """The formula of scikit-image's `adapted_rand_error`, with its `alpha` of a half."""
    n = table.sum()
    both = np.sum(table**2) - n
    of_prediction, of_truth = np.sum(table.sum(0) ** 2) - n, np.sum(table.sum(1) ** 2) - n
    return 1 - both / (0.5 * of_prediction + 0.5 * of_truth)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_rand_error_is_that_of_the_challenge_s_formula(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.random((2, 7, 9)) < rng.uniform(0.2, 0.9)
    if truth.any():
        expected = challenge(contingency(cells(predicted), cells(truth)))
        assert rand_error(predicted, truth) == pytest.approx(expected, abs=1e-12)


def test_without_predicted_background_pairs_are_those_of_other_programs():
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 4, (8, 9)), rng.integers(1, 5, (8, 9))
    table, inside = contingency(predicted, truth), truth > 0
    both, of_prediction, of_truth = on_host(metrics.rand_pairs, predicted, truth)
    # They leave out the pair of a pixel with itself.
    n = int(inside.sum())
    confusion = pair_confusion_matrix(truth[inside], predicted[inside])
    assert both - n == confusion[1, 1]
    assert of_prediction - n == confusion[1, 1] + confusion[0, 1]
    assert of_truth - n == confusion[1, 1] + confusion[1, 0]
    f_score = 2 * (both - n) / (of_prediction + of_truth - 2 * n)
    assert 1 - f_score == pytest.approx(adapted(table))


def test_a_membrane_that_is_too_thick_costs_its_pixels():
    """Of 12 and 16 true pixels, 8 and 12 are left; the other 8 are alone."""
    thick = drawn(
        "##...###",
        "##...###",
        "##...###",
        "##...###",
    )
    both = of_prediction = 8**2 + 12**2 + 8
    of_truth = 12**2 + 16**2
    assert rand_error(thick, TWO) == pytest.approx(1 - 2 * both / (of_prediction + of_truth))
    # For scikit-image, the background is one cell of 8 pixels that two true cells share.
    table = contingency(cells(thick), cells(TWO))
    shared = 1 - (8**2 + 12**2 + 2 * 4**2 - 28) / (0.5 * (8**2 + 12**2 + 8**2 + of_truth) - 28)
    assert adapted(table) == pytest.approx(shared)
    assert rand_error(np.zeros_like(TWO), TWO) == pytest.approx(1 - 2 * 28 / (28 + of_truth))


def test_pairs_of_several_images_add_up():
    merged = TWO.copy()
    merged[2, 3] = True
    images = [(merged, TWO), (TWO, TWO)]
    pairs = [on_host(metrics.rand_pairs, cells(p), cells(t)) for p, t in images]
    right, together = 12**2 + 16**2, 28**2
    assert np.array_equal(pairs, [[right, together, right], [right, right, right]])
    assert on_host(metrics.error_of_pairs, sum(pairs)) == pytest.approx(
        1 - 2 * (2 * right) / (together + 3 * right)
    )


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
    # 12 and 16 pixels in one segment: 12*12 + 16*16 right pairs of 28*28.
    right, together = 12**2 + 16**2, 28**2
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
    assert rand_error(TWO[:3, :3], none) == 0
    # One cell of nine pixels, each of which is alone.
    assert rand_error(none, TWO[:3, :3]) == pytest.approx(1 - 2 * 9 / (9 + 81))
