"""Suppression against the greedy loop in plain Python, and against torchvision's frozen results."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.ops.nms import detect, nms

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "detection_ops.npz")
THRESHOLDS = [0.3, 0.5, 0.7]
COUNT = 40

compiled = jax.jit(nms, static_argnames=("max_kept", "offset"))


def overlap(a, b, offset=0.0):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def greedy(boxes, scores, threshold, valid=None, labels=None, offset=0.0):
    """The loop that every paper means; Python's sort is stable."""
    left = [i for i in range(len(boxes)) if scores[i] > -np.inf and (valid is None or valid[i])]
    left.sort(key=lambda i: -scores[i])
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [
            i
            for i in left
            if (labels is not None and labels[i] != labels[best])
            or not overlap(boxes[best], boxes[i], offset) > threshold
        ]
    return kept


def indices(kept):
    assert not np.any(np.diff(kept.valid.astype(int)) > 0), "valid rows come first"
    return np.asarray(kept.index)[np.asarray(kept.valid)].tolist()


def crowded(rng, whole=True):
    """Boxes on a coarse grid: overlaps are ratios of small numbers, some corners negative."""
    centers, extents = rng.integers(-12, 13, (COUNT, 2)), rng.integers(0, 9, (COUNT, 2)) * 2
    boxes = np.concatenate([centers - extents // 2, centers + extents // 2], axis=1)
    boxes = boxes.astype(np.float32)
    return boxes if whole else boxes + rng.uniform(0, 0.9, boxes.shape).astype(np.float32)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_equals_torchvision(threshold):
    for image in range(6):
        boxes, scores, labels = (
            jnp.asarray(GOLDEN[f"nms/{image}/{name}"]) for name in ("boxes", "scores", "labels")
        )
        kept = compiled(boxes, scores, threshold, max_kept=len(boxes))
        assert indices(kept) == GOLDEN[f"nms/{image}/kept/{threshold}"].tolist()
        kept = compiled(boxes, scores, threshold, max_kept=len(boxes), labels=labels)
        # torchvision sorts by score, ties in any order.
        expected = GOLDEN[f"nms/{image}/kept_by_label/{threshold}"].tolist()
        assert sorted(indices(kept)) == sorted(expected)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_equals_the_greedy_loop(threshold, offset):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        boxes = crowded(rng, whole=seed % 2 == 0)
        scores = (rng.integers(0, 12, COUNT) / 4 - 1).astype(np.float32)
        valid, labels = rng.random(COUNT) < 0.8, rng.integers(0, 3, COUNT).astype(np.int32)
        expected = greedy(boxes, scores, threshold, valid, offset=offset)
        kept = compiled(boxes, scores, threshold, COUNT, valid, offset=offset)
        assert indices(kept) == expected
        kept = compiled(boxes, scores, threshold, COUNT, valid, labels, offset)
        assert indices(kept) == greedy(boxes, scores, threshold, valid, labels, offset)
        few = compiled(boxes, scores, threshold, 5, valid, offset=offset)
        assert indices(few) == expected[:5]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_kept_boxes_do_not_overlap_and_the_others_do(seed, threshold):
    rng = np.random.default_rng(seed)
    boxes, scores = crowded(rng), rng.normal(size=COUNT).astype(np.float32)
    kept = indices(compiled(boxes, scores, threshold, COUNT))
    assert all(scores[a] >= scores[b] for a, b in pairwise(kept))
    for i in range(COUNT):
        above = [overlap(boxes[k], boxes[i]) > threshold for k in kept if scores[k] > scores[i]]
        assert (i in kept) == (not any(above))


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 2]])
    scores = jnp.array([0.9, 0.8])
    assert indices(compiled(boxes, scores, 0.5, 2)) == [0, 1]
    assert indices(compiled(boxes, scores, 0.49, 2)) == [0]


def test_nothing_to_keep():
    boxes = jnp.tile(jnp.array([[0.0, 0, 4, 4]]), (3, 1))
    kept = compiled(boxes, jnp.ones(3), 0.5, 4, jnp.zeros(3, bool))
    assert not kept.valid.any() and not kept.index.any() and kept.index.shape == (4,)
    scores = jnp.array([jnp.nan, -jnp.inf, -5.0])
    assert indices(compiled(boxes, scores, 0.5, 4)) == [2]


def test_vmapped_over_images_equals_one_by_one():
    rng = np.random.default_rng(0)
    boxes = np.stack([crowded(rng) for _ in range(5)])
    scores = rng.normal(size=(5, COUNT)).astype(np.float32)
    valid = rng.random((5, COUNT)) < np.linspace(0, 1, 5)[:, None]
    together = jax.vmap(partial(nms, threshold=0.3, max_kept=10))(boxes, scores, valid=valid)
    for i in range(5):
        alone = compiled(boxes[i], scores[i], 0.3, 10, valid[i])
        np.testing.assert_array_equal(together.index[i], alone.index)
        np.testing.assert_array_equal(together.valid[i], alone.valid)


def detections_by_loops(boxes, scores, valid, threshold, min_score, per_class, most):
    result = []
    for label in range(scores.shape[1]):
        own = boxes if boxes.ndim == 2 else boxes[:, label]
        legal = valid & (scores[:, label] >= min_score)
        for i in greedy(own, scores[:, label], threshold, legal)[:per_class]:
            result.append((scores[i, label], label, own[i]))
    return sorted(result, key=lambda row: -row[0])[:most]


@pytest.mark.parametrize("boxes_of_classes", [False, True])
@pytest.mark.parametrize(("per_class", "most"), [(40, 200), (3, 7), (2, 100)])
def test_detections_equal_loops(boxes_of_classes, per_class, most):
    rng = np.random.default_rng(3)
    boxes = crowded(rng)
    if boxes_of_classes:
        boxes = np.stack([boxes + shift for shift in range(4)], axis=1).astype(np.float32)
    scores = (rng.permutation(COUNT * 4).reshape(COUNT, 4) / (COUNT * 4)).astype(np.float32)
    valid = rng.random(COUNT) < 0.7
    result = jax.jit(
        partial(detect, threshold=0.3, min_score=0.2, max_per_class=per_class, max_detections=most)
    )(boxes, scores, valid=valid)
    expected = detections_by_loops(boxes, scores, valid, 0.3, np.float32(0.2), per_class, most)
    count = len(expected)
    assert result.boxes.shape == (most, 4) and int(result.valid.sum()) == count > 0
    np.testing.assert_array_equal(result.scores[:count], [row[0] for row in expected])
    np.testing.assert_array_equal(result.labels[:count], [row[1] for row in expected])
    np.testing.assert_array_equal(result.boxes[:count], [row[2] for row in expected])
    assert np.all(result.labels[count:] == -1) and not result.scores[count:].any()


def test_gradients_reach_kept_boxes():
    boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 3.9], [9, 9, 12, 12]])
    scores = jnp.array([[0.9], [0.8], [0.7]])

    def total(boxes, scores):
        result = detect(
            boxes, scores, threshold=0.5, min_score=0.0, max_per_class=3, max_detections=3
        )
        return jnp.sum(result.boxes) + jnp.sum(result.scores)

    by_boxes, by_scores = jax.grad(total, (0, 1))(boxes, scores)
    np.testing.assert_array_equal(by_boxes[:, 0], [1, 0, 1])
    np.testing.assert_array_equal(by_scores[:, 0], [1, 0, 1])
