"""The table of architectures, and what every one of them promises."""

import re
from functools import partial
from typing import Literal, get_args, get_origin

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import registry
from cnn_jax.models.backbones import Backbone
from cnn_jax.models.fields import Factor
from cnn_jax.models.layers import on_axis

KINDS = get_args(models.Kind)

# One small network of every class, with the options that keep it small.
FAMILIES = {
    "alexnet": {"stem": "small", "width": 0.05},
    "alexnet_paper": {"stem": "small", "width": 0.05},
    "vgg11": {"stem": "small", "width": 0.05},
    "vgg11_bn": {"stem": "small", "width": 0.05},
    "googlenet": {"stem": "small", "width": 0.1},
    "googlenet_paper": {"stem": "small", "width": 0.1},
    "inception_v3": {"stem": "small", "width": 0.1},
    "resnet18": {"stem": "small", "width": 0.05},
    "resnet20": {"width": 0.25},
    "resnet50": {"stem": "small", "width": 0.05},
    "resnext50_32x4d": {"stem": "small", "width": 0.25},
    "densenet_bc_100_12": {"width": 0.25},
    "airbench94": {"width": 0.1},
    "airbench96": {"stem": "imagenet", "width": 0.1},
}


def trace(model, image_shape, train=True):
    """The shapes of a model's variables, logits and features."""
    key = jax.eval_shape(lambda: jax.random.key(0))

    def run(key, images):
        keys = {"params": key, "dropout": key}
        variables = model.init(keys, images, train=True)
        outputs, _ = model.apply(
            variables, images, train=train, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return variables, outputs

    return jax.eval_shape(run, key, jax.ShapeDtypeStruct(image_shape, jnp.float32))


def test_every_architecture_of_the_house_is_registered():
    assert {
        *("alexnet", "alexnet_paper", "googlenet", "googlenet_paper", "inception_v3"),
        *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152, 20, 32, 44, 56, 110)),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        *("wide_resnet50_2", "wide_resnet101_2"),
        *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
        *("densenet_bc_40_12", "densenet_bc_100_12"),
        *("airbench94", "airbench95", "airbench96"),
    } == set(models.names())


def test_every_architecture_knows_the_common_options():
    for name in models.names():
        assert {"width", "dtype", "stem", "dropout_rate"} <= set(models.options(name))


def test_every_option_has_one_description_and_one_parsable_type():
    """`option_table` raises where types differ; the first sentences must not differ either."""
    for kind in KINDS:
        table = models.option_table(kind)
        for name in models.names(kind):
            for field in registry._option_fields(name, kind).values():
                option = table[field.name]
                assert field.description == option.description, (name, field.name)
                assert name in option.models
                assert re.fullmatch(r"[A-Z].{15,}\.", option.description), option
                plain = option.type in (bool, int, float, str)
                assert plain or get_origin(option.type) in (Literal, tuple) or option.common
        assert [o.name for o in table.values() if o.common] == ["dtype"]


def test_the_option_table_says_which_models_have_an_option():
    table = models.option_table()
    assert table["compression"]._replace(annotation=float) == models.Option(
        name="compression",
        type=float,
        annotation=float,
        description="Fraction of the channels that a transition keeps, the paper's theta.",
        models=tuple(name for name in models.names() if name.startswith("densenet")),
        families=("DenseNet",),
    )
    assert table["auxiliary"].families == ("GoogLeNet", "InceptionV3")
    assert table["zero_init_residual"].type is bool
    # Structure is none of them.
    assert not {"stage_sizes", "block", "stages", "batch_norm", "paper"} & set(table)
    # The values of all architectures.
    assert set(get_args(models.option_table("segmenter")["upsampling"].type)) == {
        *("nearest", "bilinear", "cubic", "gaussian", "transposed", "unpool")
    }


