"""The segmentation task: sizes that do not fit, sums over batches, losses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import losses
from cnn_jax.conventions import IGNORED
from cnn_jax.data.augment import MaskAugmentation
from cnn_jax.metrics import cells
from cnn_jax.metrics import segmentation as metrics
from cnn_jax.metrics.host import on_host
from cnn_jax.models import create
from cnn_jax.tasks.segmentation import Segmentation

CLASSES = 3


class Window(nn.Module):
    """Scores of each pixel from the 3 x 3 pixels around it, without padding; sizes of 4k + 2."""

    margin = 1

    def legal_size(self, size):
        return -(-size // 4) * 4 + 2

    @nn.compact
    def __call__(self, images, train=False):
        assert all(length % 4 == 2 for length in images.shape[1:3])
        return nn.Conv(CLASSES, (3, 3), padding="VALID", name="head")(images), {}


def task(model=None, size=(8, 8), **fields):
    return Segmentation(model or Window(), CLASSES, size, (0.5,) * 3, (0.25,) * 3, **fields)


def drawn(seed, count, size=(8, 8), margin=1):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, size[0] + 2 * margin, size[1] + 2 * margin, 3), np.uint8)
    mask = rng.integers(0, CLASSES, (count, *size)).astype(np.uint8)
    mask[:, 0, 0] = IGNORED
    index = np.arange(count, dtype=np.int32)
    valid = np.ones(count, bool)
    batch = {"image": image, "mask": mask, "index": index, "ordinal": index, "valid": valid}
    return {name: jnp.array(values) for name, values in batch.items()}


def keys(seed=0):
    names = ("augment", "mix", "dropout")
    return dict(zip(names, jax.random.split(jax.random.key(seed), 3), strict=True))


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 3)])
def test_every_size_gets_a_prediction_for_each_of_its_pixels(size):
    """Where the network takes larger images alone, the middle of its output is what counts."""
    segmenter = task(size=size)
    params, model_state = segmenter.init(jax.random.key(0))
    batch = drawn(0, 2, size)
    found = segmenter.predict(params, model_state, batch)
    assert found.shape == (2, *size, CLASSES)
    # The convolution by itself, on exactly the pixels that the image has.
    images = (batch["image"].astype(jnp.float32) / 255.0 - 0.5) / 0.25
    conv = nn.Conv(CLASSES, (3, 3), padding="VALID")
    expected = jax.nn.log_softmax(conv.apply({"params": params["head"]}, images))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_paper_s_u_net_predicts_an_image_of_any_size():
    segmenter = task(create("unet", CLASSES, "segmenter", width=1 / 32), size=(9, 13))
    params, model_state = segmenter.init(jax.random.key(0))
    batch = drawn(0, 1, (9, 13), margin=92)
    assert segmenter.predict(params, model_state, batch).shape == (1, 9, 13, CLASSES)


def test_sums_over_batches_are_the_whole_set_s():
    segmenter = task()
    params, model_state = segmenter.init(jax.random.key(0))
    batch = drawn(1, 5)
    whole, rows = segmenter.measure(segmenter.predict(params, model_state, batch), batch)
    # The rows of the images add up to the confusion matrix of all pixels.
    right, predicted, true = (rows["pixels"][key].sum(axis=0) for key in rows["pixels"])
    np.testing.assert_array_equal(right, np.diagonal(whole["confusion"]))
    np.testing.assert_array_equal(predicted, whole["confusion"].sum(axis=0))
    np.testing.assert_array_equal(true, whole["confusion"].sum(axis=1))
    total = None
    for chosen in ([0, 1, 2], [3, 4, 4]):
        part = {name: values[jnp.array(chosen)] for name, values in batch.items()}
        part["valid"] = jnp.array([True, True, chosen[1:] != [4, 4]])
        sums, _ = segmenter.measure(segmenter.predict(params, model_state, part), part)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    for name in ("examples", "confusion", "boundary_images"):
        np.testing.assert_array_equal(total[name], whole[name])
    for name, value in segmenter.summarize(whole).metrics.items():
        assert segmenter.summarize(total).metrics[name] == pytest.approx(value, abs=1e-6)


def test_the_summary_is_that_of_the_predicted_masks():
    segmenter = task(cells=True)
    params, model_state = segmenter.init(jax.random.key(0))
    batch = drawn(2, 4)
    predictions = segmenter.predict(params, model_state, batch)
    sums, rows = segmenter.measure(predictions, batch)
    summary = segmenter.summarize(sums, jax.tree.map(np.asarray, rows)).metrics
    predicted, mask = np.asarray(predictions.argmax(-1)), np.asarray(batch["mask"])
    known = mask != IGNORED
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (mask[known], predicted[known]), 1)
    assert summary["pixel_accuracy"] == pytest.approx(np.mean((predicted == mask)[known]))
    assert summary["mean_iou"] == pytest.approx(metrics.mean_iou(confusion))
    pairs = [(p == 1, m == 1) for p, m in zip(predicted, mask, strict=True)]
    rand = sum(on_host(cells.rand_pairs, *map(cells.cells, pair)) for pair in pairs)
    assert summary["rand_error"] == 1 - 2 * rand[0] / (rand[1] + rand[2]) > 0
    assert summary["pixel_error"] == np.mean((predicted == 1) != (mask == 1))
    assert summary["warping_error"] == np.mean([cells.warping_error(*pair) for pair in pairs])


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "both"])
def test_the_training_loss_is_the_images_losses_added(name):
    segmenter = task(loss_name=name, class_weights=(0.5, 1.0, 3.0))
    params, model_state = segmenter.init(jax.random.key(0))
    batch = drawn(3, 3) | {"valid": jnp.array([True, True, False])}
    batch["weight"] = jax.random.uniform(jax.random.key(1), (3, 8, 8))
    total, (_, sums) = segmenter.loss(params, model_state, batch, keys())
    logits = segmenter.predict(params, model_state, batch)
    expected = 0.0
    for row in range(2):
        mask = batch["mask"][row].astype(jnp.int32)
        if name != "dice":
            weights = jnp.array(segmenter.class_weights)
            expected += losses.pixel_cross_entropy(logits[row], mask, weights, batch["weight"][row])
        if name != "cross_entropy":
            expected += losses.dice_loss(logits[row], mask)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert sums["examples"] == 2


def test_the_window_that_is_trained_on_is_of_the_crop_s_size():
    segmenter = task(size=(4, 6), augmentation=MaskAugmentation(crop_size=(4, 6), rotate=20.0))
    params, model_state = segmenter.init(jax.random.key(0))
    _, (_, sums) = segmenter.loss(params, model_state, drawn(4, 2), keys())
    # All pixels of two windows but those that are ignored.
    assert 0 < np.asarray(sums["confusion"]).sum() <= 2 * 4 * 6


def test_an_image_of_ignored_pixels_alone_adds_nothing():
    segmenter = task()
    params, model_state = segmenter.init(jax.random.key(0))
    batch = drawn(5, 1)
    batch["mask"] = jnp.full_like(batch["mask"], IGNORED)
    total, _ = segmenter.loss(params, model_state, batch, keys())
    sums, _ = segmenter.measure(segmenter.predict(params, model_state, batch), batch)
    assert float(total) == 0
    assert np.asarray(sums["confusion"]).sum() == 0 and sums["boundary_images"] == 0


def test_a_task_is_hashable():
    assert hash(task()) == hash(dataclasses.replace(task()))
