"""AlexNet in its two forms: their maps, groups, initial state and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models


def trace(name, side, **options):
    """The shapes of the parameters and features for images of `side` pixels."""
    model = models.create(name, 10, **options)

    def run(key, images):
        (_, features), variables = model.init_with_output(key, images)
        return variables["params"], features

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(run, key, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


@pytest.mark.parametrize(
    ("name", "side", "channels"),
    [("alexnet", 224, (64, 192, 256)), ("alexnet_paper", 227, (96, 256, 256))],
)
def test_maps(name, side, channels):
    """55, 27 and 13 cells a side, of which overlapping pooling makes 6 for the classifier."""
    parameters, features = trace(name, side)
    cells = (55, 27, 13)
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        **{f"stage{i + 1}": (cells[i], cells[i], channels[i]) for i in range(3)},
        "pre_logits": (4096,),
    }
    assert parameters["dense1"]["kernel"].shape == (6, 6, 256, 4096)


def test_groups_of_the_paper():
    """Krizhevsky et al. 2012, figure 2: layers 2, 4 and 5 read the channels of their own GPU."""
    parameters, _ = trace("alexnet_paper", 227)
    assert {
        layer: parameters[layer]["kernel"].shape for layer in parameters if "conv" in layer
    } == {
        "conv1": (11, 11, 3, 96),
        "conv2": (5, 5, 48, 256),
        "conv3": (3, 3, 256, 384),
        "conv4": (3, 3, 192, 384),
        "conv5": (3, 3, 192, 256),
    }


@pytest.mark.parametrize("name", ["alexnet", "alexnet_paper"])
def test_small_stem(name):
    parameters, features = trace(name, 32, stem="small", width=0.3)
    assert [features[f"stage{i}"].shape[1] for i in (1, 2, 3)] == [32, 15, 7]
    assert parameters["dense1"]["kernel"].shape[:2] == (3, 3)


def test_the_papers_initial_weights():
    """Section 5: N(0, 0.01^2), biases of 1 in layers 2, 4, 5 and the hidden linear ones."""
    model = models.create("alexnet_paper", 10, stem="small", width=0.25)
    parameters = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for layer in parameters.values():
        scale = np.sqrt(layer["kernel"].size)
        assert np.std(layer["kernel"]) == pytest.approx(0.01, rel=3 / scale)
    biases = {name: set(np.unique(layer["bias"]).tolist()) for name, layer in parameters.items()}
    ones = ("conv2", "conv4", "conv5", "dense1", "dense2")
    assert biases == {name: {1.0} if name in ones else {0.0} for name in parameters}


def test_one_tower_starts_as_torchs_layers():
    model = models.create("alexnet", 10, stem="small", width=0.25)
    parameters = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for name, layer in parameters.items():
        fan_in = layer["kernel"][..., 0].size
        bound = 1 / np.sqrt(fan_in)
        assert np.abs(layer["kernel"]).max() == pytest.approx(bound, rel=0.02), name
        assert np.std(layer["kernel"]) == pytest.approx(bound / np.sqrt(3), rel=0.1), name


@pytest.mark.parametrize("name", ["alexnet", "alexnet_paper"])
def test_dropout_is_only_for_training(name):
    model = models.create(name, 10, stem="small", width=0.1)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def train(key):
        return model.apply(variables, images, train=True, rngs={"dropout": key})[0]

    assert not np.array_equal(train(jax.random.key(1)), train(jax.random.key(2)))
    np.testing.assert_array_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    jax.eval_shape(model.apply, variables, images)  # needs no key
