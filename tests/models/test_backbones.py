"""The protocol of a backbone, of one network of every family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.models.backbones import Backbone, by_resolution

# A small network of each class, and the modules of its head.
HEADS = {
    "alexnet": ({"stem": "small", "width": 0.05}, {"dense1", "dense2", "head"}),
    "vgg11_bn": ({"stem": "small", "width": 0.05}, {"dense1", "dense2", "head"}),
    "googlenet": ({"stem": "small", "width": 0.1}, {"fc", "aux1", "aux2"}),
    "inception_v3": ({"stem": "small", "width": 0.1}, {"fc", "AuxLogits"}),
    "resnet20": ({"width": 0.25}, {"head"}),
    "densenet_bc_100_12": ({"width": 0.25}, {"classifier"}),
    "airbench96": ({"width": 0.1}, {"head"}),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_declares_what_it_has(name):
    """Names of modules and options that the protocol asks for are those of the network itself."""
    model = models.create(name, 3)
    assert isinstance(model, Backbone)
    side = model.minimum_size
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(keys, x, train=True), images)["params"]
    assert {classifier.partition(".")[0] for classifier in model.classifiers} <= set(params)
    assert set(model.auxiliary_heads) <= set(model.head_modules) <= set(params)
    assert set(model.hidden_layers.modules) <= set(model.head_modules)
    assert set(model.head_options) <= set(models.options(name))
    assert model.optional_modules == model.auxiliary_heads
    assert models.create(name, 0).optional_modules == model.head_modules


@pytest.mark.parametrize("name", HEADS)
def test_without_classes_a_network_has_no_parameters_of_its_head(name):
    options, head = HEADS[name]
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    whole, headless = (
        jax.eval_shape(
            lambda x, n=n: models.create(name, n, **options).init(keys, x, train=True), images
        )
        for n in (3, 0)
    )
    assert set(whole["params"]) - set(headless["params"]) == head
    for collection, modules in headless.items():
        assert {module: whole[collection][module] for module in modules} == modules


@pytest.mark.fused
@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in HEADS if name != "alexnet"),
    ],
)
def test_without_classes_a_network_is_the_same_up_to_its_head(name):
    """Initial values and maps are, to the last bit, in inference and in training."""
    options, _ = HEADS[name]
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}

    def run(num_classes):
        model = models.create(name, num_classes, **options)

        @jax.jit
        def outputs(images):
            variables = model.init(keys, images, train=True)
            logits, features = model.apply(variables, images)
            (_, training), _ = model.apply(
                variables,
                images,
                train=True,
                rngs={"dropout": keys["dropout"]},
                mutable=["batch_stats"],
            )
            return variables, logits, by_resolution(features), by_resolution(training)

        return outputs(images)

    (whole, logits, *maps), (headless, none, *headless_maps) = run(3), run(0)
    assert logits.shape == (2, 3) and none is None
    assert len(maps[0]) >= 3
    jax.tree.map(np.testing.assert_array_equal, maps, headless_maps)
    for collection, modules in headless.items():
        kept = {module: whole[collection][module] for module in modules}
        jax.tree.map(np.testing.assert_array_equal, kept, modules)


def test_a_truncated_residual_network_has_no_later_stages():
    model = models.create("resnet20", 5, width=0.25)
    images = jnp.ones((1, 16, 16, 3))
    whole = jax.jit(model.init)(jax.random.key(0), images)["params"]
    short = model.truncated("stage2")
    params = jax.jit(short.init)(jax.random.key(0), images)["params"]
    left_out = {f"stage3_block{index}" for index in range(3)} | {"head"}
    assert set(whole) - set(params) == set(short.optional_modules) == left_out
    jax.tree.map(np.testing.assert_array_equal, params, {name: whole[name] for name in params})
    assert short.truncated("stage2") == short


def test_a_network_without_a_way_to_leave_out_stages_stays_whole():
    model = models.create("vgg11", 0, width=0.25)
    assert model.truncated("stage3") == model
    assert "stages" not in {field.name for field in dataclasses.fields(model)}
