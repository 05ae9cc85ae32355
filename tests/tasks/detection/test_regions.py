"""Regions to train on, what they should become, and what they cost: against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import losses
from cnn_jax.errors import UserError
from cnn_jax.ops import boxes as box_ops
from cnn_jax.tasks.detection.regions import (
    BoxStatistics,
    RegionSampling,
    Targets,
    box_statistics,
    draw,
    of_regions,
    region_loss,
)

SAMPLING = RegionSampling(regions=8)
drawn = jax.jit(draw, static_argnames=("sampling", "statistics"))


def scene(seed, regions=40, objects=3):
    """Objects, and regions around them and elsewhere."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (objects, 2))
    truth = np.concatenate([corner, corner + rng.uniform(4, 10, (objects, 2))], axis=1)
    near = truth[rng.integers(objects, size=regions)] + rng.normal(0, 1.5, (regions, 4))
    return {
        "regions": jnp.array(near, jnp.float32),
        "region_valid": jnp.array(rng.random(regions) < 0.9),
        "objects": jnp.array(truth, jnp.float32),
        "labels": jnp.array(rng.integers(5, size=objects), jnp.int32),
        "object_valid": jnp.array([True] * (objects - 1) + [False]),
    }


def test_rows_are_what_the_paper_s_rule_allows():
    for seed in range(10):
        given = scene(seed)
        index, targets = drawn(
            jax.random.key(seed), **given, sampling=SAMPLING, statistics=BoxStatistics()
        )
        overlaps = np.array(box_ops.iou(given["regions"], given["objects"]))
        overlaps[:, ~np.asarray(given["object_valid"])] = -1
        usable = np.asarray(given["region_valid"])
        foreground = usable & (overlaps.max(axis=1) >= 0.5)
        background = usable & (overlaps.max(axis=1) >= 0.1) & ~foreground
        # A quarter of eight, and no proposal twice.
        assert targets.foreground.sum() == min(2, foreground.sum())
        expected = min(8, targets.foreground.sum() + background.sum())
        assert targets.valid.sum() == expected
        rows = np.asarray(index)[np.asarray(targets.valid)]
        assert len(set(rows.tolist())) == len(rows)
        for i, row in enumerate(np.asarray(index)):
            if not targets.valid[i]:
                continue
            if targets.foreground[i]:
                assert foreground[row]
                partner = overlaps[row].argmax()
                assert targets.labels[i] == given["labels"][partner]
                px, py, pw, ph = _center(np.asarray(given["regions"])[row])
                gx, gy, gw, gh = _center(np.asarray(given["objects"])[partner])
                expected = [(gx - px) / pw, (gy - py) / ph, np.log(gw / pw), np.log(gh / ph)]
                np.testing.assert_allclose(
                    targets.deltas[i], np.array(expected) / [0.1, 0.1, 0.2, 0.2], atol=2e-4
                )
            else:
                assert background[row] and targets.labels[i] == 0
                assert not targets.deltas[i].any()


def _center(box):
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def test_the_key_alone_decides():
    given = scene(3)
    fixed = {"sampling": SAMPLING, "statistics": BoxStatistics()}
    first, again, other = (drawn(jax.random.key(k), **given, **fixed)[0] for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


@pytest.mark.parametrize("low", [0.0, 0.1])
def test_without_objects_there_is_background_only_where_the_rule_wants_easy_ones(low):
    given = scene(4) | {"object_valid": jnp.zeros(3, bool)}
    sampling = RegionSampling(regions=8, background_iou=(low, 0.5))
    _, targets = drawn(jax.random.key(0), **given, sampling=sampling, statistics=BoxStatistics())
    assert int(targets.valid.sum()) == (0 if low else 8)
    assert not targets.foreground.any()
    loss = region_loss(jnp.ones((8, 6)), jnp.ones((8, 5, 4)), targets)
    assert np.isfinite(loss.classes) and loss.boxes == 0
    assert (loss.classes == 0) == bool(low)


def test_without_regions_nothing_is_drawn():
    given = scene(5) | {"region_valid": jnp.zeros(40, bool)}
    _, targets = drawn(jax.random.key(0), **given, sampling=SAMPLING, statistics=BoxStatistics())
    assert not targets.valid.any() and not targets.foreground.any()


def test_class_weights_multiply_the_class_losses_of_foreground_regions():
    rng = np.random.default_rng(0)
    scores, truth = jnp.array(rng.normal(size=(5, 3)), jnp.float32), jnp.array([2, 0, 1, 0, 2])
    plain = of_regions(scores, truth)
    factors = np.array([4.0, 1.0, 0.5, 1.0, 4.0])
    np.testing.assert_allclose(of_regions(scores, truth, (0.5, 4.0)), plain * factors, rtol=1e-6)
    targets = Targets(
        labels=jnp.array([1, 0, 0, 0, 1]),
        deltas=jnp.zeros((5, 4)),
        foreground=truth > 0,
        valid=jnp.array([True] * 4 + [False]),
    )
    found = region_loss(scores, jnp.zeros((5, 2, 4)), targets, (0.5, 4.0))
    # Divided by the number of regions, not by the sum of their weights.
    np.testing.assert_allclose(found.classes, (plain * factors)[:4].sum() / 4, rtol=1e-6)


def test_the_loss_is_the_paper_s():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 4)).astype(np.float32)
    deltas = (2 * rng.normal(size=(6, 3, 4))).astype(np.float32)
    targets = Targets(
        labels=jnp.array([2, 0, 1, 0, 0, 0]),
        deltas=jnp.array(rng.normal(size=(6, 4)), jnp.float32),
        foreground=jnp.array([True, True, True, False, False, False]),
        valid=jnp.array([True, True, True, True, True, False]),
    )
    found = jax.jit(region_loss)(jnp.array(scores), jnp.array(deltas), targets)
    classes = boxes = 0.0
    right = 0
    for i in range(5):
        truth = int(targets.labels[i]) + 1 if targets.foreground[i] else 0
        classes -= scores[i, truth] - np.log(np.exp(scores[i]).sum())
        right += scores[i].argmax() == truth
        if targets.foreground[i]:
            for value, target in zip(deltas[i, truth - 1], targets.deltas[i], strict=True):
                x = abs(value - float(target))
                boxes += 0.5 * x**2 if x < 1 else x - 0.5
    assert found.classes == pytest.approx(classes / 5, rel=1e-5)
    assert found.boxes == pytest.approx(boxes / 5, rel=1e-5)
    assert (found.right, found.foreground, found.regions) == (right, 3, 5)


