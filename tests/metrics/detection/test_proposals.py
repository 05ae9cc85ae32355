"""Recall of proposals against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.metrics.detection.proposals import THRESHOLDS, Covered, coverage, recall, steps
from cnn_jax.ops import boxes as box_ops


def random_boxes(rng, count):
    corner, side = rng.uniform(0, 8, (count, 2)), rng.uniform(1, 6, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def by_loops(proposals, valid, objects, object_valid, counts):
    overlaps = np.asarray(box_ops.iou(jnp.array(proposals), jnp.array(objects)))
    covered = np.zeros((len(counts), len(THRESHOLDS)), int)
    for row, count in enumerate(counts):
        for column, threshold in enumerate(THRESHOLDS):
            for j in range(len(objects)):
                hit = any(
                    valid[i] and overlaps[i, j] >= np.float32(threshold)
                    for i in range(min(count, len(proposals)))
                )
                covered[row, column] += bool(object_valid[j] and hit)
    return covered


def test_coverage_equals_loops_and_adds_up_to_recall():
    counts = (1, 3, 10, 99)
    total, by_hand = None, 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        arguments = (
            random_boxes(rng, 10),
            np.arange(10) < rng.integers(0, 11),
            random_boxes(rng, 3),
            rng.random(3) < 0.7,
        )
        found = jax.jit(coverage, static_argnames="counts")(*map(jnp.array, arguments), counts)
        expected = by_loops(*arguments, counts)
        np.testing.assert_array_equal(found.covered, expected)
        by_hand = by_hand + expected
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    figures = recall(total)
    np.testing.assert_allclose(figures.by_threshold, by_hand / int(total.objects))
    np.testing.assert_allclose(figures.average, (by_hand / int(total.objects)).mean(axis=1))
    assert (np.diff(figures.by_threshold, axis=0) >= 0).all()
    assert (np.diff(figures.by_threshold, axis=1) <= 0).all()
    assert figures.proposals == pytest.approx(int(total.proposals) / 8)


def test_without_objects_recall_is_unknown_and_without_proposals_nothing():
    nothing = Covered(np.zeros((2, 10)), np.int32(0), np.int32(5), np.int32(2))
    assert np.isnan(recall(nothing).by_threshold).all()
    found = coverage(
        jnp.zeros((4, 4)), jnp.zeros(4, bool), jnp.ones((2, 4)), jnp.ones(2, bool), (1, 4)
    )
    assert not found.covered.any() and int(found.objects) == 2


def test_steps():
    assert steps(2000) == (10, 30, 100, 300, 1000, 2000)
    assert steps(64) == (10, 30, 64)
    assert steps(7) == (7,)
