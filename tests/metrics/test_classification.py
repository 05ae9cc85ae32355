"""Classification metrics against scikit-learn and plain loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from cnn_jax.metrics import classification as metrics
from cnn_jax.metrics.classification import (
    CalibrationBins,
    calibration_bins,
    confusion_matrix,
    expected_calibration_error,
    mean_class_accuracy,
    per_class_accuracy,
    top_k_correct,
)

EXAMPLES, CLASSES = 200, 6


def _random_scores(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    logits = rng.normal(size=(EXAMPLES, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    return jnp.array(logits, jnp.float32), jnp.array(labels, jnp.int32)


def _top_k(logits, labels, k):
    return jax.vmap(top_k_correct, in_axes=(0, 0, None))(logits, labels, k)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
@pytest.mark.filterwarnings("ignore:.*will result in a perfect score")
def test_top_k_equals_sklearn(k):
    logits, labels = _random_scores()
    expected = sklearn_metrics.top_k_accuracy_score(
        labels, logits, k=k, normalize=False, labels=np.arange(CLASSES)
    )
    assert int(_top_k(logits, labels, k).sum()) == expected


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=5, max_size=5),
    label=st.integers(0, 4),
    k=st.integers(1, 5),
)
def test_tied_scores_rank_by_class_index(scores, label, k):
    order = sorted(range(5), key=lambda c: (-scores[c], c))
    correct = jax.jit(top_k_correct, static_argnums=2)(jnp.array(scores), label, k)
    assert bool(correct) == (label in order[:k])
    _, best = jax.lax.top_k(jnp.array(scores), k)
    assert bool(correct) == (label in best)


def test_a_constant_model_scores_chance():
    labels = jnp.arange(10)
    assert int(_top_k(jnp.zeros((10, 10)), labels, 1).sum()) == 1
    assert int(_top_k(jnp.zeros((10, 10)), labels, 5).sum()) == 5


def test_nan_scores_and_labels_that_are_no_class_are_never_correct():
    scores = jnp.array([0.0, jnp.nan, 1.0])
    assert not any(bool(top_k_correct(scores, jnp.array(c), 3)) for c in range(3))
    for label in (-1, 3, 255):
        assert not top_k_correct(jnp.zeros(3), jnp.array(label), 3)


def test_confusion_matrix_equals_sklearn():
    logits, labels = _random_scores()
    predictions = jnp.argmax(logits, axis=-1)
    confusion = confusion_matrix(predictions, labels, jnp.ones(EXAMPLES, bool), CLASSES)
    assert confusion.dtype == jnp.int32
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(labels, predictions))
    confusion = np.asarray(confusion)
    np.testing.assert_allclose(
        mean_class_accuracy(confusion),
        sklearn_metrics.balanced_accuracy_score(labels, predictions),
    )
    assert int(_top_k(logits, labels, 1).sum()) == np.trace(confusion)


@settings(deadline=None, max_examples=40)
@given(
    pairs=st.lists(
        st.tuples(st.integers(-1, 4), st.sampled_from([-1, 0, 1, 2, 3, 255]), st.booleans()),
        min_size=8,
        max_size=8,
    )
)
def test_confusion_matrix_equals_a_plain_loop(pairs):
    expected = np.zeros((4, 4), int)
    for prediction, label, valid in pairs:
        if valid and 0 <= prediction < 4 and 0 <= label < 4:
            expected[label, prediction] += 1
    jitted = jax.jit(confusion_matrix, static_argnums=3)
    predictions, labels, valid = (jnp.array(column) for column in zip(*pairs, strict=True))
    np.testing.assert_array_equal(jitted(predictions, labels, valid, 4), expected)
    shaped = (x.reshape(2, 4) for x in (predictions, labels, valid))
    np.testing.assert_array_equal(jitted(*shaped, 4), expected)


def test_confusion_matrices_add_over_batches_and_examples():
    logits, labels = _random_scores(1)
    predictions = jnp.argmax(logits, axis=-1)
    valid = jnp.arange(EXAMPLES) < 190
    whole = confusion_matrix(predictions, labels, valid, CLASSES)
    each = jax.jit(jax.vmap(lambda p, y, v: confusion_matrix(p, y, v, CLASSES)))
    np.testing.assert_array_equal(each(predictions, labels, valid).sum(axis=0), whole)
    parts = [
        confusion_matrix(predictions[i : i + 64], labels[i : i + 64], valid[i : i + 64], CLASSES)
        for i in range(0, EXAMPLES, 64)
    ]
    np.testing.assert_array_equal(sum(parts), whole)


def test_a_class_without_examples_is_left_out():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    np.testing.assert_array_equal(per_class_accuracy(confusion), [0.75, np.nan, 1.0])
    assert mean_class_accuracy(confusion) == pytest.approx(0.875)
    assert math.isnan(mean_class_accuracy(np.zeros((3, 3), int)))


def _plain_bins(probabilities, labels, bins):
    """Guo et al.'s sums, an example at a time."""
    count, confidence, correct = np.zeros(bins, int), np.zeros(bins), np.zeros(bins, int)
    for row, label in zip(np.asarray(probabilities), np.asarray(labels), strict=True):
        top = row.max()
        m = next(m for m in range(bins) if top <= np.float32((m + 1) / bins) or m == bins - 1)
        count[m] += 1
        confidence[m] += top
        correct[m] += row.argmax() == label
    return count, confidence, correct


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_equals_a_plain_loop(bins):
    logits, labels = _random_scores(2)
    probabilities = jax.nn.softmax(logits * 2)
    rows = jax.vmap(calibration_bins, in_axes=(0, 0, None))(probabilities, labels, bins)
    sums = jax.tree.map(lambda leaf: leaf.sum(axis=0), rows)
    count, confidence, correct = _plain_bins(probabilities, labels, bins)
    np.testing.assert_array_equal(sums.count, count)
    np.testing.assert_array_equal(sums.correct, correct)
    np.testing.assert_allclose(sums.confidence, confidence, rtol=1e-5)
    present = count > 0
    gaps = np.abs(correct[present] / count[present] - confidence[present] / count[present])
    expected = (gaps * count[present]).sum() / EXAMPLES
    assert expected_calibration_error(sums) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("confidence", "expected_bin"), [(0.5, 4), (0.50001, 5), (1.0, 9), (0.1, 0), (0.0, 0)]
)
def test_bins_are_open_below_and_closed_above(confidence, expected_bin):
    row = calibration_bins(jnp.array([confidence, 0.0]), jnp.array(0), 10)
    assert int(jnp.argmax(row.count)) == expected_bin
    assert int(row.count.sum()) == 1