def test_smooth_l1_and_its_gradient():
    x = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0])
    zero = jnp.zeros_like(x)
    np.testing.assert_allclose(
        losses.smooth_l1(x, zero), [2.5, 0.5, 0.125, 0, 0.03125, 0.5, 1.5], rtol=1e-6
    )
    gradient = jax.grad(lambda x: losses.smooth_l1(x, zero).sum())(x)
    np.testing.assert_allclose(gradient, [-1, -1, -0.5, 0, 0.25, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(losses.smooth_l1(x, zero, beta=0.0), abs(x))
    assert losses.smooth_l1(x, zero, beta=0.5)[2] == pytest.approx(0.25)


def test_normalised_targets_come_back():
    rng = np.random.default_rng(1)
    rows = tuple(tuple(row) for row in rng.normal(size=(3, 4)).tolist())
    spread = tuple(tuple(row) for row in rng.uniform(0.5, 2, (3, 4)).tolist())
    for statistics in (BoxStatistics(rows, spread), BoxStatistics()):
        deltas = jnp.array(rng.normal(size=(5, 4)), jnp.float32)
        labels = jnp.array([0, 1, 2, 1, 0])
        learnt = statistics.normalize(deltas, labels)
        by_class = jnp.broadcast_to(learnt[:, None], (5, 3, 4))
        back = statistics.restore(by_class)[jnp.arange(5), labels]
        np.testing.assert_allclose(back, deltas, atol=1e-5)


def test_statistics_are_those_of_the_targets_by_class():
    examples = [scene(seed) for seed in range(6)]
    rng = np.random.default_rng(0)
    rows = [[] for _ in range(6)]
    batches = []
    for number, example in enumerate(examples):
        crowd = rng.random(3) < 0.2
        batches.append(
            {
                "proposals": np.asarray(example["regions"])[None],
                "proposal_valid": np.asarray(example["region_valid"])[None],
                "boxes": np.asarray(example["objects"])[None],
                "labels": np.asarray(example["labels"])[None],
                "object_valid": np.asarray(example["object_valid"])[None],
                "crowd": crowd[None],
                "difficult": np.zeros((1, 3), bool),
                "valid": np.array([number != 5]),
            }
        )
        usable = np.asarray(example["object_valid"]) & ~crowd
        regions = np.concatenate([example["regions"], example["objects"]])
        filled = np.concatenate([example["region_valid"], usable])
        overlaps = np.array(box_ops.iou(jnp.array(regions), example["objects"]))
        overlaps[:, ~usable] = -1
        for region, overlap, ok in zip(regions, overlaps, filled, strict=True):
            if ok and overlap.max() >= 0.5 and number != 5:
                px, py, pw, ph = _center(region)
                gx, gy, gw, gh = _center(np.asarray(example["objects"])[overlap.argmax()])
                rows[int(example["labels"][overlap.argmax()])].append(
                    [(gx - px) / pw, (gy - py) / ph, np.log(gw / pw), np.log(gh / ph)]
                )
    found = box_statistics(batches, 6)
    assert len(found.means) == 6
    measured = [k for k in range(6) if len(rows[k]) > 1]
    assert 2 <= len(measured) < 6
    for k in measured:
        np.testing.assert_allclose(found.means[k], np.mean(rows[k], axis=0), atol=1e-4)
        np.testing.assert_allclose(found.deviations[k], np.std(rows[k], axis=0), atol=1e-3)
    for k in set(range(6)) - set(measured):
        assert found.means[k] == (0.0,) * 4
        np.testing.assert_allclose(
            found.deviations[k], np.mean([found.deviations[m] for m in measured], axis=0)
        )
    empty = [{**b, "valid": np.array([False])} for b in batches]
    np.testing.assert_allclose(box_statistics(empty, 2).deviations, [[0.1, 0.1, 0.2, 0.2]] * 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regions": 0}, r"^regions 0: must be in \[1, 100000\]"),
        ({"foreground_fraction": 1.5}, "^foreground_fraction"),
        ({"foreground_iou": 0.0}, "^foreground_iou"),
        ({"background_iou": (0.5, 0.1)}, "^background_iou .* two rising numbers"),
    ],
)
def test_mistakes(fields, message):
    with pytest.raises(UserError, match=message):
        RegionSampling(**fields)
