"""Segmentation networks: parameters of the published ones, sizes, and what their decoders do."""

import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import weights
from cnn_jax.models.encoder_decoder import Upsample, Upsampling
from cnn_jax.models.unet import center_crop
from cnn_jax.ops import upsampling

NETWORKS = ("segnet", "segnet_basic", "unet", "unet_same", "fcn32s", "fcn16s", "fcn8s")


def traced(name, num_classes, size, channels=3, **options):
    """The shapes of a network's variables, and of what it returns, for images of `size`."""
    model = models.create(name, num_classes, "segmenter", **options)
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def both(key, images):
        return model.init_with_output({"params": key, "dropout": key}, images, train=True)

    return jax.eval_shape(both, key, images)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def counts(name, num_classes, side, channels=3, **options):
    _, variables = traced(name, num_classes, (side, side), channels, **options)
    return count(variables["params"]), count(variables.get("batch_stats", {}))


@pytest.mark.parametrize(
    ("classes", "total"), [(11, 29_449_355), (12, 29_449_932), (2, 29_444_162)]
)
def test_segnet_has_the_published_parameters(classes, total):
    """The convolutions of VGG-16 and their mirror image, and 15,872 of batch norm."""
    assert counts("segnet", classes, 32) == (total, 15_872)


def test_segnet_basic_has_the_published_parameters():
    assert counts("segnet_basic", 11, 32) == (1_415_563 + 1_024, 1_024)


@pytest.mark.parametrize(
    ("channels", "classes", "width", "total"),
    [
        (1, 2, 1.0, 31_030_658),
        (1, 1, 1.0, 31_030_593),
        (3, 2, 1.0, 31_031_810),
        (3, 11, 1.0, 31_032_395),
        (3, 11, 0.5, 7_760_427),
    ],
)
def test_unet_has_the_papers_parameters(channels, classes, width, total):
    assert counts("unet", classes, 188, channels, width=width) == (total, 0)


@pytest.mark.parametrize(
    ("channels", "classes", "upsampling", "total"),
    [
        (3, 2, "transposed", 31_037_698),
        (3, 2, "bilinear", 17_263_042),
        (1, 1, "transposed", 31_036_481),
        (1, 2, "transposed", 31_036_546),
    ],
)
def test_unet_with_batch_norm_has_a_well_known_implementations_parameters(
    channels, classes, upsampling, total
):
    assert counts("unet_same", classes, 32, channels, upsampling=upsampling)[0] == total


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_fcn_has_vggs_parameters_and_those_of_the_scores(stride):
    """VGG-16 without its classifier, one score for every depth, one 4x4 kernel between two."""
    trunk, classes = 138_357_544 - (4096 * 1000 + 1000), 21
    depths = [4096, 512, 256][: {32: 1, 16: 2, 8: 3}[stride]]
    scores = sum(channels * classes + classes for channels in depths)
    upsampling = (len(depths) - 1) * 16 * classes**2
    assert counts(f"fcn{stride}s", classes, 32)[0] == trunk + scores + upsampling


@pytest.mark.parametrize(("classes", "total"), [(1, 24_436_369), (11, 24_437_819)])
def test_a_resnet34_encoder_has_a_well_known_implementations_parameters(classes, total):
    assert counts("resnet34", classes, 64, upsampling="nearest")[0] == total


@pytest.mark.parametrize("name", ["vgg11", "densenet_bc_100_12", "googlenet", "inception_v3"])
def test_an_encoder_has_no_classifier(name):
    side = max(80, models.input_spec(name).minimum_size)
    _, variables = traced(name, 3, (side, side))
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    assert not [n for n in names if n.startswith("backbone") and ("dense1" in n or "head" in n)]
    assert not [n for n in names if "Aux" in n or "auxiliary" in n]


def test_unet_maps_have_the_papers_sizes():
    """Figure 1: 572 pixels in, 388 out, and the sizes between."""
    ((logits, features), _) = traced("unet", 2, (572, 572), width=1 / 64)
    assert logits.shape == (1, 388, 388, 2)
    sizes = [features[f"stage{level}"].shape[1] for level in range(1, 6)]
    assert sizes == [568, 280, 136, 64, 28]
    decoder = [features[f"decoder{level}"].shape[1] for level in range(4, 0, -1)]
    assert decoder == [52, 100, 196, 388]


