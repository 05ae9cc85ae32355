"""Inception-v3: maps, torchvision's answers, auxiliary head, smallest images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import inception_v3, weights
from cnn_jax.models.googlenet import ConvUnit
from cnn_jax.models.layers import BatchNorm


@functools.cache
def trace(shape, **options):
    """The model, and the shapes of its variables and of what it returns while training."""
    model = models.create("inception_v3", **options)

    def run(key, images):
        return model.init_with_output({"params": key, "dropout": key}, images, train=True)

    key = jax.eval_shape(lambda: jax.random.key(0))
    outputs, variables = jax.eval_shape(run, key, jax.ShapeDtypeStruct(shape, jnp.float32))
    return model, variables, outputs


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def test_maps_are_those_of_the_paper():
    _, _, (logits, features) = trace((2, 299, 299, 3))
    auxiliary = features.pop("auxiliary_logits")
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stem": (147, 147, 64),
        "stage1": (71, 71, 192),
        "stage2": (35, 35, 288),
        "stage3": (17, 17, 768),
        "stage4": (8, 8, 2048),
        "pre_logits": (2048,),
    }
    assert logits.shape == (2, 1000)
    assert {head: x.shape for head, x in auxiliary.items()} == {"AuxLogits": (2, 1000)}


def test_small_stem_keeps_the_map_for_the_modules():
    _, _, (_, features) = trace((1, 32, 32, 3), stem="small", width=0.5)
    del features["auxiliary_logits"]
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stem": (32, 32, 32),
        "stage1": (32, 32, 96),
        "stage2": (32, 32, 144),
        "stage3": (15, 15, 384),
        "stage4": (7, 7, 1024),
        "pre_logits": (1024,),
    }


@pytest.mark.parametrize(("stem", "minimum"), [("imagenet", 75), ("small", 7)])
def test_smallest_image(stem, minimum):
    def halved(cells):
        """A window of 3 with stride 2, unpadded."""
        return (cells - 3) // 2 + 1 if cells >= 3 else 0

    def last_map(pixels):
        cells = pixels
        if stem == "imagenet":
            cells = halved(halved(halved(pixels) - 2) - 2)
        return halved(halved(cells))

    assert last_map(minimum) == 1
    assert last_map(minimum - 1) == 0

    model, _, (_, features) = trace((1, minimum, minimum + 1, 3), stem=stem)
    assert features["stage4"].shape[1] == 1
    assert model.minimum_size == minimum
    with pytest.raises(UserError, match=f"smallest legal size is {minimum}x{minimum}"):
        trace((1, minimum + 1, minimum - 1, 3), stem=stem)


def test_variables_do_not_depend_on_the_image_size():
    _, small, _ = trace((1, 75, 75, 3))
    _, large, _ = trace((2, 299, 299, 3))
    assert jax.tree.map(lambda x: x.shape, small) == jax.tree.map(lambda x: x.shape, large)


def test_auxiliary_logits_only_while_training_and_with_a_head():
    model, variables, (_, features) = trace((1, 75, 75, 3))
    assert model.auxiliary_weight == 0.4
    assert "auxiliary_logits" in features
    images = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    _, features = jax.eval_shape(model.apply, variables, images)
    assert "auxiliary_logits" not in features
    _, _, (_, features) = trace((1, 75, 75, 3), auxiliary=False)
    assert "auxiliary_logits" not in features


def test_auxiliary_heads_initial_weights_are_small():
    unit = functools.partial(ConvUnit, norm=functools.partial(BatchNorm, use_running_average=False))
    head = inception_v3.AuxiliaryHead(num_classes=100, unit=unit)
    params = jax.jit(head.init)(jax.random.key(0), jnp.zeros((2, 17, 17, 8)))["params"]
    assert float(params["conv1"]["conv"]["kernel"].std()) == pytest.approx(0.01, rel=0.02)
    assert float(params["fc"]["kernel"].std()) == pytest.approx(0.001, rel=0.02)


def test_logits_equal_torchvisions(golden):
    images = golden.images("inception_v3")
    model, shapes, _ = trace(images.shape)
    variables = weights.assign(golden.tensors("inception_v3"), model, shapes)
    logits, _ = jax.jit(model.apply)(variables, jnp.asarray(images))
    assert relative_error(logits, golden.answers["inception_v3.logits"]) <= 1e-5


@pytest.mark.slow
def test_training_logits_equal_torchvisions(golden):
    """With the batch's statistics, which the head takes of a single cell per image.

    They are ill conditioned: torch's float32 logits are within 2e-4 and 8e-4 of its float64 ones.
    """
    images = golden.images("inception_v3", training=True)
    model, shapes, _ = trace(images.shape, dropout_rate=0.0)
    variables = weights.assign(golden.tensors("inception_v3"), model, shapes)
    (logits, features), _ = jax.jit(model.apply, static_argnames=("train", "mutable"))(
        variables, jnp.asarray(images), train=True, mutable=("batch_stats",)
    )
    auxiliary = features["auxiliary_logits"]["AuxLogits"]
    assert relative_error(logits, golden.answers["inception_v3.training.logits"]) <= 1e-3
    assert relative_error(auxiliary, golden.answers["inception_v3.training.aux_logits"]) <= 3e-3
