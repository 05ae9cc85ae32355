"""Counts of one image, their sums, groups of rows, and the analyses built on them."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.metrics.detection import counts as metrics
from cnn_jax.metrics.detection.errors import KINDS, best_count_threshold, error_kinds
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows, in_groups
from cnn_jax.metrics.detection.voc import voc_matches

CLASSES = 3


def matches_by_loops(overlaps, threshold, ignored, crowd):
    """pycocotools' loop for one image, in its terms."""
    order = sorted(range(len(ignored)), key=lambda j: ignored[j])
    taken, found = [False] * len(ignored), []
    for row in overlaps:
        best, match = min(threshold, 1 - 1e-10), -1
        for j in order:
            if taken[j] and not crowd[j]:
                continue
            if match > -1 and not ignored[match] and ignored[j]:
                break
            if row[j] < best:
                continue
            best, match = row[j], j
        if match > -1:
            taken[match] = True
        found.append(match)
    return found


def test_greedy_matches_equal_pycocotools_loop():
    function = jax.jit(metrics.greedy_matches)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        overlaps = rng.integers(-1, 9, (10, 6)) / 8
        crowd = rng.random(6) < 0.2
        ignored = crowd | (rng.random(6) < 0.2)
        found = function(jnp.asarray(overlaps, jnp.float32), 0.5, ignored, crowd)
        assert found.tolist() == matches_by_loops(overlaps, 0.5, ignored, crowd)


