"""YOLO's task: sums over batches and devices, what is trained on, and that it learns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.data.augment.boxes import BoxAugmentation
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, DetectionRule
from cnn_jax.tasks.detection.yolo import Yolo
from cnn_jax.training import parallel, prng
from cnn_jax.training.state import create

CLASSES, EXAMPLES, OBJECTS, SIDE, GRID, BOXES = 2, 10, 3, 16, 4, 2
STILL = BoxAugmentation(scale=0.0, translate=0.0, flip=False, hue=0.0, saturation=1.0, exposure=1.0)
PRIORS = ((0.2, 0.4), (0.4, 0.2))


class Tiny(nn.Module):
    """One convolution from pixels to cells."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(5 * BOXES + CLASSES, (4, 4), (4, 4), padding="VALID")(images)
        return x, {}


def task(**fields):
    evaluation = BoxEvaluation(CLASSES, SIDE, DetectionRule(max_detections=4))
    fields = {"priors": PRIORS, "augmentation": STILL, **fields}
    return Yolo(Tiny(), evaluation, (0.5,) * 3, (0.5,) * 3, BOXES, **fields)


def examples(seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 8, (EXAMPLES, OBJECTS, 2))
    sides = rng.uniform(2, 8, (EXAMPLES, OBJECTS, 2))
    valid = rng.random((EXAMPLES, OBJECTS)) < 0.7
    valid[2] = False
    return {
        "image": rng.integers(0, 255, (EXAMPLES, SIDE, SIDE, 3), np.uint8),
        "size": np.tile(np.array([30, 60], np.float32), (EXAMPLES, 1)),
        "boxes": np.concatenate([corner, corner + sides], -1).astype(np.float32),
        "labels": rng.integers(0, CLASSES, (EXAMPLES, OBJECTS)).astype(np.int32),
        "object_valid": valid,
        "difficult": np.zeros_like(valid),
        "crowd": np.zeros_like(valid),
        "area": sides.prod(-1).astype(np.float32),
        "index": np.arange(EXAMPLES, dtype=np.int32),
        "ordinal": np.arange(EXAMPLES, dtype=np.int32),
        "valid": np.ones(EXAMPLES, bool),
    }


def part(batch, rows, size=4):
    chosen = np.array([*rows, *[0] * (size - len(rows))])
    return {k: v[chosen] for k, v in batch.items()} | {"valid": np.arange(size) < len(rows)}


def keys(seed=0):
    key = jax.random.key(seed)
    return {name: key for name in ("augment", "mix", "dropout")}


SPLIT = ([0, 1, 2, 3], [4, 5], [6, 7, 8], [9])


@pytest.mark.parametrize("priors", [(), PRIORS])
def test_sums_do_not_depend_on_how_a_set_is_cut_up(priors):
    detector, batch = task(priors=priors), examples()
    params, state = detector.init(jax.random.key(0))

    @jax.jit
    def measure(batch):
        return detector.measure(detector.predict(params, state, batch), batch)

    whole, rows = jax.tree.map(np.asarray, measure(batch))
    parts = [jax.tree.map(np.asarray, measure(part(batch, chosen))) for chosen in SPLIT]
    cut = jax.tree.map(lambda *xs: np.sum(xs, axis=0), *[sums for sums, _ in parts])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), cut, whole)
    figures = detector.summarize(whole, rows).metrics
    assert figures["loss"] == pytest.approx(
        figures["coordinate_loss"] + figures["confidence_loss"] + figures["class_loss"], rel=1e-5
    )
    assert np.isfinite(figures["map50"])
    # In pixels of the original images, 60 wide and 30 high.
    boxes = rows["objects"]["boxes"]
    np.testing.assert_allclose(
        boxes, batch["boxes"] * np.tile([60 / SIDE, 30 / SIDE], 2), rtol=1e-5
    )
    losses = {name: value for name, value in figures.items() if "loss" in name}
    assert detector.summarize(whole).metrics == losses


def test_the_training_loss_depends_on_neither_parts_nor_padding():
    detector = task(augmentation=BoxAugmentation())
    batch = examples()
    params, state = detector.init(jax.random.key(0))
    loss = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))
    (whole, (_, sums)), gradient = loss(params, state, batch, keys())
    parts = [loss(params, state, part(batch, rows), keys()) for rows in SPLIT]
    assert sum(float(value) for (value, _), _ in parts) == pytest.approx(float(whole), rel=1e-4)
    assert int(sums["examples"]) == EXAMPLES
    summed = jax.tree.map(lambda *xs: sum(xs), *[grads for _, grads in parts])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), summed, gradient
    )


def test_a_step_on_four_devices_is_that_of_one():
    detector, batch = task(), examples()
    rows = {k: np.concatenate([v, v[:2]]) for k, v in batch.items()}
    rows["valid"] = np.arange(12) < EXAMPLES
    optimizer = optax.sgd(0.01)
    state = create(*detector.init(jax.random.key(0)), optimizer)
    step = parallel.compile_train_step(detector, optimizer)
    after, sums = step(parallel.replicate(state), parallel.split(rows), jax.random.key(1))
    assert parallel.replicas_agree(after.params)
    assert int(sums["examples"]) == EXAMPLES
    arrays = jax.tree.map(jnp.array, batch)
    one = prng.step_keys(jax.random.key(1), jnp.zeros((), jnp.int32))
    still = jax.grad(lambda p: detector.loss(p, {}, arrays, one)[0])(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.01 * g / EXAMPLES, state.params, still)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), after.params, expected
    )


def test_difficult_objects_and_crowds_are_not_trained_on():
    detector, batch = task(), examples()
    params, state = detector.init(jax.random.key(0))
    loss = jax.jit(detector.loss)
    hard = batch | {"difficult": batch["object_valid"]}
    crowd = batch | {"crowd": batch["object_valid"]}
    none = batch | {"object_valid": np.zeros_like(batch["object_valid"])}
    values = [float(loss(params, state, b, keys())[0]) for b in (hard, crowd, none)]
    assert values[0] == values[1] == values[2] < float(loss(params, state, batch, keys())[0])


@pytest.mark.parametrize("softmax", [True, False])
def test_a_few_examples_are_learnt(softmax):
    """Single bright boxes are found, in their right class and place."""
    detector = task(softmax=softmax, priors=PRIORS if softmax else ())
    batch = part(examples(), range(8), 8)
    batch["index"] = np.arange(8, dtype=np.int32)
    batch["object_valid"] = np.zeros((8, OBJECTS), bool)
    batch["object_valid"][:, 0] = True
    batch["image"][:] = 0
    for i in range(8):
        x, y = 4 * (i % 4), 4 * (i // 4)
        wide = i % 2
        batch["boxes"][i, 0] = [x, y, x + (4 if wide else 3), y + (3 if wide else 4)]
        batch["labels"][i, 0] = wide
        batch["image"][i, y : y + 4, x : x + 4] = [255 * wide, 255 * (1 - wide), 128]
    params, state = detector.init(jax.random.key(0))
    optimizer = optax.adam(0.02)

    arrays = jax.tree.map(jnp.array, batch)

    @jax.jit
    def step(carry, _):
        params, opt = carry
        gradient = jax.grad(lambda p: detector.loss(p, state, arrays, keys())[0])(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its count of steps with floats
            updates, opt = optimizer.update(gradient, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=400)
    sums, rows = detector.measure(detector.predict(params, state, arrays), arrays)
    figures = detector.summarize(sums, jax.tree.map(np.asarray, rows)).metrics
    assert figures["map50"] > 0.99
    assert figures["count_mae"] == 0
