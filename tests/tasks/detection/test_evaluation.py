"""The evaluation that detectors share: detections of one image, rows of a set, its figures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.metrics.detection.errors import KINDS, error_kinds
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.metrics.detection.voc import evaluate_voc
from cnn_jax.ops.nms import Detections
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, DetectionRule, detections

CLASSES, IMAGES, OBJECTS, SIDE = 3, 10, 4, 32
RULE = DetectionRule(max_detections=5)
EVALUATION = BoxEvaluation(CLASSES, SIDE, RULE)


def test_detections_are_in_pixels_of_the_original_image():
    boxes = jnp.array([[0, 0, 16, 8], [1, 0, 16, 8], [20, 20, 40, 30], [5, 5, 5, 9.0]])
    scores = jnp.array([[0.9, 0.1], [0.8, 0.0], [0.0, 0.7], [0.9, 0.9]])
    rule = DetectionRule(min_score=0.05, max_detections=4)
    found = detections(boxes, scores, jnp.array([64.0, 320.0]), image_size=32, rule=rule)
    # x by 10 and y by 2; the second box is suppressed, the third cut off, the fourth has no area.
    np.testing.assert_allclose(
        found.boxes, [[0, 0, 160, 16], [200, 40, 320, 60], [0, 0, 160, 16], [0] * 4], rtol=1e-6
    )
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.1, 0.0], rtol=1e-6)
    assert found.labels.tolist() == [0, 1, 1, -1]
    assert found.valid.tolist() == [True, True, True, False]


def test_each_class_may_have_a_box_of_its_own_and_padding_is_none():
    boxes = jnp.array([[[0, 0, 8, 8], [8, 8, 16, 16]], [[0, 0, 4, 4], [0, 0, 4, 0.0]]])
    scores = jnp.array([[0.9, 0.8], [0.99, 0.99]])
    found = detections(
        boxes, scores, jnp.array([32.0, 32.0]), jnp.array([True, False]), image_size=32, rule=RULE
    )
    assert found.valid.sum() == 2
    np.testing.assert_array_equal(found.boxes[:2], [[0, 0, 8, 8], [8, 8, 16, 16]])


def random_boxes(rng, *shape):
    corner = rng.uniform(0, 20, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 12, (*shape, 2))], -1).astype("f")


def examples(seed=0):
    """Predictions and a batch of all examples: objects of the last class are all difficult."""
    rng = np.random.default_rng(seed)
    truth = random_boxes(rng, IMAGES, OBJECTS)
    labels = rng.integers(0, CLASSES, (IMAGES, OBJECTS)).astype(np.int32)
    valid = rng.random((IMAGES, OBJECTS)) < 0.7
    valid[3] = False
    found = np.concatenate([truth + rng.normal(0, 1, truth.shape), truth[:, :1]], 1).astype("f")
    # Scores of one tenth are padding.
    scores = np.round(rng.uniform(0.1, 1, (IMAGES, 5)), 1).astype("f")
    predictions = Detections(
        found,
        scores,
        np.concatenate([labels, labels[:, :1]], 1),
        scores > 0.1,
    )
    batch = {
        "boxes": truth,
        "labels": labels,
        "object_valid": valid,
        "difficult": valid & (labels == CLASSES - 1),
        "crowd": np.zeros_like(valid),
        "area": np.prod(truth[..., 2:] - truth[..., :2], axis=-1),
        "size": np.tile(np.array([SIDE, SIDE], np.float32), (IMAGES, 1)),
        "index": np.arange(IMAGES, dtype=np.int32),
        "valid": np.ones(IMAGES, bool),
    }
    return predictions, batch


def rows_of(predictions, batch, rows, size=4):
    """Some examples, filled up to `size` with what must not count."""
    chosen = np.array([*rows, *[0] * (size - len(rows))])
    part = {name: value[chosen] for name, value in batch.items()}
    part["valid"] = np.arange(size) < len(rows)
    return jax.tree.map(lambda x: jnp.array(x[chosen]), predictions), part


def rows_of_set(predictions, batch, evaluation=EVALUATION):
    """The rows of a set in one batch, as an evaluation hands them on."""
    return jax.tree.map(np.asarray, jax.jit(evaluation.rows)(predictions, batch))


def test_rows_do_not_depend_on_how_the_set_is_cut_up():
    predictions, batch = examples()
    whole = rows_of_set(predictions, batch)
    rows = jax.jit(EVALUATION.rows)
    parts = []
    for chosen in ([0, 1], [2, 3, 4, 5], [6, 7, 8], [9]):
        found, part = rows_of(predictions, batch, chosen)
        valid = part["valid"]
        parts.append(jax.tree.map(lambda x, v=valid: np.asarray(x)[v], rows(found, part)))
    cut = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, cut, whole)


def summary(predictions, batch, evaluation=EVALUATION):
    return evaluation.summarize({}, rows_of_set(predictions, batch, evaluation))


def figures(predictions, batch, evaluation=EVALUATION):
    return summary(predictions, batch, evaluation).metrics


def test_steps_of_training_have_their_own_means_alone():
    assert EVALUATION.summarize({"loss": 2.0}, None) == ({"loss": 2.0}, None)


def test_figures_are_those_of_the_metrics():
    predictions, batch = examples()
    found, details = summary(predictions, batch)
    detected = DetectionRows.from_padded(
        np.arange(IMAGES),
        predictions.boxes,
        predictions.labels,
        predictions.scores,
        predictions.valid,
    )
    objects = ObjectRows.from_padded(
        np.arange(IMAGES),
        batch["boxes"],
        batch["labels"],
        batch["object_valid"],
        batch["difficult"],
    )
    voc = evaluate_voc(detected, objects, CLASSES)
    for ours, theirs in zip(details.voc.curves, voc.curves, strict=True):
        np.testing.assert_array_equal(ours.precision, theirs.precision)
    assert details.coco.summary()["coco_ap"] == found["coco_ap"]
    assert found["map50"] == voc.mean()
    assert found["map50_11point"] == voc.mean("11point")
    assert np.isnan(voc.by_class()[-1])
    kinds = error_kinds(detected, objects, voc.matches, CLASSES).sum(axis=0) / sum(
        int((batch["object_valid"] & ~batch["difficult"] & (batch["labels"] == label)).sum())
        for label in range(CLASSES)
    )
    assert found["localization_errors"] == pytest.approx(kinds[KINDS.index("localization")])
    assert found["background_errors"] == pytest.approx(kinds[KINDS.index("background")])
    assert 0.2 < found["map50"] < 1
    assert 0 < found["coco_ap"] < found["coco_ap50"]
    assert np.isnan(found["coco_ap_large"])
    # At the chosen threshold, by hand.
    threshold = found["score_threshold"]
    assert details.score_threshold == threshold and details.chosen_here
    kept = predictions.valid & (predictions.scores >= threshold)
    errors = []
    for label in range(CLASSES):
        wanted = batch["object_valid"] & ~batch["difficult"] & (batch["labels"] == label)
        errors.append((kept & (predictions.labels == label)).sum(1) - wanted.sum(1))
    assert found["count_mae"] == pytest.approx(np.abs(errors).mean())
    assert found["count_bias"] == pytest.approx(np.mean(errors))
    assert found["count_exact"] == pytest.approx(np.mean(np.array(errors) == 0))


def test_a_threshold_that_is_given_goes_before_one_that_was_chosen():
    predictions, batch = examples()
    chosen = BoxEvaluation(CLASSES, SIDE, RULE, 0.35)
    found, details = summary(predictions, batch, chosen)
    assert found["score_threshold"] == 0.35 and not details.chosen_here
    rule = DetectionRule(max_detections=5, score_threshold=0.6)
    given = figures(predictions, batch, BoxEvaluation(CLASSES, SIDE, rule, 0.35))
    assert given["score_threshold"] == 0.6
    all_below = DetectionRule(max_detections=5, score_threshold=1.0)
    lowered = predictions._replace(scores=predictions.scores * 0.9)
    none = figures(lowered, batch, BoxEvaluation(CLASSES, SIDE, all_below))
    assert np.isnan(none["precision"])
    assert none["recall"] == none["f1"] == 0
    assert none["count_bias"] == -none["count_mae"] < 0
    assert none["map50"] == figures(predictions, batch)["map50"]


def test_counts_that_are_decided_add_up():
    predictions, batch = examples()
    decided = summary(predictions, batch).details.whole.decide(0.3, CLASSES)
    kept = (predictions.valid & (predictions.scores >= np.float32(0.3))).sum()
    assert decided.confusion[:, :-1].sum() == kept
    assert decided.confusion[:-1].sum() == batch["object_valid"].sum()
    assert decided.count_errors.images.tolist() == [IMAGES] * CLASSES


@pytest.mark.parametrize("what", ["objects", "detections", "both"])
def test_sets_without_objects_or_detections(what):
    predictions, batch = examples()
    if what != "objects":
        predictions = predictions._replace(valid=np.zeros_like(predictions.valid))
    if what != "detections":
        batch = {**batch, "object_valid": np.zeros_like(batch["object_valid"])}
    found = figures(predictions, batch)
    if what == "detections":
        assert found["map50"] == found["coco_ap"] == found["recall"] == 0
    else:
        assert np.isnan(found["map50"]) and np.isnan(found["coco_ap"]) and np.isnan(found["recall"])
    assert np.isfinite(found["count_mae"])


def test_a_crowd_and_a_pixel_sized_object_are_evaluated():
    predictions, batch = examples()
    batch["crowd"][0, 0] = batch["object_valid"][0, 0] = True
    batch["boxes"][1, 0] = predictions.boxes[1, 0] = [3, 3, 4, 4]
    assert np.isfinite(figures(predictions, batch)["coco_ap"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_score": -0.1}, "^min_score -0.1"),
        ({"nms_threshold": 1.5}, "^nms_threshold 1.5"),
        ({"score_threshold": 2.0}, "^score_threshold 2.0"),
        ({"max_detections": 0}, "^max_detections 0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        DetectionRule(**fields)


def test_detections_of_a_batch_are_those_of_its_images():
    rng = np.random.default_rng(0)
    boxes, scores = random_boxes(rng, 2, 6), rng.random((2, 6, CLASSES), np.float32)
    sizes = jnp.array([[30.0, 40.0], [100.0, 20.0]])
    of_image = partial(detections, image_size=SIDE, rule=RULE)
    batch = EVALUATION.detect(jnp.array(boxes), jnp.array(scores), sizes)
    for i in range(2):
        one = of_image(jnp.array(boxes[i]), jnp.array(scores[i]), sizes[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), batch, one)