class Tiny(nn.Module, Backbone):
    """One convolution.

    Attributes:
        num_classes: number of logits, or of outputs of each pixel.
        sharpness: steepness of the logistic function. Only this test's network has it.
    """

    num_classes: int = 1000
    sharpness: Factor = 2.0

    minimum_size = 1
    classifiers = ("head",)
    head_modules = ("head",)

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.sigmoid(self.sharpness * nn.Conv(4, (3, 3), name="conv")(images))
        features = {"stage1": x}
        if not self.num_classes:
            return None, features
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2))), features

    def pretrained_names(self):
        return {}


@pytest.mark.parametrize("own", KINDS)
def test_an_architecture_and_its_own_option_are_one_line_of_the_table(own, monkeypatch):
    """It is listed, made, and its option described and checked: for each kind that it serves."""
    entry = registry.Architecture(partial(Tiny), registry.ARCHITECTURES["resnet20"].input_spec, own)
    monkeypatch.setitem(registry.ARCHITECTURES, "tiny", entry)
    for kind in KINDS if own == "classifier" else (own,):
        option = models.option_table(kind)["sharpness"]
        assert (option.name, option.type, option.models) == ("sharpness", float, ("tiny",))
        assert option.description == "Steepness of the logistic function."
        assert models.options("tiny", kind)["sharpness"] == 2.0
        model = models.create("tiny", 3, kind, sharpness=5)
        assert (model if kind == own else model.backbone).sharpness == 5
        with pytest.raises(UserError, match=r"sharpness must be a number in \(0, 100\], not -1"):
            models.create("tiny", 3, kind, sharpness=-1)
        with pytest.raises(UserError, match="no option 'sharpnes', did you mean sharpness"):
            models.create("tiny", 3, kind, sharpnes=5)


def test_options_of_the_same_name_must_agree_in_their_type(monkeypatch):
    class Other(Tiny):
        width: bool = True

    entry = registry.ARCHITECTURES["resnet20"]._replace(constructor=partial(Other))
    monkeypatch.setitem(registry.ARCHITECTURES, "other", entry)
    with pytest.raises(TypeError, match=r"option width is .*float.* in alexnet and .*bool.* other"):
        models.option_table()


def test_options_carry_the_architectures_own_defaults():
    assert models.options("resnet50")["stem"] == "imagenet"
    assert models.options("resnet20")["stem"] == "small"
    assert models.options("googlenet_paper")["dropout_rate"] == 0.4
    assert models.options("googlenet", "region_network")["dropout_rate"] == 0.5
    assert models.options("densenet121", "segmenter")["dropout_rate"] == 0.0
    # What makes a resnet50 a resnet50 is not an option.
    assert not {"stage_sizes", "block", "num_classes", "name"} & set(models.options("resnet50"))


