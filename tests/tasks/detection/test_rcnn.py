"""R-CNN's tasks: the loss of warped regions, features in parts, and the detector's arithmetic."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import normalize
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.pooling import adaptive_avg_pool
from cnn_jax.ops.warping import warp_crops
from cnn_jax.tasks.detection import rcnn
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, DetectionRule
from cnn_jax.tasks.detection.rcnn import RCNN, FineTuning, paper_context
from cnn_jax.tasks.images import floating

CLASSES, SIDE, CROP, REGIONS, ROWS = 3, 20, 9, 11, 2


class Small(nn.Module):
    """One convolution and a linear layer on its map's mean."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(nn.Conv(5, (3, 3), strides=1, kernel_init=nn.initializers.normal(0.3))(images))
        hidden = jnp.tanh(nn.Dense(4, kernel_init=nn.initializers.normal(1.0))(x.mean(axis=(1, 2))))
        return nn.Dense(CLASSES + 1, kernel_init=nn.initializers.normal(2.0))(hidden), {
            "stage1": x,
            "pre_logits": hidden,
        }


def fine_tuning(**fields):
    rule = DetectionRule(min_score=0.0, nms_threshold=0.5, max_detections=5)
    evaluation = BoxEvaluation(CLASSES, SIDE, rule)
    return FineTuning(Small(), evaluation, (0.5,) * 3, (0.25,) * 3, CROP, context=1, **fields)


def images(seed, count=ROWS):
    return jax.random.randint(jax.random.key(seed), (count, SIDE, SIDE, 3), 0, 256).astype(
        jnp.uint8
    )


def batch(seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 8, (ROWS, 2, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 10, corner.shape)], axis=-1)
    near = boxes[:, rng.integers(2, size=REGIONS)] + rng.normal(0, 1, (ROWS, REGIONS, 4))
    none = jnp.zeros((ROWS, 2), bool)
    return {
        "image": images(seed),
        "size": jnp.array([[40.0, 20.0], [20.0, 20.0]]),
        "boxes": jnp.array(boxes, jnp.float32),
        "labels": jnp.array(rng.integers(CLASSES, size=(ROWS, 2)), jnp.int32),
        "object_valid": ~none,
        "difficult": none,
        "crowd": none,
        "area": jnp.ones((ROWS, 2)),
        "proposals": jnp.array(np.clip(near, 0, SIDE), jnp.float32),
        "proposal_valid": jnp.array(rng.random((ROWS, REGIONS)) < 0.9),
        "index": jnp.arange(ROWS, dtype=jnp.int32),
        "valid": jnp.ones(ROWS, bool),
    }


def crops_by_hand(task, image, boxes):
    return warp_crops(normalize(floating(image), task.mean, task.std), boxes, CROP, 1)


def test_the_loss_is_that_of_every_warped_region():
    task = fine_tuning(flip=False)
    params, state = task.init(jax.random.key(0))
    rows = {
        "image": images(1, 4),
        "box": jnp.float32([[2, 3, 12, 9], [0, 0, 20, 20], [-3, 5, 4, 30], [6, 6, 7, 7]]),
        "label": jnp.array([0, 1, 3, 2], jnp.int32),
        "ordinal": jnp.arange(4, dtype=jnp.int32),
        "valid": jnp.array([True, True, True, False]),
    }
    keys = {name: jax.random.key(5) for name in ("augment", "mix", "dropout")}
    total, (_, sums) = jax.jit(task.loss)(params, state, rows, keys)
    expected = right = 0.0
    for i in range(3):
        crop = crops_by_hand(task, rows["image"][i], rows["box"][i : i + 1])
        logits = np.asarray(task.model.apply({"params": params}, crop, train=False)[0][0])
        expected += np.log(np.exp(logits).sum()) - logits[int(rows["label"][i])]
        right += logits.argmax() == int(rows["label"][i])
    assert float(total) == pytest.approx(expected, rel=1e-4)
    figures = task.summarize(jax.tree.map(np.asarray, sums)).metrics
    assert figures == {
        "loss": pytest.approx(expected / 3, rel=1e-4),
        "region_accuracy": pytest.approx(right / 3),
        "foreground_share": pytest.approx(2 / 3),
    }
    # Mirrored regions cost something else, but each by the key of its place alone.
    mirrored = fine_tuning()
    again = jax.jit(mirrored.loss)
    turned, order = again(params, state, rows, keys)[0], jnp.array([3, 1, 0, 2])
    assert float(turned) != float(total)
    moved = {name: column[order] for name, column in rows.items()}
    assert float(again(params, state, moved, keys)[0]) == pytest.approx(float(turned), rel=1e-5)