def image(seed, detections=14, objects=6):
    rng = np.random.default_rng(seed)
    corner, extent = rng.integers(0, 20, (objects, 2)), rng.integers(2, 12, (objects, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
    near = rng.integers(0, objects, detections)
    labels = rng.integers(0, CLASSES, objects).astype(np.int32)
    found_labels = np.where(rng.random(detections) < 0.8, labels[near], 0).astype(np.int32)
    return {
        "boxes": jnp.asarray(boxes[near] + rng.integers(-1, 2, (detections, 4)), jnp.float32),
        "labels": jnp.asarray(found_labels),
        "scores": jnp.asarray(rng.permutation(detections) / detections, jnp.float32),
        "valid": jnp.asarray(rng.random(detections) < 0.8),
        "object_boxes": jnp.asarray(boxes),
        "object_labels": jnp.asarray(labels),
        "object_valid": jnp.asarray(rng.random(objects) < 0.8),
        "ignored": jnp.asarray(rng.random(objects) < 0.2),
    }


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = sum(max(x[2] - x[0], 0) * max(x[3] - x[1], 0) for x in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def counts_by_loops(one, threshold, min_score):
    right, wrong = np.zeros(CLASSES), np.zeros(CLASSES)
    ignored = np.asarray(one["ignored"])
    ranked = sorted(
        (i for i in range(len(one["valid"])) if one["valid"][i] and one["scores"][i] >= min_score),
        key=lambda i: -one["scores"][i],
    )
    table = [
        [
            overlap(one["boxes"][i].tolist(), one["object_boxes"][j].tolist())
            if one["object_valid"][j] and one["labels"][i] == one["object_labels"][j]
            else -1.0
            for j in range(len(ignored))
        ]
        for i in ranked
    ]
    found = matches_by_loops(table, threshold, ignored, [False] * len(ignored))
    for i, match in zip(ranked, found, strict=True):
        if match < 0:
            wrong[one["labels"][i]] += 1
        elif not ignored[match]:
            right[one["labels"][i]] += 1
    wanted = np.asarray(one["object_valid"]) & ~ignored
    return right, wrong, np.bincount(np.asarray(one["object_labels"])[wanted], minlength=CLASSES)


def test_match_counts_equal_loops_and_add():
    images = [image(seed) for seed in range(25)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    function = partial(metrics.match_counts, num_classes=CLASSES, min_score=0.2)
    counts = jax.jit(jax.vmap(lambda one: function(**one)))(stacked)
    expected = [counts_by_loops(one, 0.5, 0.2) for one in images]
    for leaf, rows in zip(counts, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(leaf, rows)
    sums = metrics.MatchCounts(*(leaf.sum(axis=0) for leaf in counts))
    right, wrong, objects = (np.sum(rows) for rows in zip(*expected, strict=True))
    total = metrics.precision_recall(sums)
    assert total.precision == pytest.approx(right / (right + wrong))
    assert total.recall == pytest.approx(right / objects)
    assert total.f1 == pytest.approx(2 / (1 / total.precision + 1 / total.recall))


def test_shares_of_nothing_are_nan_and_false_alarms_alone_are_wrong():
    sums = metrics.MatchCounts(np.array([0, 0, 2]), np.array([0, 3, 0]), np.array([0, 0, 4]))
    by_class = metrics.precision_recall_by_class(sums)
    np.testing.assert_array_equal(by_class.precision, [np.nan, 0, 1])
    np.testing.assert_array_equal(by_class.recall, [np.nan, np.nan, 0.5])
    np.testing.assert_allclose(by_class.f1, [np.nan, 0, 2 / 3])
    total = metrics.precision_recall(sums)
    assert (total.precision, total.recall) == (0.4, 0.5)


def test_count_errors():
    labels, objects = jnp.array([0, 0, 1, 2, 2]), jnp.array([0, 1, 1, 1])
    valid, real = jnp.array([True, True, True, True, False]), jnp.array([True, True, True, True])
    first = metrics.count_errors(labels, valid, objects, real, CLASSES)
    np.testing.assert_array_equal(first.signed, [1, -2, 1])
    second = metrics.count_errors(labels, ~valid, objects, ~real, CLASSES)
    np.testing.assert_array_equal(second.exact, [1, 1, 0])
    summary = metrics.count_summary(jax.tree.map(jnp.add, first, second))
    np.testing.assert_allclose(summary.mean_absolute_error, [0.5, 1, 1])
    np.testing.assert_allclose(summary.root_mean_square_error, np.sqrt([0.5, 2, 1]))
    np.testing.assert_allclose(summary.bias, [0.5, -1, 1])
    np.testing.assert_allclose(summary.exact, [0.5, 0.5, 0])


def confusion_by_loops(one, threshold):
    matrix = np.zeros((CLASSES + 1, CLASSES + 1), int)
    detections = [i for i in range(len(one["valid"])) if one["valid"][i]]
    objects = [j for j in range(len(one["object_valid"])) if one["object_valid"][j]]
    pairs = sorted(
        (
            (-overlap(one["boxes"][i].tolist(), one["object_boxes"][j].tolist()), i, j)
            for i in detections
            for j in objects
        ),
    )
    for negative, i, j in pairs:
        if -negative > threshold and i in detections and j in objects:
            matrix[one["object_labels"][j], one["labels"][i]] += 1
            detections.remove(i)
            objects.remove(j)
    for i in detections:
        matrix[CLASSES, one["labels"][i]] += 1
    for j in objects:
        matrix[one["object_labels"][j], CLASSES] += 1
    return matrix


def test_confusion_with_background_equals_loops():
    function = jax.jit(metrics.confusion_with_background, static_argnames=("num_classes",))
    for seed in range(25):
        one = image(seed)
        given = {name: one[name] for name in one if name not in ("scores", "ignored")}
        np.testing.assert_array_equal(
            function(**given, num_classes=CLASSES), confusion_by_loops(one, 0.45)
        )


@partial(jax.jit)
def nearest(detections, objects):
    def one(detections, objects):
        distance = jnp.abs(detections["x"][:, None] - objects["x"][None])
        return jnp.min(jnp.where(objects["valid"][None], distance, jnp.inf), axis=1)

    return jax.vmap(one)(detections, objects)


def test_groups_of_any_size_in_float64():
    rng = np.random.default_rng(0)
    groups = np.sort(np.concatenate([rng.integers(0, 40, 300), np.full(70, 7)]))
    object_groups = np.sort(np.concatenate([rng.integers(0, 60, 60), np.full(30, 7)]))
    x, others = rng.random(len(groups)), rng.random(len(object_groups))
    found = in_groups(nearest, {"x": x}, {"x": others}, groups, object_groups, missing=-1.0)
    assert found.dtype == np.float64
    expected = [
        min((abs(a - b) for b in others[object_groups == group]), default=-1.0)
        for a, group in zip(x, groups, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)
    none = np.zeros(0, int)
    empty = in_groups(nearest, {"x": x}, {"x": others[:0]}, groups, none, missing=-1.0)
    assert np.all(empty == -1)
    assert in_groups(nearest, {"x": x[:0]}, {"x": others}, none, object_groups, -1.0).shape == (0,)


def test_rows_from_padded_batches():
    rng = np.random.default_rng(0)
    valid = np.array([[True, False], [False, False], [True, True]])
    boxes, scores = rng.random((3, 2, 4)), rng.random((3, 2))
    labels = np.arange(6).reshape(3, 2)
    found = DetectionRows.from_padded(np.array([5, 6, 9]), boxes, labels, scores, valid)
    np.testing.assert_array_equal(found.image, [5, 9, 9])
    np.testing.assert_array_equal(found.labels, [0, 4, 5])
    np.testing.assert_array_equal(found.boxes[1], boxes[2, 0])
    objects = ObjectRows.from_padded(
        np.array([5, 6, 9]), boxes, labels, valid, valid & (labels > 4)
    )
    np.testing.assert_array_equal(objects.is_ignored(), [False, False, True])
    extents = boxes[valid][:, 2:] - boxes[valid][:, :2]
    np.testing.assert_allclose(objects.areas(), extents.prod(axis=1))


def test_kinds_of_errors():
    objects = ObjectRows(
        image=np.array([0, 0, 1, 1]),
        boxes=np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10], [30, 30, 40, 40.0]]),
        labels=np.array([0, 0, 1, 2]),
        ignored=np.array([False, False, False, False]),
    )
    found = [
        (0, [0, 0, 10, 10], 0, 0.9, "correct"),
        (1, [0, 0, 10, 10], 1, 0.9, "correct"),
        # Poorly placed; a duplicate is one score too low to be looked at.
        (0, [50, 50, 60, 54], 0, 0.8, "localization"),
        (0, [0, 0, 10, 10], 0, 0.7, None),
        (1, [0, 0, 10, 10], 2, 0.9, "similar"),
    ]

    def count(rows, similar=((1, 2),)):
        detections = DetectionRows(
            np.array([row[0] for row in rows]),
            np.array([row[1] for row in rows], float),
            np.array([row[2] for row in rows]),
            np.array([row[3] for row in rows]),
        )
        matches = voc_matches(detections, objects)
        return error_kinds(detections, objects, matches, CLASSES, similar)

    expected = np.zeros((CLASSES, len(KINDS)), int)
    for row in found:
        if row[4]:
            expected[row[2], KINDS.index(row[4])] += 1
    np.testing.assert_array_equal(count(found), expected)
    assert count(found, ())[2].tolist() == [0, 0, 0, 1, 0]
    duplicate = [found[0], (0, [0, 0, 10, 10], 0, 0.85, None)]
    assert count(duplicate)[0].tolist() == [1, 1, 0, 0, 0]
    assert count([(0, [80, 80, 90, 90], 2, 0.9, None)])[2].tolist() == [0, 0, 0, 0, 1]
    assert count([(5, [0, 0, 10, 10], 1, 0.9, None)])[1].tolist() == [0, 0, 0, 0, 1]


def test_the_best_score_to_count_from():
    detections = DetectionRows(
        image=np.array([3, 3, 3, 8, 8]),
        boxes=np.zeros((5, 4)),
        labels=np.array([0, 0, 0, 1, 1]),
        scores=np.array([0.9, 0.8, 0.3, 0.7, 0.35]),
    )
    objects = ObjectRows(np.array([3, 3, 8]), np.zeros((3, 4)), np.array([0, 0, 1]))
    best = best_count_threshold(detections, objects, np.array([3, 8, 11]), 2)
    assert best.score == 0.7 and best.mean_absolute_error == 0
    everything = best_count_threshold(detections, objects, np.array([3, 8, 11]), 2, [0.0])
    assert everything.mean_absolute_error == pytest.approx(2 / 6)
    assert not math.isnan(everything.score)
