"""Residual networks: their maps, shortcuts and initial state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError


def features_of(name, side, **options):
    """The shapes of the feature maps for an image of `side` pixels, without the batch's axis."""
    model = models.create(name, 10, **options)

    def run(key, images):
        return model.init_with_output(key, images)[0][1]

    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return {stage: x.shape[1:] for stage, x in jax.eval_shape(run, key, images).items()}


def test_maps_of_resnet50():
    assert features_of("resnet50", 224) == {
        "stem": (112, 112, 64),
        "stage1": (56, 56, 256),
        "stage2": (28, 28, 512),
        "stage3": (14, 14, 1024),
        "stage4": (7, 7, 2048),
        "pre_logits": (2048,),
    }


def test_maps_of_the_cifar_networks():
    assert features_of("resnet20", 32) == {
        "stem": (32, 32, 16),
        "stage1": (32, 32, 16),
        "stage2": (16, 16, 32),
        "stage3": (8, 8, 64),
        "pre_logits": (64,),
    }


def test_small_stem_keeps_the_map():
    shapes = features_of("resnet18", 32, stem="small", width=0.5)
    assert shapes["stem"] == shapes["stage1"] == (32, 32, 32)
    assert shapes["stage4"] == (4, 4, 256)


def parameters_of(name, **options):
    model = models.create(name, 10, **options)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda key, images: model.init(key, images), key, images)["params"]


def test_shape_decides_where_a_projection_is():
    """The first block of a bottleneck's first stage widens without a stride."""
    projected = {
        name: [block for block, layers in parameters_of(name).items() if "shortcut_conv" in layers]
        for name in ("resnet18", "resnet50", "resnet20")
    }
    assert projected == {
        "resnet18": ["stage2_block0", "stage3_block0", "stage4_block0"],
        "resnet50": ["stage1_block0", "stage2_block0", "stage3_block0", "stage4_block0"],
        "resnet20": [],
    }
    with_projection = parameters_of("resnet20", shortcut="projection")
    assert with_projection["stage2_block0"]["shortcut_conv"]["kernel"].shape == (1, 1, 16, 32)


def test_option_a_subsamples_and_appends_zeros():
    """He et al. 2016, section 3.3 A, and the identity elsewhere: seen where blocks add nothing."""
    model = models.create("resnet20", 10, zero_init_residual=True, width=0.25)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    (_, features), _ = jax.jit(model.init_with_output)(jax.random.key(0), images)
    stem = np.asarray(features["stem"])
    np.testing.assert_array_equal(features["stage1"], stem)
    stage2 = np.zeros((2, 8, 8, 8), np.float32)
    stage2[..., :4] = stem[:, ::2, ::2]
    np.testing.assert_array_equal(features["stage2"], stage2)


def test_a_plain_network_adds_nothing_to_what_its_blocks_give():
    """He et al. 2016, section 3.3; with shortcuts the same blocks leave the map as it is."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    model = models.create("resnet20", 10, shortcut="none", width=0.25)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    last = variables["params"]["stage1_block2"]["norm2"]
    last["scale"] = jnp.zeros_like(last["scale"])
    _, features = jax.jit(model.apply)(variables, images)
    assert np.any(features["stem"])
    np.testing.assert_array_equal(features["stage1"], 0)


def test_a_plain_network_cannot_start_as_the_identity():
    with pytest.raises(UserError, match="zero_init_residual: blocks without a shortcut"):
        features_of("resnet20", 16, shortcut="none", zero_init_residual=True)


def test_initial_filters_have_the_variance_of_he():
    """2 / fan_out, also where the convolution is grouped; scales of one and biases of zero."""
    model = models.create("resnext50_32x4d", 10)
    images = jnp.zeros((1, 8, 8, 3))
    parameters = jax.jit(model.init)(jax.random.key(0), images)["params"]
    kernel = parameters["stage3_block1"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 16, 512)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.02)
    np.testing.assert_array_equal(parameters["stage3_block1"]["norm3"]["scale"], 1)
    head = parameters["head"]
    assert np.abs(head["kernel"]).max() == pytest.approx(1 / np.sqrt(2048), rel=0.01)
    np.testing.assert_array_equal(head["bias"], 0)


def test_dropout_is_only_for_training():
    model = models.create("resnet20", 10, dropout_rate=0.9, width=0.25)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def train(key):
        (logits, _), _ = model.apply(
            variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return logits

    assert not np.array_equal(train(jax.random.key(1)), train(jax.random.key(2)))
    np.testing.assert_array_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    jax.eval_shape(model.apply, variables, images)  # needs no key
