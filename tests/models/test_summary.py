"""The model summary against published figures and hand counts."""

import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from rich.console import Console

from cnn_jax import models
from cnn_jax.models.encoder_decoder import Upsample
from cnn_jax.models.layers import Conv
from cnn_jax.models.summary import print_summary, summarize, totals, trace


def image(size: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)


# Parameters, batch statistics and 10^9 multiply-adds of torchvision's model table (224 pixels).
PUBLISHED = {
    "alexnet": (61_100_840, 0, 0.714),
    "vgg16": (138_357_544, 0, 15.470),
    "resnet18": (11_689_512, 9_600, 1.814),
    "resnet50": (25_557_032, 53_120, 4.089),
}


SLOW = {
    "resnext50_32x4d": (25_028_904, 68_224, 4.230),
    "vgg11_bn": (132_868_840, 5_504, 7.609),
    "resnet101": (44_549_160, 105_344, 7.801),
    "densenet121": (7_978_856, 83_648, 2.834),
    "inception_v3": (27_161_264, 36_224, 5.713),
}


@pytest.mark.parametrize(
    "name", [*PUBLISHED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_counts_are_the_published_ones(name):
    parameters, statistics, giga_multiply_adds = {**PUBLISHED, **SLOW}[name]
    size = models.input_spec(name).image_size
    summary = summarize(trace(models.create(name), image(size)))
    assert summary.parameters == parameters
    assert summary.batch_statistics == statistics
    assert summary.multiply_adds / 1e9 == pytest.approx(giga_multiply_adds, rel=0.001)
    assert summary.parameter_bytes == 4 * parameters
    assert sum(module.parameters for module in summary.modules) == parameters
    assert sum(module.multiply_adds for module in summary.modules) == summary.multiply_adds


class Small(nn.Module):
    """Every kind of arithmetic that is counted, with figures to work out by hand."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(8, (3, 5), strides=2, feature_group_count=2, name="grouped")(x)  # 4x4x8
        x = nn.ConvTranspose(6, (2, 2), strides=(2, 2), name="up")(x)  # 8x8x6
        x = Upsample("transposed", name="double")(x, (16, 16))[:, ::2, ::2]  # 8x8x6
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dense(10, name="mix")(x)  # 8x8x10
        x = nn.relu(nn.Dropout(0.5, deterministic=not train)(x))
        x = x.reshape(x.shape[0], 64, 10)
        scores = jnp.einsum("nqc,nkc->nqk", x, x)
        cell = nn.RNN(nn.SimpleCell(7, parent=None), name="recurrent")
        return cell(x), scores


def test_counts_of_a_small_model_by_hand():
    summary = summarize(trace(Small(), image(8, channels=4)), optax.adam(1e-3))
    modules = {module.name: module for module in summary.modules}
    assert list(modules) == ["grouped", "up", "double", "norm", "mix", "recurrent"]
    assert modules["grouped"].multiply_adds == 4 * 4 * 8 * (3 * 5 * 2)
    assert modules["up"].multiply_adds == 4 * 4 * (2 * 2) * 8 * 6
    assert modules["double"].multiply_adds == 8 * 8 * (4 * 4) * 6 * 6
    assert modules["norm"].multiply_adds == 0
    assert modules["mix"].multiply_adds == 8 * 8 * 6 * 10
    assert modules["recurrent"].multiply_adds == 64 * (10 * 7 + 7 * 7)
    attention = 64 * 64 * 10
    owned = sum(module.multiply_adds for module in summary.modules)
    assert summary.multiply_adds == owned + attention
    assert modules["grouped"].output == (4, 4, 8)
    assert modules["recurrent"].output == (64, 7)
    assert modules["grouped"].kind == "Conv"
    assert modules["grouped"].parameters == 3 * 5 * 2 * 8 + 8
    assert modules["norm"].parameters == 12 == summary.batch_statistics
    # Adam keeps two moments of each parameter and a step count.
    assert summary.optimizer_bytes == 2 * summary.parameter_bytes + 4


class Convolved(nn.Module):
    """Convolutions with strides, groups and dilation, with figures to work out by hand."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(8, (3, 5), strides=2, groups=2, name="grouped")(x)  # 4x4x8
        return Conv(6, 2, padding=0, dilation=2, name="dilated")(x)  # 2x2x6


def test_counts_of_convolutions_by_hand():
    """The products of a convolution are counted alike on every platform."""
    summary = summarize(trace(Convolved(), image(8, channels=4)))
    grouped, dilated = summary.modules
    assert (grouped.output, grouped.multiply_adds) == ((4, 4, 8), 4 * 4 * 8 * (3 * 5 * 2))
    assert (dilated.output, dilated.multiply_adds) == ((2, 2, 6), 2 * 2 * 6 * (2 * 2 * 8))


def test_variables_may_be_given():
    model = models.create("resnet20", num_classes=10)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    assert summarize(trace(model, images, variables=variables)) == summarize(
        trace(model, image(32))
    )


class Chain(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        for width in (7, 5, 3):
            x = jnp.sin(nn.Dense(width, use_bias=False)(x))
        return x


def test_activation_memory_is_what_the_backward_pass_needs():
    summary = summarize(trace(Chain(), jax.ShapeDtypeStruct((1, 11), jnp.float32)))
    # A dense layer's weight gradient needs its input; the sine's needs one array of its output's
    # size.
    inputs, derivatives = 11 + 7 + 5, 7 + 5 + 3
    assert summary.activation_bytes == 4 * (inputs + derivatives)
    assert summary.optimizer_bytes is None


def test_totals_are_readable():
    summary = summarize(trace(models.create("resnet18"), image(224)), optax.sgd(0.1, 0.9))
    first, second = totals(summary)
    assert first == (
        "11,689,512 parameters, 9,600 batch statistics, "
        "1.814 G multiply-adds (3.628 GFLOPs) an example"
    )
    assert second.startswith(
        "memory: parameters 46.76 MB, gradients 46.76 MB, optimizer 46.76 MB, activations about "
    )


def printed(name: str, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None, width=120)
    model = models.create(name, num_classes=10)
    print_summary(summarize(trace(model, image(32))), console, f"{name}, 32x32x3")
    return console.file.getvalue()


def test_a_terminal_gets_a_table_and_a_log_three_lines():
    text = printed("resnet20", is_terminal=True)
    assert "stage3_block2" in text
    assert "8x8x64" in text
    assert "73,984" in text
    assert len(printed("resnet20", is_terminal=False).splitlines()) == 3


def test_many_modules_are_folded_without_losing_any():
    text = printed("resnet56", is_terminal=True)
    assert "stage2_block0 … stage2_block8" in text
    assert "9 x BasicBlock" in text
    # 9 blocks of two 3x3 convolutions and norms at 16 channels.
    assert f"{9 * 2 * (9 * 16 * 16 + 32):,}" in text
    assert len(text.splitlines()) < 16