@pytest.mark.parametrize("at_a_time", [4, 64])
def test_features_in_parts_are_those_of_each_region(at_a_time, monkeypatch):
    monkeypatch.setattr(rcnn, "_AT_A_TIME", at_a_time)
    task, given = fine_tuning(), batch()
    params, state = task.init(jax.random.key(0))
    found = jax.jit(task.features)(params, state, given)
    for row in range(ROWS):
        crops = crops_by_hand(task, given["image"][row], given["proposals"][row])
        logits, features = task.model.apply({"params": params}, crops, train=False)
        np.testing.assert_allclose(found.logits[row], logits, atol=1e-4)
        np.testing.assert_allclose(found.classes[row], features["pre_logits"], atol=1e-4)
        pooled = adaptive_avg_pool(features["stage1"], (6, 6)).reshape(REGIONS, -1)
        np.testing.assert_allclose(found.boxes[row], pooled, atol=1e-4)
    # Parts that are all padding are not worked on; what is not padding does not notice.
    given |= {"proposal_valid": jnp.arange(REGIONS)[None] < jnp.array([[3], [0]])}
    part = jax.jit(task.features)(params, state, given)
    np.testing.assert_allclose(part.logits[0, :3], found.logits[0, :3], atol=1e-4)
    assert not part.logits[1].any() and part.logits[0, 8:].any() == (at_a_time > 8)


def best(predictions, row):
    return tuple(np.asarray(x[row, 0]) for x in predictions.detections)


def test_the_softmax_detects_where_proposals_are():
    task, given = fine_tuning(), batch(1)
    params, state = task.init(jax.random.key(1))
    predictions = jax.jit(task.predict)(params, state, given)
    logits = task.features(params, state, given).logits
    scores = np.asarray(jax.nn.softmax(logits))[..., 1:]
    scores = scores * np.asarray(given["proposal_valid"])[..., None]
    for row in range(ROWS):
        region, label = np.unravel_index(scores[row].argmax(), scores[row].shape)
        box, score, found, valid = best(predictions, row)
        assert (found, valid) == (label, True)
        assert score == pytest.approx(scores[row].max(), rel=1e-5)
        height, width = np.asarray(given["size"][row])
        scale = np.array([width, height] * 2) / SIDE
        np.testing.assert_allclose(
            box, np.asarray(given["proposals"])[row, region] * scale, rtol=1e-5
        )
    figures = task.summarize(*jax.tree.map(np.asarray, task.measure(predictions, given))).metrics
    assert np.isfinite(figures["loss"]) and "map50" in figures and "box_loss" not in figures


def test_the_detector_scores_by_margins_and_moves_boxes():
    task = RCNN(fine_tuning())
    given = batch(2)
    params, state = task.init(jax.random.key(1))
    assert params["classes"]["weights"].shape == (4, CLASSES)
    assert params["boxes"]["weights"].shape == (CLASSES, 6 * 6 * 5, 4)
    keys = jax.random.split(jax.random.key(2), 4)
    params["classes"] = {
        "weights": jax.random.normal(keys[0], (4, CLASSES)),
        "bias": jax.random.normal(keys[1], (CLASSES,)),
        "scale": jnp.array(2.0),
    }
    params["boxes"] = {
        "weights": 0.02 * jax.random.normal(keys[2], (CLASSES, 180, 4)),
        "bias": 0.1 * jax.random.normal(keys[3], (CLASSES, 4)),
        "scale": jnp.array(0.5),
    }
    predictions = jax.jit(task.predict)(params, state, given)
    found = task.network.features(params["network"], state, given)
    margin = 2 * np.asarray(found.classes) @ params["classes"]["weights"]
    margin = np.asarray(margin) + np.asarray(params["classes"]["bias"])
    margin[~np.asarray(given["proposal_valid"])] = -np.inf
    for row in range(ROWS):
        region, label = np.unravel_index(margin[row].argmax(), margin[row].shape)
        box, score, where, _ = best(predictions, row)
        assert where == label
        assert score == pytest.approx(1 / (1 + np.exp(-margin[row].max())), rel=1e-4)
        delta = 0.5 * np.asarray(found.boxes)[row, region] @ params["boxes"]["weights"][label]
        delta = delta + params["boxes"]["bias"][label]
        moved = np.asarray(box_ops.decode(jnp.array(delta), given["proposals"][row, region]))
        height, width = np.asarray(given["size"][row])
        scale = np.array([width, height] * 2) / SIDE
        np.testing.assert_allclose(box, np.clip(moved, 0, SIDE) * scale, rtol=1e-3, atol=1e-3)
    plain = RCNN(fine_tuning(), classifier="softmax", regress_boxes=False)
    alike = jax.jit(plain.predict)({"network": params["network"]}, state, given)
    network = jax.jit(plain.network.predict)(params["network"], state, given)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), alike, network)


@pytest.mark.parametrize("missing", ["proposal_valid", "object_valid"])
def test_batches_that_lack_something(missing):
    given = batch(3)
    given |= {missing: jnp.zeros_like(given[missing])}
    task = RCNN(fine_tuning())
    params, state = task.init(jax.random.key(0))
    predictions = jax.jit(task.predict)(params, state, given)
    figures = task.summarize(*jax.tree.map(np.asarray, task.measure(predictions, given))).metrics
    assert np.isfinite(figures["loss"])
    assert predictions.detections.valid.any() == (missing == "object_valid")


def test_the_context_is_the_paper_s_share():
    assert paper_context(227) == 16
    assert (paper_context(32), paper_context(96)) == (2, 7)
