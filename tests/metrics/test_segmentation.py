"""Segmentation metrics against worked figures, plain loops and distance transforms."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from cnn_jax.metrics import segmentation as metrics
from cnn_jax.metrics.classification import confusion_matrix


def confusion(truth, prediction, classes):
    truth, prediction = jnp.asarray(truth), jnp.asarray(prediction)
    valid = jnp.ones(truth.shape, bool)
    return np.asarray(confusion_matrix(prediction, truth, valid, classes))


def test_pixels_of_a_class_are_counted_where_the_mask_is_not_ignored():
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 255], (9, 7))
    prediction = rng.integers(0, 3, (9, 7))
    found = metrics.class_pixels(jnp.array(prediction), jnp.array(mask), 3)
    counted = mask != 255
    for label in range(3):
        assert found.right[label] == np.sum((mask == label) & (prediction == label))
        assert found.predicted[label] == np.sum(counted & (prediction == label))
        assert found.true[label] == np.sum(mask == label)


def test_worked_example():
    """Two classes of three, half of one wrong, an ignored pixel, and one class absent."""
    truth = np.array([[0, 0, 0, 0], [1, 1, 255, 255]])
    prediction = np.array([[0, 0, 1, 1], [1, 1, 0, 2]])
    counts = confusion(truth, prediction, 3)
    np.testing.assert_array_equal(counts, [[2, 2, 0], [0, 2, 0], [0, 0, 0]])
    assert metrics.pixel_accuracy(counts) == pytest.approx(4 / 6)
    assert metrics.mean_class_accuracy(counts) == pytest.approx((0.5 + 1) / 2)
    iou = metrics.intersection_over_union(counts)
    np.testing.assert_allclose(iou, [2 / 4, 2 / 4, np.nan])
    assert metrics.mean_iou(counts) == pytest.approx(0.5)


def test_a_class_predicted_but_not_there_counts_as_zero():
    counts = confusion(np.array([[0, 0]]), np.array([[0, 2]]), 3)
    np.testing.assert_allclose(metrics.intersection_over_union(counts), [0.5, np.nan, 0.0])
    assert metrics.mean_iou(counts) == pytest.approx(0.25)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_figures_equal_scikit_learns(seed, classes):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, classes, (2, 5, 7))
    truth[0, :classes] = np.arange(classes)
    counts = confusion(truth, prediction, classes)
    flat = truth.ravel(), prediction.ravel()
    assert metrics.pixel_accuracy(counts) == pytest.approx(accuracy_score(*flat))
    assert metrics.mean_class_accuracy(counts) == pytest.approx(balanced_accuracy_score(*flat))
    np.testing.assert_allclose(
        metrics.intersection_over_union(counts), jaccard_score(*flat, average=None)
    )
    assert metrics.mean_iou(counts) == pytest.approx(jaccard_score(*flat, average="macro"))


def test_without_a_pixel_nothing_is_known():
    counts = np.zeros((3, 3), np.int64)
    assert np.isnan([metrics.pixel_accuracy(counts), metrics.mean_iou(counts)]).all()


def boundary(labels, label):
    """Pixels of a class with a neighbour of another, that is not ignored; plain loops."""
    result = np.zeros(labels.shape, bool)
    for r, c in np.argwhere(labels == label):
        for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]:
                result[r, c] |= labels[y, x] not in (label, 255)
    return result


def f1_by_distance(prediction, mask, classes, tolerance):
    prediction = np.where(mask == 255, 255, prediction)
    values = []
    for label in range(classes):
        if not (mask == label).any():
            continue
        true, predicted = boundary(mask, label), boundary(prediction, label)
        if not true.any() or not predicted.any():
            values.append(float(true.any() == predicted.any()))
            continue
        to_true, to_predicted = (
            cv2.distanceTransform(1 - b.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for b in (true, predicted)
        )
        precision = (to_true[predicted] <= tolerance + 1e-4).mean()
        recall = (to_predicted[true] <= tolerance + 1e-4).mean()
        values.append(2 * precision * recall / max(precision + recall, 1e-12))
    return np.mean(values) if values else 0.0


boundary_f1 = jax.jit(metrics.boundary_f1, static_argnums=(2, 3))


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 2.25, 4.5])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_f1_equals_distances(seed, tolerance):
    rng = np.random.default_rng(seed)

    def labels():
        coarse = rng.integers(0, 4, (5, 6)).astype(np.uint8)
        return cv2.resize(coarse, (33, 27), interpolation=cv2.INTER_NEAREST).astype(np.int32)

    mask, prediction = labels(), labels()
    mask[rng.random(mask.shape) < 0.03] = 255
    value, there = boundary_f1(jnp.asarray(prediction), jnp.asarray(mask), 5, tolerance)
    assert there
    assert float(value) == pytest.approx(f1_by_distance(prediction, mask, 5, tolerance), abs=1e-5)


def test_boundary_f1_of_shifted_squares():
    mask = np.zeros((40, 40), np.int32)
    mask[10:30, 10:30] = 1
    f1 = partial(boundary_f1, jnp.roll(jnp.asarray(mask), 2, axis=1), jnp.asarray(mask), 2)
    # Two pixels apart: within a tolerance of two all of it, of one the upper and lower sides.
    assert float(f1(2.0)[0]) == 1
    assert 0.4 < float(f1(1.0)[0]) < 0.6
    # 0.75 % of the diagonal of 40 x 40 pixels is less than a pixel.
    assert f1(None)[0] == f1(0.5)[0]


def test_boundary_f1_without_boundaries():
    whole = jnp.zeros((8, 8), jnp.int32)
    assert boundary_f1(whole, whole, 2, 1.0) == (1, True)
    assert boundary_f1(whole.at[2, 2].set(1), whole, 2, 1.0)[0] == 0
    assert boundary_f1(whole, whole + 255, 2, 1.0) == (0, False)
