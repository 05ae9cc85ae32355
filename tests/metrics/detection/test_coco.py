"""COCO's numbers against pycocotools, on random, degenerate and published cases."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO

from cnn_jax.metrics.detection.coco import evaluate_coco
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from experiments.benchmark.in_pycocotools import evaluate


def rows(objects, detections):
    """Rows from lists of (image, label, [x, y, width, height], crowd or score, area)."""
    boxes = np.array([row[2] for row in objects], float).reshape(-1, 4)
    areas = [row[4] if len(row) > 4 else row[2][2] * row[2][3] for row in objects]
    found = np.array([row[2] for row in detections], float).reshape(-1, 4)
    return (
        DetectionRows(
            image=np.array([row[0] for row in detections], int),
            boxes=np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1),
            labels=np.array([row[1] for row in detections], int),
            scores=np.array([row[3] for row in detections], float),
        ),
        ObjectRows(
            image=np.array([row[0] for row in objects], int),
            boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
            labels=np.array([row[1] for row in objects], int),
            ignored=np.array([len(row) > 3 and row[3] for row in objects], bool),
            area=np.array(areas, float),
        ),
    )


def pycocotools(objects, detections, images, num_classes):
    """The official evaluation of the same lists: its object, summarised."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": k} for k in range(num_classes)],
        # Its ids begin at 1: it takes 0 for "not matched".
        "annotations": [
            {
                "id": number,
                "image_id": row[0],
                "category_id": row[1],
                "bbox": list(row[2]),
                "area": row[4] if len(row) > 4 else row[2][2] * row[2][3],
                "iscrowd": int(len(row) > 3 and row[3]),
            }
            for number, row in enumerate(objects, start=1)
        ],
    }
    found = COCO()
    found.dataset = {
        **truth.dataset,
        "annotations": [
            {
                "id": number,
                "image_id": row[0],
                "category_id": row[1],
                "bbox": list(row[2]),
                "area": row[2][2] * row[2][3],
                "iscrowd": 0,
                "score": row[3],
            }
            for number, row in enumerate(detections, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
    return evaluate(truth, found)


def compare(objects, detections, images, num_classes):
    expected = pycocotools(objects, detections, images, num_classes)
    result = evaluate_coco(*rows(objects, detections), num_classes)
    summary = list(result.summary().values())
    np.testing.assert_allclose(summary, expected.stats, atol=1e-6)
    np.testing.assert_allclose(result.precision, expected.eval["precision"], atol=1e-6)
    np.testing.assert_allclose(result.recall, expected.eval["recall"], atol=1e-6)
    for threshold, chosen in ((None, slice(None)), (0.5, slice(1)), (0.75, slice(5, 6))):
        theirs = expected.eval["precision"][chosen, :, :, 0, -1].mean(axis=(0, 1))
        ours = result.by_class(threshold)
        np.testing.assert_allclose(ours, np.where(theirs < 0, np.nan, theirs), atol=1e-6)
    return summary


def random_case(rng, images, num_classes, *, whole, most_objects, most_detections):
    """Objects, and detections that are near copies of them, of others, or anywhere."""
    objects, detections = [], []
    for image in range(images):
        boxes = []
        for _ in range(rng.integers(0, most_objects + 1)):
            extent = rng.choice([rng.uniform(1, 31), rng.uniform(30, 100), rng.uniform(90, 200)])
            box = [*rng.uniform(0, 200, 2), extent, extent * rng.uniform(0.5, 1.5)]
            box = [float(round(v)) for v in box] if whole else box
            # Outlines cover less than boxes, some by so much that the size changes.
            area = box[2] * box[3] * rng.choice([1.0, 0.6])
            label = int(rng.integers(num_classes))
            objects.append((image, label, box, bool(rng.random() < 0.15), area))
            boxes.append((label, box))
        for _ in range(rng.integers(0, most_detections + 1)):
            label = int(rng.integers(num_classes))
            box = [*rng.uniform(0, 200, 2), *rng.uniform(5, 150, 2)]
            if boxes and rng.random() < 0.8:
                label, near = boxes[rng.integers(len(boxes))]
                box = np.array(near) + rng.normal(0, 0.1, 4) * near[2] * (rng.random() < 0.7)
                box = [*box[:2], *np.maximum(box[2:], 1)]
            box = [float(round(v)) for v in box] if whole else [float(v) for v in box]
            detections.append((image, label, box, float(rng.integers(0, 20) / 20)))
    return objects, detections


@pytest.mark.parametrize("seed", range(8))
def test_random_sets_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    whole = seed % 2 == 0
    case = random_case(rng, 12, 4, whole=whole, most_objects=9, most_detections=30)
    assert 0 < compare(*case, images=12, num_classes=5)[0] < 1


def test_more_detections_than_count():
    rng = np.random.default_rng(0)
    case = random_case(rng, 2, 1, whole=True, most_objects=40, most_detections=400)
    assert max(sum(row[0] == image for row in case[1]) for image in range(2)) > 150
    compare(*case, images=2, num_classes=1)


ONE = (0, 0, [10.0, 10.0, 40.0, 40.0], False)


def ap(stats):
    return stats[:2]


@pytest.mark.parametrize(
    ("objects", "detections", "expected"),
    [
        pytest.param([ONE], [(0, 0, ONE[2], 0.9)], [1, 1], id="the_same_box"),
        # An IoU of exactly the threshold is enough.
        pytest.param([ONE], [(0, 0, [10, 10, 20, 40], 0.9)], [0.1, 1], id="half"),
        # What is wrong after everything is found costs nothing.
        pytest.param([ONE], [(0, 0, ONE[2], 0.9), (0, 0, ONE[2], 0.8)], [1, 1], id="found_twice"),
        pytest.param(
            [ONE], [(0, 0, [99, 99, 9, 9], 0.9), (0, 0, ONE[2], 0.8)], [0.5, 0.5], id="wrong_first"
        ),
        # Of equal scores the first one given ranks first.
        pytest.param(
            [ONE], [(0, 0, [99, 99, 9, 9], 0.9), (0, 0, ONE[2], 0.9)], [0.5, 0.5], id="tie_wrong"
        ),
        pytest.param(
            [ONE], [(0, 0, ONE[2], 0.9), (0, 0, [99, 99, 9, 9], 0.9)], [1, 1], id="tie_right"
        ),
        pytest.param(
            [ONE, (0, 0, [100, 100, 50, 50], True)],
            [(0, 0, ONE[2], 0.5), (0, 0, [105, 105, 9, 9], 0.9), (0, 0, [120, 120, 9, 9], 0.8)],
            [1, 1],
            id="crowd_absorbs_two",
        ),
        pytest.param([(*ONE[:3], True)], [(0, 0, ONE[2], 0.9)], [-1, -1], id="only_a_crowd"),
        # What is detected of a class without objects goes unnoticed.
        pytest.param([ONE], [(0, 0, ONE[2], 0.9), (0, 1, ONE[2], 1.0)], [1, 1], id="other_class"),
        pytest.param([ONE], [], [0, 0], id="empty_dt"),
        pytest.param([], [(0, 0, ONE[2], 0.9)], [-1, -1], id="empty_gt"),
        pytest.param([], [], [-1, -1], id="nothing"),
        pytest.param(
            [(0, 0, [5, 5, 0, 0], False), ONE], [(0, 0, [5, 5, 0, 0], 0.9)], [0, 0], id="no_area"
        ),
        # Equal overlaps: the later object is taken, and the first is left for the next.
        pytest.param(
            [ONE, ONE], [(0, 0, ONE[2], 0.9), (0, 0, ONE[2], 0.8)], [1, 1], id="twin_objects"
        ),
        # A small detection of a large object, and a large one of nothing.
        pytest.param(
            [(0, 0, [0, 0, 33, 33], False)],
            [(0, 0, [0, 0, 31, 31], 0.9), (0, 0, [0, 99, 200, 200], 0.95)],
            [0.4, 0.5],
            id="astride_sizes",
        ),
    ],
)
def test_edge_cases_equal_pycocotools_and_the_known_numbers(objects, detections, expected):
    stats = compare(objects, detections, images=1, num_classes=2)
    np.testing.assert_allclose(ap(stats), expected, atol=1e-6)


def test_a_crowd_that_absorbs_two_leaves_no_recall_for_one_detection():
    objects = [ONE, (0, 0, [100.0, 100.0, 50.0, 50.0], True)]
    found = [(0, 0, ONE[2], 0.5), (0, 0, [105, 105, 9, 9], 0.9), (0, 0, [120, 120, 9, 9], 0.8)]
    result = evaluate_coco(*rows(objects, found), 2).summary()
    assert result["coco_ap"] == pytest.approx(1) and result["coco_ar1"] == 0


FIXTURE = (
    [
        (139, 0, [412.8, 157.61, 53.05, 138.01], False, 2913.11),
        (139, 0, [384.43, 172.21, 15.12, 35.74], False, 435.145),
    ],
    [
        (139, 0, [417.3333, 159.27, 47.6606, 143.0019], 0.99498),
        (139, 0, [383.5909, 172.0778, 17.9591, 36.9481], 0.76854),
        (285, 1, [457.8359, 158.8803, 9.8976, 8.7718], 0.07093),
    ],
)


def test_detectron2s_fixture():
    objects, detections = FIXTURE
    expected = [0.7505, 1, 1, 0.7, 0.8, -1, 0.4, 0.75, 0.75, 0.7, 0.8, -1]
    result = evaluate_coco(*rows(objects, detections), 2)
    np.testing.assert_allclose(list(result.summary().values()), expected, atol=1e-4)
    np.testing.assert_allclose(result.by_class(), [0.7505, np.nan], atol=1e-4)
    nothing = evaluate_coco(*rows([], detections), 2).summary()
    assert set(nothing.values()) == {-1.0}
    nothing = evaluate_coco(*rows(objects, []), 2).summary()
    assert list(nothing.values()) == [0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, -1]


def test_torchmetrics_example():
    detection = [(0, 0, [258.0, 41.0, 348.0, 244.0], 0.536)]
    objects = [(0, 0, [214.0, 41.0, 348.0, 244.0], False)]
    summary = evaluate_coco(*rows(objects, detection), 1).summary()
    values = [summary[k] for k in ("coco_ap", "coco_ap50", "coco_ap75", "coco_ar100")]
    np.testing.assert_allclose(values, [0.6, 1, 1, 0.6], atol=1e-6)


def test_the_order_of_rows_with_distinct_scores_does_not_matter():
    rng = np.random.default_rng(5)
    objects, found = random_case(rng, 6, 3, whole=False, most_objects=6, most_detections=15)
    found = [(*row[:3], float(score)) for row, score in zip(found, rng.random(len(found)))]  # noqa: B905
    detections, truth = rows(objects, found)
    shuffled = detections[rng.permutation(len(detections))]
    first, second = (evaluate_coco(d, truth, 3).summary() for d in (detections, shuffled))
    assert first == second


def test_nan_scores_rank_last():
    found = [(0, 0, [99, 99, 9, 9], float("nan")), (0, 0, ONE[2], 0.1)]
    assert evaluate_coco(*rows([ONE], found), 1).summary()["coco_ap"] == pytest.approx(1)