def test_legal_sizes_of_unet():
    model = models.create("unet", 2, "segmenter")
    legal = {188: 4, 252: 68, 284: 100, 316: 132, 348: 164, 380: 196, 572: 388, 700: 516}
    for size, out in legal.items():
        assert model.legal_size(out) == size
        assert model.legal_size(out - 15) == size
        assert model.legal_size(out + 1) == size + 16
    assert model.minimum_size == 188
    assert models.create("unet_same", 2, "segmenter").legal_size(33) == 48


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("unet", (572, 570), r"570.*16k \+ 12.*572"),
        ("unet", (172, 188), r"172.*188"),
        ("unet_same", (32, 40), r"40.*multiples of 16.*48"),
    ],
)
def test_sizes_that_are_not_legal_are_named(name, size, message):
    with pytest.raises(UserError, match=message):
        traced(name, 2, size, width=1 / 64)


def test_centre_crops_take_as_much_from_every_side():
    x = jnp.arange(64.0).reshape(1, 64, 1, 1)
    cropped = center_crop(x, (56, 1))
    assert (cropped[0, 0, 0, 0], cropped[0, -1, 0, 0]) == (4, 59)


@pytest.mark.parametrize("name", [*NETWORKS, "resnet20", "resnet18", "vgg11_bn", "alexnet"])
def test_every_pixel_has_logits_in_any_legal_size(name):
    """Odd sizes come back as they were; 360 rows are pooled to 45 and 23 on the way."""
    model = models.create(name, 5, "segmenter", width=1 / 32)
    for wanted in ((45, 71), (90, 64)):
        size = tuple(model.legal_size(length) for length in wanted)
        ((logits, _), _) = traced(name, 5, size, width=1 / 32)
        assert logits.shape == (1, *(length - 2 * model.margin for length in size), 5)
        assert logits.shape[1] >= wanted[0]
        assert logits.dtype == jnp.float32
    ((logits, features), _) = traced("segnet", 5, (360, 480), width=1 / 32)
    assert [features[f"stage{i}"].shape[1] for i in range(1, 6)] == [360, 180, 90, 45, 23]
    assert logits.shape == (1, 360, 480, 5)


@pytest.mark.parametrize("method", get_args(Upsampling))
def test_each_way_of_upsampling_reaches_the_finer_maps_size(method):
    key = jax.random.key(0)
    x = jax.random.normal(key, (1, 3, 4, 2))
    finer = jax.random.normal(key, (1, 5, 8, 3))
    module = Upsample(method)
    y, variables = module.init_with_output(key, x, (5, 8), finer)
    assert y.shape == (1, 5, 8, 3 if method == "unpool" else 2)
    assert count(variables) == {"transposed": 16 * 4, "unpool": 2 * 3 + 3}.get(method, 0)
    if method == "unpool":
        # One value a window, where the finer map is largest in it.
        windows = np.pad(np.asarray(finer), ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=-9)
        largest = windows.reshape(1, 3, 2, 4, 2, 3).max((2, 4))
        np.testing.assert_array_equal(
            np.asarray(y != 0), np.repeat(np.repeat(largest, 2, 1), 2, 2)[:, :5] == finer
        )
    else:
        # The third row of the map, doubled, is the fifth; a sixth is cut off.
        double = getattr(upsampling, "bilinear" if method == "transposed" else method)
        raw = {"normalize": False} if method == "transposed" else {}
        np.testing.assert_allclose(y, double(x, **raw)[:, :5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("nearest", set()),
        ("bilinear", set()),
        ("gaussian", set()),
        ("transposed", {"kernel"}),
        ("unpool", {"projection"}),
    ],
)
def test_the_decoder_s_way_of_upsampling_is_an_option(method, own):
    (_, variables) = traced("resnet20", 2, (16, 16), width=0.25, upsampling=method)
    assert set(variables["params"].get("up1", {})) == own


@pytest.mark.parametrize("method", ["nearest", "unpool"])
def test_a_decoder_without_skip_connections_receives_no_finer_map(method):
    options = {"width": 0.25, "upsampling": method}
    (_, features), joined = traced("vgg11_bn", 2, (32, 48), **options)
    (logits, _), alone = traced("vgg11_bn", 2, (32, 48), skip_connections=False, **options)
    assert logits.shape == (1, 32, 48, 2)
    for level in range(1, 5):
        channels, fewer = (
            tree["params"][f"conv{level}_1"]["kernel"].shape[2] for tree in (joined, alone)
        )
        assert channels - fewer == features[f"stage{5 - level}"].shape[-1]


@pytest.mark.parametrize(("stride", "levels"), [(1, 5), (2, 4), (4, 3), (5, 3), (32, 0), (99, 0)])
def test_the_decoder_ends_at_the_output_stride(stride, levels):
    (logits, features), variables = traced("resnet18", 3, (70, 90), output_stride=stride)
    assert logits.shape == (1, 70, 90, 3)
    assert sum(name.startswith("decoder") for name in features) == levels
    last = features[f"decoder{levels}"] if levels else features["stage4"]
    assert variables["params"]["head"]["kernel"].shape[2] == last.shape[-1]


