"""VOC's average precision against Padilla's sample, scikit-learn's terms and plain loops."""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.metrics.detection.voc import average_precision, best_matches, evaluate_voc

SAMPLE = json.loads((Path(__file__).parents[2] / "golden" / "padilla.json").read_text())


def padilla():
    objects, detections = (np.array(SAMPLE[name]) for name in ("objects", "detections"))

    def corners(boxes):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    zeros = np.zeros(len(detections), int)
    return (
        DetectionRows(
            detections[:, 0].astype(int), corners(detections[:, 2:]), zeros, detections[:, 1]
        ),
        ObjectRows(objects[:, 0], corners(objects[:, 1:].astype(float)), zeros[: len(objects)]),
    )


@pytest.mark.parametrize(
    ("threshold", "offset", "right", "eleven", "every"),
    [
        (0.3, 1.0, 7, 0.2684, 0.2457),
        (0.3, 0.0, 6, 0.2684, 0.2254),
        (0.5, 1.0, 1, 0.0303, 0.0222),
    ],
)
def test_padillas_sample(threshold, offset, right, eleven, every):
    detections, objects = padilla()
    result = evaluate_voc(detections, objects, 1, threshold=threshold, offset=offset, strict=False)
    (curve,) = result.curves
    assert (len(detections), len(objects)) == (24, 15)
    assert round(curve.recall[-1] * curve.objects) == right
    assert curve.average_precision("11point") == pytest.approx(eleven, abs=5e-5)
    assert curve.average_precision("all") == pytest.approx(every, abs=5e-5)


def overlap(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def voc_by_loops(detections, objects, label, threshold, offset):
    """The devkit's loop: precision and recall after every detection that counts."""
    own = [j for j in range(len(objects)) if objects.labels[j] == label]
    total = sum(not objects.ignored[j] for j in own)
    ranked = [i for i in range(len(detections)) if detections.labels[i] == label]
    ranked.sort(key=lambda i: -detections.scores[i])
    taken, right, wrong, curve = set(), 0, 0, []
    for i in ranked:
        best, index = -1.0, None
        for j in own:
            if objects.image[j] == detections.image[i]:
                value = overlap(detections.boxes[i], objects.boxes[j], offset)
                if value > best:
                    best, index = value, j
        if best > threshold:
            if objects.ignored[index]:
                continue
            if index in taken:
                wrong += 1
            else:
                taken.add(index)
                right += 1
        else:
            wrong += 1
        curve.append((right / total if total else math.nan, right / (right + wrong)))
    return curve


def ap_by_loops(curve, eleven):
    if eleven:
        values = [max([p for r, p in curve if r >= t], default=0) for t in np.arange(0, 1.1, 0.1)]
        return sum(values) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return area


def random_rows(seed, images=9, classes=3):
    rng = np.random.default_rng(seed)
    count, found = 30, 90
    corner, extent = rng.integers(0, 30, (count, 2)), rng.integers(1, 20, (count, 2))
    objects = ObjectRows(
        rng.integers(0, images, count),
        np.concatenate([corner, corner + extent], axis=1).astype(float),
        rng.integers(0, classes, count),
        rng.random(count) < 0.2,
    )
    near = rng.integers(0, count, found)
    boxes = objects.boxes[near] + rng.integers(-2, 3, (found, 4))
    labels = np.where(rng.random(found) < 0.8, objects.labels[near], rng.integers(0, classes))
    scores = rng.integers(0, 15, found) / 15
    return DetectionRows(objects.image[near], boxes, labels, scores), objects


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_devkits_loop(seed, offset):
    detections, objects = random_rows(seed)
    result = evaluate_voc(detections, objects, 4, offset=offset)
    for label in range(3):
        expected = voc_by_loops(detections, objects, label, 0.5, offset)
        curve = result.curves[label]
        np.testing.assert_allclose(np.stack([curve.recall, curve.precision], axis=1), expected)
        for name in ("all", "11point"):
            value = ap_by_loops(expected, name == "11point")
            assert result.by_class(name)[label] == pytest.approx(value)
    assert math.isnan(result.by_class()[3])
    assert result.mean() == pytest.approx(np.mean(result.by_class()[:3]))


BOX = [10.0, 10.0, 50.0, 50.0]


def evaluate(found, objects, ignored=None, **settings):
    """Detections (box, score) and boxes of one image and class."""
    detections = DetectionRows(
        np.zeros(len(found), int),
        np.array([box for box, _ in found], float).reshape(-1, 4),
        np.zeros(len(found), int),
        np.array([score for _, score in found], float),
    )
    truth = ObjectRows(
        np.zeros(len(objects), int),
        np.array(objects, float).reshape(-1, 4),
        np.zeros(len(objects), int),
        None if ignored is None else np.array(ignored),
    )
    return evaluate_voc(detections, truth, 1, **settings).mean()


def test_edge_cases():
    assert math.isnan(evaluate([], []))
    assert math.isnan(evaluate([(BOX, 0.9)], []))
    assert evaluate([], [BOX]) == 0
    assert evaluate([(BOX, 0.9)], [BOX]) == 1
    assert math.isnan(evaluate([(BOX, 0.9)], [BOX], [True]))
    # A difficult object may be found again and again, before others or after.
    other = [100.0, 100, 120, 120]
    found = [(BOX, 0.9), (BOX, 0.8), (other, 0.7)]
    assert evaluate(found, [BOX, other], [True, False]) == 1
    # The second detection of an object is wrong; the first of equal scores is the first given.
    assert evaluate([(BOX, 0.9), (BOX, 0.8), (other, 0.7)], [BOX, other]) == pytest.approx(5 / 6)
    assert evaluate([(other, 0.9), (BOX, 0.9)], [BOX]) == 0.5
    assert evaluate([(BOX, 0.9), (other, 0.9)], [BOX]) == 1


def test_an_overlap_of_exactly_the_threshold():
    half = [10.0, 10, 30, 50]
    assert evaluate([(half, 0.9)], [BOX]) == 0
    assert evaluate([(half, 0.9)], [BOX], strict=False) == 1
    pixel = [7.0, 7, 7, 7]
    assert evaluate([(pixel, 0.9)], [pixel], offset=1.0) == 1
    assert evaluate([(pixel, 0.9)], [pixel]) == 0


def test_a_detection_is_held_against_its_best_object_only():
    """Where COCO's rule gives the second detection the object that is left."""
    overlaps = jnp.array([[0.9, 0.6], [0.8, 0.7]])
    found, first = best_matches(overlaps, 0.5, jnp.zeros(2, bool))
    np.testing.assert_array_equal(found, [0, 0])
    np.testing.assert_array_equal(first, [True, False])


def test_average_precision_of_a_perfect_and_of_an_empty_curve():
    for name in ("all", "11point"):
        assert average_precision(np.array([0.5, 1.0]), np.ones(2), name) == 1
        assert average_precision(np.zeros(0), np.zeros(0), name) == 0
