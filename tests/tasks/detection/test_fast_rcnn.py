"""The task of Fast R-CNN: its loss by hand, its detections, and batches that lack something."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import BoxAugmentation, normalize
from cnn_jax.models.fast_rcnn import at_side
from cnn_jax.ops import boxes as box_ops
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, DetectionRule
from cnn_jax.tasks.detection.fast_rcnn import FLIP_ONLY, FastRCNN, _prepared
from cnn_jax.tasks.detection.regions import BoxStatistics, RegionSampling, draw, region_loss
from cnn_jax.tasks.images import floating

pytestmark = pytest.mark.optimized  # Compares bits between different programs.

CLASSES, SIDE, REGIONS, OBJECTS, ROWS = 3, 16, 12, 4, 3
STILL = dataclasses.replace(FLIP_ONLY, flip=False)


class Linear(nn.Module):
    """Scores and boxes of a region's place and the image's mean colour."""

    @nn.compact
    def __call__(self, images, boxes, train, sides=()):
        if sides:
            images, boxes = at_side(images, boxes, max(sides))
        color = images.mean(axis=(1, 2))[:, None]
        x = jnp.concatenate(
            [boxes / SIDE, jnp.broadcast_to(color, (*boxes.shape[:2], color.shape[-1]))], axis=-1
        )
        init = nn.initializers.normal(1.0)
        deltas = nn.Dense(CLASSES * 4, kernel_init=init)(x)
        return nn.Dense(CLASSES + 1, kernel_init=init)(x), deltas.reshape(*x.shape[:2], CLASSES, 4)


def task(**fields):
    rule = DetectionRule(min_score=0.0, nms_threshold=0.5, max_detections=6)
    given = {
        "model": Linear(),
        "evaluation": BoxEvaluation(CLASSES, SIDE, rule),
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "augmentation": STILL,
        "sampling": RegionSampling(regions=6),
    }
    return FastRCNN(**{**given, **fields})


def batch(seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 8, (ROWS, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 8, corner.shape)], axis=-1)
    around = boxes[:, rng.integers(OBJECTS, size=REGIONS)]
    proposals = np.clip(around + rng.normal(0, 0.8, around.shape), 0, SIDE)
    return {
        "image": jnp.array(rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)), jnp.uint8),
        "size": jnp.array([[32.0, 16.0], [16.0, 16.0], [8.0, 48.0]]),
        "boxes": jnp.array(boxes, jnp.float32),
        "labels": jnp.array(rng.integers(CLASSES, size=(ROWS, OBJECTS)), jnp.int32),
        "object_valid": jnp.array(rng.random((ROWS, OBJECTS)) < 0.8),
        "difficult": jnp.zeros((ROWS, OBJECTS), bool),
        "crowd": jnp.zeros((ROWS, OBJECTS), bool),
        "area": jnp.array((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1), jnp.float32),
        "proposals": jnp.array(proposals, jnp.float32),
        "proposal_valid": jnp.array(rng.random((ROWS, REGIONS)) < 0.9),
        "index": jnp.arange(ROWS, dtype=jnp.int32),
        "ordinal": jnp.array([5, 6, 7], jnp.int32),
        "valid": jnp.array([True, True, False]),
    }


KEYS = {name: jax.random.key(7) for name in ("augment", "mix", "dropout")}


def loss(system, params, given):
    return jax.jit(system.loss)(params, {}, given, KEYS)


def test_the_loss_is_that_of_the_regions_drawn_by_hand():
    system, given = task(), batch()
    params, state = system.init(jax.random.key(0))
    assert state == {}
    total, (_, sums) = loss(system, params, given)
    root = jax.random.fold_in(KEYS["augment"], jnp.uint32(2**31))
    expected, right = 0.0, []
    for row in range(2):
        regions = jnp.concatenate([given["proposals"][row], given["boxes"][row]])
        filled = jnp.concatenate([given["proposal_valid"][row], given["object_valid"][row]])
        index, targets = draw(
            jax.random.fold_in(root, given["ordinal"][row]),
            regions,
            filled,
            given["boxes"][row],
            given["labels"][row],
            given["object_valid"][row],
            system.sampling,
            system.statistics,
        )
        image = normalize(floating(given["image"][row : row + 1]), system.mean, system.std)
        scores, deltas = system.model.apply({"params": params}, image, regions[index][None], False)
        parts = region_loss(scores[0], deltas[0], targets)
        assert targets.foreground.any()
        expected += float(parts.classes + parts.boxes)
        drawn = np.asarray(targets.valid)
        wanted = np.where(targets.foreground, targets.labels + 1, 0)
        right.extend((np.argmax(scores[0], -1) == wanted)[drawn])
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert int(sums["examples"]) == 2
    figures = system.summarize(jax.tree.map(np.asarray, sums)).metrics
    assert figures["loss"] == pytest.approx(expected / 2, rel=1e-5)
    assert figures["class_loss"] + figures["box_loss"] == pytest.approx(figures["loss"], rel=1e-5)
    assert figures["region_accuracy"] == pytest.approx(np.mean(right), rel=1e-5)


@pytest.mark.parametrize("name", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_are_not_trained_on(name):
    system, given = task(), batch(1)
    params, _ = system.init(jax.random.key(0))
    crowded = given | {name: given["object_valid"]}
    none = given | {"object_valid": jnp.zeros((ROWS, OBJECTS), bool)}
    np.testing.assert_array_equal(loss(system, params, crowded)[0], loss(system, params, none)[0])
    assert loss(system, params, given)[0] != loss(system, params, none)[0]


@pytest.mark.parametrize("missing", ["object_valid", "proposal_valid", "valid", "everything"])
@pytest.mark.parametrize("low", [0.0, 0.1])
def test_whatever_is_missing_the_loss_and_its_gradient_are_finite(missing, low):
    names = ("object_valid", "proposal_valid", "valid") if missing == "everything" else (missing,)
    given = batch(2)
    given |= {name: jnp.zeros_like(given[name]) for name in names}
    system = task(sampling=RegionSampling(regions=6, background_iou=(low, 0.5)))
    params, _ = system.init(jax.random.key(0))

    def total(params):
        return system.loss(params, {}, given, KEYS)[0]

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    predictions = jax.jit(system.predict)(params, {}, given)
    sums, rows = jax.tree.map(np.asarray, jax.jit(system.measure)(predictions, given))
    if missing in ("proposal_valid", "everything"):
        assert not predictions.detections.valid.any()
    if "valid" not in names:
        kept = jax.tree.map(lambda x: x[np.asarray(given["valid"])], rows)
        figures = system.summarize(sums, kept).metrics
        assert np.isfinite(figures["loss"])
        assert np.isnan(figures["map50"]) == (missing == "object_valid")


def test_an_image_s_loss_goes_with_its_place_in_the_stream():
    system = task(augmentation=BoxAugmentation())
    given = batch(3) | {"valid": jnp.ones(ROWS, bool)}
    params, _ = system.init(jax.random.key(0))
    order = jnp.array([2, 0, 1])
    turned = {name: column[order] for name, column in given.items()}
    np.testing.assert_allclose(
        loss(system, params, given)[0], loss(system, params, turned)[0], rtol=1e-5
    )


def test_proposals_are_mirrored_with_the_image():
    given = batch(4)
    example = {name: column[0] for name, column in given.items()}
    mirrored = []
    for ordinal in range(8):
        one = example | {"ordinal": jnp.int32(ordinal)}
        image, objects, proposals, kept = _prepared(KEYS["augment"], one, FLIP_ONLY)
        original = floating(example["image"])
        if np.allclose(image, original):
            np.testing.assert_array_equal(proposals, example["proposals"])
            mirrored.append(False)
        else:
            np.testing.assert_allclose(image, original[:, ::-1], atol=1e-6)
            for found, before in ((proposals, "proposals"), (objects, "boxes")):
                expected = np.asarray(example[before])[:, [2, 1, 0, 3]]
                expected = expected * [-1, 1, -1, 1] + [SIDE, 0, SIDE, 0]
                np.testing.assert_allclose(found, expected, atol=1e-5)
            mirrored.append(True)
        np.testing.assert_array_equal(kept["proposal_valid"], example["proposal_valid"])
    assert any(mirrored) and not all(mirrored)


def test_detections_are_the_moved_proposals_in_the_original_image():
    deviations = ((0.1, 0.1, 0.2, 0.2), (0.2, 0.1, 0.1, 0.3), (0.3, 0.3, 0.1, 0.1))
    means = ((0.0, 0.1, 0.0, 0.0), (0.0, 0.0, 0.2, 0.0), (0.0, 0.0, 0.0, -0.1))
    system = task(statistics=BoxStatistics(means, deviations))
    given = batch(5)
    params, _ = system.init(jax.random.key(2))
    found, losses = jax.jit(system.predict)(params, {}, given)
    assert losses.classes.shape == (ROWS,)
    image = normalize(floating(given["image"]), system.mean, system.std)
    scores, deltas = system.model.apply({"params": params}, image, given["proposals"], False)
    scores = np.asarray(jax.nn.softmax(scores))[..., 1:]
    scores = np.where(np.asarray(given["proposal_valid"])[..., None], scores, 0)
    for row in range(ROWS):
        region, label = np.unravel_index(scores[row].argmax(), scores[row].shape)
        assert found.labels[row, 0] == label
        assert found.scores[row, 0] == pytest.approx(scores[row, region, label], rel=1e-5)
        moved = box_ops.decode(
            deltas[row, region, label] * jnp.array(deviations[label]) + jnp.array(means[label]),
            given["proposals"][row, region],
        )
        height, width = np.asarray(given["size"][row])
        scale = np.array([width, height] * 2) / SIDE
        np.testing.assert_allclose(
            found.boxes[row, 0], np.clip(np.asarray(moved), 0, SIDE) * scale, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("fields", [{"multi_task": False}, {"regress_boxes": False}])
def test_boxes_may_stay_where_they_are(fields):
    system, given = task(**fields), batch(6)
    params, _ = system.init(jax.random.key(2))
    found, _ = jax.jit(system.predict)(params, {}, given)
    scale = np.array([16, 32, 16, 32]) / SIDE
    proposals = np.asarray(given["proposals"][0]) * scale
    for box in np.asarray(found.boxes[0])[np.asarray(found.valid[0])]:
        assert np.abs(proposals - box).max(axis=1).min() < 1e-4
    total, (_, sums) = loss(system, params, given)
    whole = sums["class_loss"] + (0 if "multi_task" in fields else sums["box_loss"])
    np.testing.assert_allclose(total, whole, rtol=1e-6)
    assert sums["box_loss"] > 0


def test_a_step_sees_its_images_at_one_of_the_scales():
    given = batch(3)
    params, _ = task().init(jax.random.key(1))
    of_side = {s: loss(task(sides=(s,)), params, given)[0] for s in (8, 16, 24)}
    assert of_side[16] == loss(task(), params, given)[0]
    system, found = task(sides=(8, 16, 24)), set()
    for seed in range(12):
        keys = {**KEYS, "mix": jax.random.key(seed)}
        total, _ = jax.jit(system.loss)(params, {}, given, keys)
        (side,) = [s for s, value in of_side.items() if np.isclose(value, total, rtol=1e-6)]
        found.add(side)
    assert found == {8, 16, 24}


def test_a_user_s_image_has_no_losses():
    system, given = task(), batch(7)
    params, _ = system.init(jax.random.key(2))
    own = {name: given[name] for name in ("image", "size", "proposals", "proposal_valid")}
    plain = jax.jit(system.predict)(params, {}, own)
    assert plain.losses is None
    whole = jax.jit(system.predict)(params, {}, given)
    jax.tree.map(np.testing.assert_array_equal, plain.detections, whole.detections)


def test_sums_are_the_same_on_several_devices():
    system, given = task(), batch(8)
    params, _ = system.init(jax.random.key(2))
    parts = jax.tree.map(lambda x: x[:, None], given)

    def summed(part):
        sums, rows = system.measure(system.predict(params, {}, part), part)
        return jax.lax.psum(sums, "devices"), rows

    devices = jax.devices()[:ROWS]
    together = jax.pmap(summed, "devices", out_axes=(None, 0), devices=devices)(parts)
    together = together[0], jax.tree.map(lambda x: x[:, 0], together[1])
    alone = jax.jit(lambda b: system.measure(system.predict(params, {}, b), b))(given)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), together, alone)
