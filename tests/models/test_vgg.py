"""VGG: its maps, its classifier on small images, its initial state and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models


def trace(model, side, train=False):
    """The shapes of a model's variables and features for images of `side` pixels."""

    def run(key, images):
        keys = {"params": key, "dropout": key}
        (_, features), variables = model.init_with_output(keys, images, train=train)
        return variables["params"], features

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(run, key, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def test_maps():
    """Simonyan & Zisserman 2015, table 1, D."""
    _, features = trace(models.create("vgg16"), 224)
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stage1": (224, 224, 64),
        "stage2": (112, 112, 128),
        "stage3": (56, 56, 256),
        "stage4": (28, 28, 512),
        "stage5": (14, 14, 512),
        "pre_logits": (4096,),
    }


@pytest.mark.parametrize(
    ("name", "convolutions"), [("vgg11", 8), ("vgg13", 10), ("vgg16_bn", 13), ("vgg19_bn", 16)]
)
def test_number_of_layers(name, convolutions):
    """The name counts convolutions and linear layers."""
    parameters, _ = trace(models.create(name), 32)
    assert sum("conv" in layer for layer in parameters) == convolutions
    assert sum("norm" in layer for layer in parameters) == ("bn" in name) * convolutions


def test_small_stem_leaves_one_cell_to_the_classifier():
    parameters, _ = trace(models.create("vgg11", 10, stem="small"), 32)
    assert parameters["dense1"]["kernel"].shape == (1, 1, 512, 4096)
    parameters, _ = trace(models.create("vgg11", 10), 32)
    assert parameters["dense1"]["kernel"].shape == (7, 7, 512, 4096)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_strides_halve_the_maps_that_pooling_halves_without_further_parameters(stem):
    pooled, maps = trace(models.create("vgg11_bn", 10, stem=stem), 64)
    parameters, own = trace(models.create("vgg11_bn", 10, stem=stem, subsampling="strides"), 64)
    assert jax.tree.map(lambda x: x.shape, parameters) == jax.tree.map(lambda x: x.shape, pooled)
    assert {k: x.shape for k, x in own.items()} == {k: x.shape for k, x in maps.items()}


def test_a_strided_stage_is_a_convolution_of_the_whole_map_before():
    model = models.create("vgg11", 10, width=0.1, subsampling="strides")
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    (_, maps), variables = model.init_with_output(jax.random.key(0), images)
    own = variables["params"]["conv2_1"]
    expected = jax.lax.conv_general_dilated(
        maps["stage1"],
        own["kernel"],
        (2, 2),
        [(1, 1)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    expected = jnp.maximum(expected + own["bias"][None, None, None], 0)
    np.testing.assert_allclose(maps["stage2"], expected, atol=1e-5)


def test_initial_weights_are_torchvisions():
    model = models.create("vgg11", 1000, width=0.25, stem="small")
    parameters = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert parameters["conv4_2"]["kernel"].shape == (3, 3, 128, 128)
    assert np.std(parameters["conv4_2"]["kernel"]) == pytest.approx(
        np.sqrt(2 / (9 * 128)), rel=0.02
    )
    for layer in ("dense1", "dense2", "head"):
        assert np.std(parameters[layer]["kernel"]) == pytest.approx(0.01, rel=0.02)
        np.testing.assert_array_equal(parameters[layer]["bias"], 0)


def test_dropout_is_only_for_training():
    model = models.create("vgg11", 10, stem="small", width=0.1)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def train(key):
        return model.apply(variables, images, train=True, rngs={"dropout": key})[0]

    assert not np.array_equal(train(jax.random.key(1)), train(jax.random.key(2)))
    np.testing.assert_array_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    jax.eval_shape(model.apply, variables, images)  # needs no key
