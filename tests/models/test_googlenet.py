"""GoogLeNet: maps, both forms against torch, auxiliary heads, smallest images."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import googlenet, weights

GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def trace(name, shape, **options):
    """The model, and the shapes of its variables and of what it returns while training."""
    model = models.create(name, **options)

    def run(key, images):
        rngs = {"params": key, "dropout": key}
        return model.init_with_output(rngs, images, train=True)

    key = jax.eval_shape(lambda: jax.random.key(0))
    outputs, variables = jax.eval_shape(run, key, jax.ShapeDtypeStruct(shape, jnp.float32))
    return model, variables, outputs


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(("auxiliary", "parameters"), [(True, 13_378_280), (False, 6_998_552)])
def test_paper_form_has_the_parameters_of_caffes(auxiliary, parameters):
    """bvlc_googlenet, which follows the paper."""
    _, variables, _ = trace("googlenet_paper", (1, 32, 32, 3), auxiliary=auxiliary)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters
    assert set(variables) == {"params"}


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_maps_are_those_of_table_1(name):
    _, _, (logits, features) = trace(name, (2, 224, 224, 3))
    auxiliary = features.pop("auxiliary_logits")
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stem": (112, 112, 64),
        "stage1": (56, 56, 192),
        "stage2": (28, 28, 480),
        "stage3": (14, 14, 832),
        "stage4": (7, 7, 1024),
        "pre_logits": (1024,),
    }
    assert logits.shape == (2, 1000)
    assert {head: x.shape for head, x in auxiliary.items()} == {
        "aux1": (2, 1000),
        "aux2": (2, 1000),
    }


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_small_stem_keeps_the_map_for_the_modules(name):
    _, _, (_, features) = trace(name, (1, 32, 32, 3), stem="small", width=0.5)
    del features["auxiliary_logits"]
    assert {stage: x.shape[1:] for stage, x in features.items()} == {
        "stem": (32, 32, 32),
        "stage1": (32, 32, 96),
        "stage2": (32, 32, 240),
        "stage3": (16, 16, 416),
        "stage4": (8, 8, 512),
        "pre_logits": (512,),
    }


@pytest.mark.parametrize(
    ("name", "stem", "minimum"),
    [
        ("googlenet", "imagenet", 15),
        ("googlenet", "small", 2),
        ("googlenet_paper", "imagenet", 31),
        ("googlenet_paper", "small", 4),
    ],
)
def test_smallest_image(name, stem, minimum):
    last_pool = {"googlenet": 2, "googlenet_paper": 3}[name]

    def pooled(cells, window):
        """Torch's rule, rounding up."""
        return -(-(cells - window) // 2) + 1 if cells >= window - 1 else 0

    def last_map(pixels):
        cells = pixels
        if stem == "imagenet":
            cells = pooled(pooled((pixels + 1) // 2, 3), 3)
        return pooled(pooled(cells, 3), last_pool)

    assert last_map(minimum) == 1
    assert last_map(minimum - 1) == 0

    model, _, (_, features) = trace(name, (1, minimum, minimum + 1, 3), stem=stem)
    assert features["stage4"].shape[1] == 1
    assert model.minimum_size == minimum
    with pytest.raises(UserError, match=f"smallest legal size is {minimum}x{minimum}"):
        trace(name, (1, minimum + 1, minimum - 1, 3), stem=stem)


def test_variables_do_not_depend_on_the_image_size():
    for name in ("googlenet", "googlenet_paper"):
        _, small, _ = trace(name, (1, 32, 32, 3))
        _, large, _ = trace(name, (2, 224, 224, 3))
        assert jax.tree.map(lambda x: x.shape, small) == jax.tree.map(lambda x: x.shape, large)


def test_auxiliary_logits_only_while_training_and_with_heads():
    model, variables, (_, features) = trace("googlenet", (1, 32, 32, 3))
    assert model.auxiliary_weight == 0.3
    assert set(features["auxiliary_logits"]) == {"aux1", "aux2"}
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    _, features = jax.eval_shape(model.apply, variables, images)
    assert "auxiliary_logits" not in features
    _, _, (_, features) = trace("googlenet", (1, 32, 32, 3), auxiliary=False)
    assert "auxiliary_logits" not in features


def test_auxiliary_head_averages_the_papers_windows():
    """5x5 windows of stride 3 on maps that have 4x4 of them, a 4x4 partition of others."""
    head = googlenet.AuxiliaryHead(
        num_classes=3,
        hidden=0,
        overlapping=True,
        dropout_rate=0.0,
        unit=lambda channels, size, name: lambda x: x,
        dense=lambda channels, name: lambda x: x.reshape(x.shape[0], -1),
    )
    for (rows, columns), windows in {
        (14, 16): lambda i, length: slice(3 * i, 3 * i + 5),
        (8, 12): lambda i, length: slice(i * length // 4, (i + 1) * length // 4),
    }.items():
        x = np.random.default_rng(0).uniform(size=(2, rows, columns, 5)).astype(np.float32)
        logits, variables = head.init_with_output(jax.random.key(0), jnp.asarray(x))
        expected = [
            x[:, windows(i, rows), windows(j, columns)].mean((1, 2))
            for i in range(4)
            for j in range(4)
        ]
        expected = np.concatenate(expected, axis=-1) @ variables["params"]["fc2"]["kernel"]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-7)


def test_batch_norm_form_equals_torchvisions(golden):
    model, shapes, _ = trace("googlenet", golden.images("googlenet").shape)
    variables = weights.assign(golden.tensors("googlenet"), model, shapes)
    logits, _ = jax.jit(model.apply)(variables, jnp.asarray(golden.images("googlenet")))
    assert relative_error(logits, golden.answers["googlenet.logits"]) <= 1e-5


@pytest.mark.slow
def test_batch_norm_form_equals_torchvisions_while_training(golden):
    images = golden.images("googlenet", training=True)
    model, shapes, _ = trace(
        "googlenet", images.shape, dropout_rate=0.0, auxiliary_dropout_rate=0.0
    )
    variables = weights.assign(golden.tensors("googlenet"), model, shapes)
    (logits, features), _ = jax.jit(model.apply, static_argnames=("train", "mutable"))(
        variables, jnp.asarray(images), train=True, mutable=("batch_stats",)
    )
    answers = golden.answers
    auxiliary = features["auxiliary_logits"]
    assert relative_error(logits, answers["googlenet.training.logits"]) <= 1e-4
    assert relative_error(auxiliary["aux1"], answers["googlenet.training.aux_logits1"]) <= 1e-4
    assert relative_error(auxiliary["aux2"], answers["googlenet.training.aux_logits2"]) <= 1e-4


def test_paper_form_equals_torch():
    """Biases, response normalisation, 5x5 filters, pooling; with the auxiliary heads."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    golden = np.load(GOLDEN / "googlenet_paper.npz")
    tensors = {
        name: maker.tensor(name, tuple(shape))
        for name, shape in json.loads(golden["tensors"].item()).items()
    }
    images = maker.images(tuple(golden["shape"].tolist()))
    model, shapes, _ = trace(
        "googlenet_paper",
        images.shape,
        num_classes=10,
        dropout_rate=0.0,
        auxiliary_dropout_rate=0.0,
    )
    variables = weights.assign(tensors, model, shapes)
    apply = jax.jit(model.apply, static_argnames="train")
    logits, features = apply(variables, jnp.asarray(images), train=True)
    assert relative_error(logits, golden["logits"]) <= 1e-5
    assert relative_error(features["auxiliary_logits"]["aux1"], golden["aux1"]) <= 1e-5
    assert relative_error(features["auxiliary_logits"]["aux2"], golden["aux2"]) <= 1e-5
