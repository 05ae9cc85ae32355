"""DenseNet: size, maps, torchvision's answers, dropout, smallest images."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import weights
from cnn_jax.models.densenet import DenseNet


@functools.cache
def trace(name, shape, **options):
    """The model, and the shapes of its variables and of what it returns while training."""
    model = models.create(name, **options)

    def run(key, images):
        return model.init_with_output({"params": key, "dropout": key}, images, train=True)

    key = jax.eval_shape(lambda: jax.random.key(0))
    outputs, variables = jax.eval_shape(run, key, jax.ShapeDtypeStruct(shape, jnp.float32))
    return model, variables, outputs


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [("densenet_bc_40_12", 6, 176_122), ("densenet_bc_100_12", 16, 769_162)],
)
def test_counts_of_networks_for_cifar(name, layers, expected):
    """Parameters and statistics with 10 classes, layer by layer; 0.8M for 100 in the paper."""
    channels, growth_rate = 24, 12
    weights, normalised = 9 * 3 * channels, 0
    for block in range(3):
        if block > 0:
            weights, normalised = weights + channels * (channels // 2), normalised + channels
            channels //= 2
        for _ in range(layers):
            weights += channels * 4 * growth_rate + 9 * 4 * growth_rate * growth_rate
            normalised += channels + 4 * growth_rate
            channels += growth_rate
    normalised += channels
    parameters = weights + 2 * normalised + (channels + 1) * 10
    assert parameters == expected

    _, variables, _ = trace(name, (1, 32, 32, 3), num_classes=10)
    sizes = {
        collection: sum(x.size for x in jax.tree.leaves(tree))
        for collection, tree in variables.items()
    }
    assert sizes == {"params": parameters, "batch_stats": 2 * normalised}


def test_maps_of_densenet121():
    _, variables, (logits, features) = trace("densenet121", (2, 224, 224, 3))
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stem": (112, 112, 64),
        "stage1": (56, 56, 256),
        "stage2": (28, 28, 512),
        "stage3": (14, 14, 1024),
        "stage4": (7, 7, 1024),
        "pre_logits": (1024,),
    }
    assert logits.shape == (2, 1000)
    transitions = [variables["params"][f"transition{i}"]["conv"]["kernel"].shape for i in (1, 2, 3)]
    assert transitions == [(1, 1, 256, 128), (1, 1, 512, 256), (1, 1, 1024, 512)]


def test_maps_of_densenet_bc_100_12():
    _, _, (logits, features) = trace("densenet_bc_100_12", (1, 32, 32, 3), num_classes=10)
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stem": (32, 32, 24),
        "stage1": (32, 32, 216),
        "stage2": (16, 16, 300),
        "stage3": (8, 8, 342),
        "pre_logits": (342,),
    }
    assert logits.shape == (1, 10)


def test_small_stem_and_width():
    _, _, (_, features) = trace("densenet121", (1, 32, 32, 3), stem="small", width=0.5)
    assert features["stem"].shape == (1, 32, 32, 32)
    assert features["stage1"].shape == (1, 32, 32, 32 + 6 * 16)
    assert features["stage4"].shape == (1, 4, 4, 512)


@pytest.mark.parametrize(
    ("name", "options", "minimum"),
    [
        ("densenet121", {}, 29),
        ("densenet121", {"stem": "small"}, 8),
        ("densenet_bc_100_12", {}, 4),
        ("densenet_bc_100_12", {"stem": "imagenet"}, 13),
    ],
)
def test_smallest_image(name, options, minimum):
    model, _, (_, features) = trace(name, (1, minimum, minimum + 1, 3), **options)

    def last_map(pixels):
        cells = pixels
        if model.stem == "imagenet":
            # A 7x7 convolution padded by 3, then a 3x3 pool padded by 1, both with stride 2.
            for window, padding in ((7, 3), (3, 1)):
                cells = (cells + 2 * padding - window) // 2 + 1
        for _ in model.block_sizes[1:]:
            cells //= 2
        return cells

    assert last_map(minimum) == 1
    assert last_map(minimum - 1) == 0
    assert features[f"stage{len(model.block_sizes)}"].shape[1] == 1
    assert model.minimum_size == minimum
    with pytest.raises(UserError, match=f"smallest legal size is {minimum}x{minimum}"):
        trace(name, (1, minimum + 1, minimum - 1, 3), **options)


def tiny_features(images, seed=0, dropout_rate=0.0):
    """The features of a network with blocks of 2 and 3 layers of 4 channels, while training."""
    tiny = functools.partial(DenseNet, (2, 3), growth_rate=4, num_classes=5, stem="small")

    @jax.jit
    def run(key):
        variables = tiny().init(jax.random.key(0), images)
        (_, features), _ = tiny(dropout_rate=dropout_rate).apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return features

    return run(jax.random.key(seed))


def test_every_layer_keeps_the_channels_before_it():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 3)), jnp.float32)
    features = tiny_features(images)
    assert features["stage1"].shape == (1, 8, 8, 8 + 2 * 4)
    np.testing.assert_array_equal(features["stage1"][..., :8], features["stem"])


def test_dropout_spares_only_the_first_convolution():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)
    dropped, again, without = (
        np.asarray(tiny_features(images, seed, dropout_rate)["stage1"])
        for seed, dropout_rate in ((0, 0.2), (1, 0.2), (0, 0.0))
    )
    np.testing.assert_array_equal(dropped[..., :8], without[..., :8])
    assert not np.array_equal(dropped, again)
    dropped, without = dropped[..., 8:], without[..., 8:]
    assert np.mean(dropped == 0) == pytest.approx(0.2, abs=0.03)
    # What the second convolution's dropout lets through differs too, by the first one's.
    kept = dropped != 0
    assert not np.allclose(dropped[kept], without[kept] / 0.8)


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        *(pytest.param(f"densenet{depth}", marks=pytest.mark.slow) for depth in (161, 169, 201)),
    ],
)
def test_logits_equal_torchvisions(name, golden):
    images = golden.images(name)
    model, shapes, _ = trace(name, images.shape)
    variables = weights.assign(golden.tensors(name), model, shapes)
    logits, _ = jax.jit(model.apply)(variables, jnp.asarray(images))
    theirs = golden.answers[f"{name}.logits"]
    assert np.abs(logits - theirs).max() / np.abs(theirs).max() <= 1e-5


@pytest.mark.slow
def test_training_logits_equal_torchvisions(golden):
    images = golden.images("densenet121", training=True)
    model, shapes, _ = trace("densenet121", images.shape)
    variables = weights.assign(golden.tensors("densenet121"), model, shapes)
    (logits, _), _ = jax.jit(model.apply, static_argnames=("train", "mutable"))(
        variables, jnp.asarray(images), train=True, mutable=("batch_stats",)
    )
    theirs = golden.answers["densenet121.training.logits"]
    assert np.abs(logits - theirs).max() / np.abs(theirs).max() <= 1e-4


def test_names_of_torchvisions_published_files(golden):
    """As torchvision's own loader reads them: `denselayer1.norm.1` is `denselayer1.norm1`."""
    model, shapes, _ = trace("densenet121", (2, 224, 224, 3))
    tensors = golden.tensors("densenet121")
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])\.", r"\1.\2.", name): x
        for name, x in tensors.items()
    }
    assert "features.denseblock2.denselayer12.conv.2.weight" in published
    expected = weights.assign(tensors, model, shapes)
    jax.tree.map(np.testing.assert_array_equal, weights.assign(published, model, shapes), expected)