@pytest.mark.parametrize(
    ("name", "options", "behind"),
    [
        ("resnet20", {}, {"stage3_block0"}),
        ("airbench94", {"stem": "imagenet"}, {"stage3"}),
        ("airbench94", {"width": 0.5}, {"stage3"}),
        ("vgg11_bn", {}, set()),  # which cannot leave out what lies behind a stage
    ],
)
def test_the_encoder_ends_at_a_stage(name, options, behind):
    (logits, features), variables = traced(name, 3, (64, 96), stage="stage2", **options)
    (_, whole), all_variables = traced(name, 3, (64, 96), **options)
    assert logits.shape == (1, 64, 96, 3)
    # Fewer maps are joined, the finest of them as before.
    assert "stage3" in whole and "stage3" not in features
    fewer = [sum(key.startswith("decoder") for key in each) for each in (features, whole)]
    assert fewer[0] < fewer[1]
    missing = {
        key
        for key in all_variables["params"]["backbone"]
        if key not in variables["params"]["backbone"]
    }
    assert behind <= missing and bool(behind) == bool(missing)
    given, expected = (each["params"]["conv1_1"]["kernel"] for each in (variables, all_variables))
    assert given.shape[2] != expected.shape[2]
    assert (
        given.shape[2]
        == features["stage2"].shape[3] + features[_next_finer(features, "stage2")].shape[3]
    )


def _next_finer(features, stage):
    """The name of the last of the maps that are the next larger ones."""
    own = features[stage].shape[1]
    larger = {k: v.shape[1] for k, v in features.items() if k[:2] == "st" and v.shape[1] > own}
    return [name for name, rows in larger.items() if rows == min(larger.values())][-1]


@pytest.mark.parametrize("method", get_args(Upsampling))
def test_every_way_of_upsampling_hands_gradients_back(method):
    key = jax.random.key(0)
    x, finer = jax.random.normal(key, (1, 3, 4, 2)), jax.random.normal(key, (1, 6, 8, 3))
    module = Upsample(method)
    variables = jax.jit(module.init, static_argnums=2)(key, x, (6, 8), finer)

    def loss(variables, x):
        return jnp.sum(module.apply(variables, x, (6, 8), finer) ** 2)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, x)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(models.create, "segnett", 2, "segmenter"),
            "unknown model 'segnett', did you mean segnet",
        ),
        (
            partial(models.create, "segnet", 2, "segmenter", upsampling="unpool"),
            "segnet has no option",
        ),
        (
            partial(models.create, "resnet18", 2, "segmenter", upsampling="lanczos"),
            "one of 'nearest'",
        ),
        (
            partial(models.create, "resnet18", 2, "segmenter", output_stride=0),
            "must be a whole number in",
        ),
        (
            partial(models.create, "resnet20", 2, "segmenter", stage="stage4"),
            "resnet20 has no map 'stage4', .*; it has stage1, stage2, stage3",
        ),
        (partial(models.create, "unet", 2, "segmenter", output_stride=4), "unet has no option"),
        (partial(models.create, "unet", 0, "segmenter"), "num_classes must be at least 1"),
    ],
)
def test_a_users_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_every_registered_classifier_may_be_an_encoder():
    assert models.names("segmenter") == (*NETWORKS, *models.names())
    for name in models.names("segmenter"):
        assert {"width", "dtype"} <= set(models.options(name, "segmenter"))


@pytest.mark.parametrize("upsampling", ["nearest", "transposed", "unpool"])
def test_an_encoder_starts_from_pretrained_weights(upsampling):
    model = models.create("resnet18", 3, "segmenter", width=0.125, upsampling=upsampling)
    images = jnp.zeros((1, 32, 32, 3))
    fresh = jax.jit(model.init)(jax.random.key(0), images)
    source = models.create("resnet18", 7, width=0.125)
    donor = jax.jit(source.init)(jax.random.key(1), images)
    rules = source.pretrained_names()["torchvision or timm"]
    tensors = {}
    for path, value in jax.tree.flatten_with_path(dict(donor))[0]:
        name = weights.tensor_name(".".join(part.key for part in path), rules)
        value = np.asarray(value)
        tensors[name] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    loaded = weights.assign(tensors, model, fresh, head="reinit")["params"]
    del donor["params"]["head"]
    jax.tree.map(np.testing.assert_array_equal, loaded.pop("backbone"), donor["params"])
    del fresh["params"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, loaded, fresh["params"])
