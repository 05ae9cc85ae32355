"""Numbers of parameters and batch statistics against torchvision's and the papers'."""

import math

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import models

# Of torchvision 0.28: parameters with 1000 and with 10 classes, running means and variances, and
# tensors that are parameters.
TORCHVISION = {
    "alexnet": (61_100_840, 57_044_810, 0, 16),
    "vgg11": (132_863_336, 128_807_306, 0, 22),
    "vgg13": (133_047_848, 128_991_818, 0, 26),
    "vgg16": (138_357_544, 134_301_514, 0, 32),
    "vgg19": (143_667_240, 139_611_210, 0, 38),
    "vgg11_bn": (132_868_840, 128_812_810, 5_504, 38),
    "vgg13_bn": (133_053_736, 128_997_706, 5_888, 46),
    "vgg16_bn": (138_365_992, 134_309_962, 8_448, 58),
    "vgg19_bn": (143_678_248, 139_622_218, 11_008, 70),
    "googlenet": (13_004_888, 9_960_638, 15_072, 187),
    "inception_v3": (27_161_264, 24_371_444, 36_224, 292),
    "resnet18": (11_689_512, 11_181_642, 9_600, 62),
    "resnet34": (21_797_672, 21_289_802, 17_024, 110),
    "resnet50": (25_557_032, 23_528_522, 53_120, 161),
    "resnet101": (44_549_160, 42_520_650, 105_344, 314),
    "resnet152": (60_192_808, 58_164_298, 151_424, 467),
    "resnext50_32x4d": (25_028_904, 23_000_394, 68_224, 161),
    "resnext101_32x8d": (88_791_336, 86_762_826, 202_880, 314),
    "resnext101_64x4d": (83_455_272, 81_426_762, 202_880, 314),
    "wide_resnet50_2": (68_883_240, 66_854_730, 68_224, 161),
    "wide_resnet101_2": (126_886_696, 124_858_186, 137_856, 314),
    "densenet121": (7_978_856, 6_964_106, 83_648, 364),
    "densenet169": (14_149_480, 12_501_130, 158_400, 508),
    "densenet201": (20_013_928, 18_112_138, 229_056, 604),
    "densenet161": (28_681_000, 26_494_090, 219_936, 484),
}


def cifar_resnet(blocks: int) -> tuple[int, int]:
    """Parameters and statistics of He et al. 2016, section 4.2, with 10 classes, layer by layer."""
    parameters, statistics, channels = 0, 0, 3
    for stage_channels in (16, 32, 64):
        # Two convolutions a block, and before the first stage the stem's.
        for _ in range(2 * blocks + (stage_channels == 16)):
            parameters += 9 * channels * stage_channels + 2 * stage_channels
            statistics += 2 * stage_channels
            channels = stage_channels
    return parameters + 64 * 10 + 10, statistics


# With 10 classes: parameters, and running means and variances.
TEN_CLASSES = {
    **{f"resnet{6 * blocks + 2}": cifar_resnet(blocks) for blocks in (3, 5, 7, 9, 18)},
    # The convolutions of the paper, biases included: Caffe's network of 60,965,224 parameters has
    # 4096 * 1001 of them in its classifier, this one 4097 * 10.
    "alexnet_paper": (60_965_224 - 4097 * 990, 0),
}


def airbench(channels: tuple[int, ...], convolutions: int) -> tuple[int, int]:
    """Parameters and statistics of Jordan 2024 with 10 classes, layer by layer."""
    # 24 filters of 2x2 pixels with biases; a classifier without one.
    parameters, statistics, before = 24 * (12 + 1) + 10 * channels[-1], 0, 24
    for group in channels:
        for _ in range(convolutions):
            parameters += 9 * before * group + group  # batch norm has biases and no scales
            statistics += 2 * group
            before = group
    return parameters, statistics


TEN_CLASSES |= {
    "airbench94": airbench((64, 256, 256), 2),
    "airbench95": airbench((128, 384, 384), 2),
    "airbench96": airbench((128, 384, 512), 3),
}


def variables(name: str, num_classes: int, **options) -> dict:
    """The shapes of a network's variables."""
    model = models.create(name, num_classes, **options)
    side = model.minimum_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(
        lambda key, images: model.init({"params": key, "dropout": key}, images, train=True),
        key,
        images,
    )


def size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", TORCHVISION)
def test_counts_with_1000_classes_equal_torchvisions(name):
    shapes = variables(name, 1000)
    parameters, _, statistics, tensors = TORCHVISION[name]
    assert size(shapes["params"]) == parameters
    assert size(shapes.get("batch_stats", {})) == statistics
    assert len(jax.tree.leaves(shapes["params"])) == tensors


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if tensors > 300 else name
        for name, (*_, tensors) in TORCHVISION.items()
    ],
)
def test_counts_with_10_classes_equal_torchvisions(name):
    assert size(variables(name, 10)["params"]) == TORCHVISION[name][1]


@pytest.mark.parametrize("name", TEN_CLASSES)
def test_counts_equal_the_papers(name):
    shapes = variables(name, 10)
    assert (size(shapes["params"]), size(shapes.get("batch_stats", {}))) == TEN_CLASSES[name]


def test_counts_of_the_cifar_paper():
    """He et al. 2016, table 6, in millions, and the first one to the last parameter."""
    assert TEN_CLASSES["resnet20"][0] == 269_722
    published = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85}
    for name, millions in published.items():
        assert round(TEN_CLASSES[name][0] / 1e6, 2) == millions


def test_plain_networks_have_what_residual_ones_have_but_for_projections():
    """He et al. 2016, section 3.3: identity shortcuts have no parameters."""
    for name in ("resnet20", "resnet56"):
        assert size(variables(name, 10, shortcut="none")["params"]) == TEN_CLASSES[name][0]
    # The 1x1 convolutions of three stages, and their normalisation.
    projections = sum(before * 2 * before + 2 * 2 * before for before in (64, 128, 256))
    plain = size(variables("resnet18", 1000, shortcut="none")["params"])
    assert plain == TORCHVISION["resnet18"][0] - projections


def test_the_count_of_airbench94():
    """Jordan 2024, section 3.1: 1.97 million."""
    assert round(TEN_CLASSES["airbench94"][0] / 1e6, 2) == 1.97


@pytest.mark.parametrize(
    ("name", "parameters", "statistics"),
    [("googlenet", 6_624_904, 14_560), ("inception_v3", 23_834_568, 34_432)],
)
def test_counts_without_auxiliary_heads_equal_torchvisions(name, parameters, statistics):
    shapes = variables(name, 1000, auxiliary=False)
    assert (size(shapes["params"]), size(shapes["batch_stats"])) == (parameters, statistics)