def test_calibration_error_of_known_cases():
    certain_and_wrong = calibration_bins(jnp.array([1.0, 0.0]), jnp.array(1))
    assert expected_calibration_error(certain_and_wrong) == pytest.approx(1.0)
    certain_and_right = calibration_bins(jnp.array([1.0, 0.0]), jnp.array(0))
    assert expected_calibration_error(certain_and_right) == pytest.approx(0.0)
    empty = CalibrationBins(*(np.zeros(15) for _ in range(3)))
    assert math.isnan(expected_calibration_error(empty))


@pytest.mark.parametrize(("classes", "examples"), [(2, 40), (7, 300)])
def test_figures_by_class_and_their_averages_are_scikit_learn_s(classes, examples):
    rng = np.random.default_rng(classes)
    # The last class has no example; coarse scores are often equal.
    labels = rng.integers(0, max(classes - 1, 2), examples)
    scores = rng.integers(0, 12, (examples, classes)) / 16 + 0.3 * np.eye(classes)[labels]
    guesses = scores.argmax(axis=1)
    confusion = sklearn_metrics.confusion_matrix(labels, guesses, labels=range(classes))
    found = metrics.class_figures(confusion)
    expected = sklearn_metrics.precision_recall_fscore_support(
        labels, guesses, labels=range(classes), zero_division=0
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.nan_to_num(ours), theirs, rtol=0, atol=1e-12)
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    assert (np.isnan(found.f1) == ~present).all()
    for values, name in zip(found, ("precision", "recall", "f1"), strict=False):
        score = getattr(sklearn_metrics, f"{name}_score")
        for average, ours in zip(
            ("macro", "weighted"), metrics.averages(values, found.support), strict=True
        ):
            theirs = score(labels, guesses, average=average, zero_division=0)
            assert ours == pytest.approx(theirs, abs=1e-12)
    # The types that an evaluation has.
    areas = metrics.areas_under_roc(scores.astype(np.float32), labels.astype(np.int32))
    for label in range(classes):
        truth = labels == label
        if truth.any():
            theirs = sklearn_metrics.roc_auc_score(truth, scores[:, label].astype(np.float32))
            assert areas[label] == pytest.approx(theirs, abs=1e-12)
        else:
            assert np.isnan(areas[label])


def test_areas_under_roc_average_as_scikit_learn_has_them():
    rng = np.random.default_rng(0)
    labels = np.append(np.arange(5), rng.integers(0, 5, 200))
    scores = scipy.special.log_softmax(rng.normal(size=(205, 5)) + np.eye(5)[labels], axis=1)
    areas = metrics.areas_under_roc(scores, labels)
    averages = metrics.averages(areas, np.bincount(labels))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for average, ours in zip(("macro", "weighted"), averages, strict=True):
        theirs = sklearn_metrics.roc_auc_score(
            labels, probabilities, multi_class="ovr", average=average
        )
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_an_area_without_pairs_or_with_a_nan_is_unknown():
    labels = np.zeros(3, np.int64)
    assert np.isnan(metrics.areas_under_roc(np.eye(3), labels)).all()
    scores = np.array([[0.1, np.nan], [0.2, 0.3], [0.5, 0.1]])
    areas = metrics.areas_under_roc(scores, np.array([0, 1, 0]))
    assert areas[0] == 0.5 and np.isnan(areas[1])
    assert np.isnan(metrics.averages(np.full(2, np.nan), np.array([1, 1]))).all()