def test_input_specs():
    spec = models.input_spec("resnet50")
    assert (spec.image_size, spec.resize) == (224, 256)
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert models.input_spec("alexnet_paper").image_size == 227
    assert models.input_spec("inception_v3")[:2] == (299, 342)
    assert models.input_spec("resnet20").image_size == 32
    assert models.input_spec("fast_yolo", "grid_detector") == (448, 448, (0.5,) * 3, (0.5,) * 3, 64)
    for kind in KINDS:
        assert models.input_spec("resnet50", kind) == spec
    # Images in 0..1 become 0..255.
    mean, std = models.input_spec("segnet_basic", "segmenter")[2:4]
    assert (mean, std) == ((0.0,) * 3, (1 / 255,) * 3)
    # Of torchvision's documentation.
    minimum = {"alexnet": 63, "vgg16": 32, "googlenet": 15, "inception_v3": 75, "densenet121": 29}
    for name, size in minimum.items():
        assert models.input_spec(name).minimum_size == size


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(models.create, "resnet51"), r"unknown model 'resnet51'.*resnet50.*names\(\)"),
        (partial(models.options, "vgg"), r"unknown model 'vgg'.*vgg1"),
        (partial(models.input_spec, "???"), r"unknown model '\?\?\?'; .*names\(\)"),
        (
            partial(models.create, "vgg11", widht=2.0),
            "vgg11 has no option 'widht', did you mean width.*subsampling, width, dropout_rate",
        ),
        (partial(models.create, "resnet50", stage_sizes=(1,)), "no option 'stage_sizes'"),
        (
            partial(models.create, "resnet50", stem="tiny"),
            "stem must be one of 'imagenet', 'small'",
        ),
        (
            partial(models.create, "resnet50", width=0.0),
            r"width must be a number in \(0, 100\]",
        ),
        (partial(models.create, "resnet50", width=float("nan")), r"width must be a number in \(0"),
        (
            partial(models.create, "vgg11", dropout_rate=1.0),
            r"rate must be a number in \[0, 1\)",
        ),
        (partial(models.create, "vgg11", -1), "num_classes must be at least 0, not -1"),
        (partial(models.create, "vgg11", 0, "segmenter"), "num_classes must be at least 1, not 0"),
        (partial(models.create, "resnet18", zero_init_residual=1), "be True or False, not 1"),
        (
            partial(models.create, "densenet121", compression=1.5),
            r"a number in \(0, 1\], not",
        ),
        (
            partial(models.create, "googlenet", auxiliary_weight=-0.1),
            r"a number in \[0, 1000\]",
        ),
        (partial(models.create, "vgg11", 2, "grid_detector", grid=3.5), r"a whole number in \[1, "),
        (partial(models.create, "vgg11", 2, "region_network", units=0), r"a whole number in \[1, "),
        (partial(models.create, "unet"), "unet is a segmenter, not a classifier"),
        (partial(models.options, "fast_yolo", "segmenter"), "is a grid detector, not a segmenter"),
        # Only the head reads these.
        (
            partial(models.create, "resnet18", 2, "segmenter", dropout_rate=0.5),
            "resnet18 has no option 'dropout_rate'",
        ),
        (
            partial(models.create, "googlenet", 2, "grid_detector", auxiliary=True),
            "googlenet has no option 'auxiliary'",
        ),
        (partial(models.create, "resnet18", stages=2), "no option 'stages'"),
    ],
)
def test_a_users_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_features_and_types(name):
    """In bfloat16, and for images of four channels."""
    model = models.create(name, 7, dtype=jnp.bfloat16, **FAMILIES[name])
    variables, (logits, features) = trace(model, (2, 32, 32, 4), train=False)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in features.values()} == {jnp.dtype(jnp.bfloat16)}
    assert features["pre_logits"].ndim == 2
    stages = [stage for stage in features if stage.startswith("stage")]
    assert stages == [f"stage{i}" for i in range(1, len(stages) + 1)]
    heights = [features[stage].shape[1] for stage in stages]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_too_small_is_named_with_the_legal_size(name):
    model = models.create(name, 7, **FAMILIES[name])
    size = model.minimum_size
    trace(model, (1, size, size + 1, 1))
    if size > 1:
        message = rf"images of {size}x{size - 1} pixels .* is {size}x{size}"
        with pytest.raises(UserError, match=message):
            trace(model, (1, size, size - 1, 1))


@pytest.mark.parametrize("name", ["resnet20", pytest.param("vgg11_bn", marks=pytest.mark.slow)])
def test_batch_statistics_are_of_all_devices(name):
    """Four devices with two images each leave the statistics that one leaves with all eight."""
    options = FAMILIES[name]
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)
    model = models.create(name, 5, dropout_rate=0.0, **options)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    (logits, _), together = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(
        variables, images
    )

    def step(images):
        model = on_axis(models.create(name, 5, dropout_rate=0.0, **options), "devices")
        (logits, _), state = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, state

    divided, apart = jax.pmap(step, axis_name="devices")(images.reshape(4, 2, 32, 32, 3))
    np.testing.assert_allclose(divided.reshape(8, 5), logits, rtol=1e-3, atol=1e-4)
    for mine, whole in zip(jax.tree.leaves(apart), jax.tree.leaves(together), strict=True):
        np.testing.assert_array_equal(mine, jnp.broadcast_to(mine[:1], mine.shape))
        np.testing.assert_allclose(mine[0], whole, rtol=1e-3, atol=1e-5)
