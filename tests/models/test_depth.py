"""The order of layers and the parameters of stages, as they follow from the computation."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import depth


def images(side):
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def modules(layers):
    return [layer.modules for layer in layers]


def test_layers_of_a_residual_network():
    layers = depth.layers(models.create("resnet18", 10), images(64))
    blocks = [(f"stage{stage}_block{index}",) for stage in (1, 2, 3, 4) for index in (0, 1)]
    assert modules(layers) == [("stem_conv", "stem_norm"), *blocks]
    assert [layer.depth for layer in layers] == list(range(1, 10))


def test_layers_of_vgg_have_their_normalisation():
    found = modules(depth.layers(models.create("vgg11_bn", 10, width=0.1), images(64)))
    assert found[0] == ("conv1_1", "norm1_1")
    assert found[-3:] == [("conv5_2", "norm5_2"), ("dense1",), ("dense2",)]


def test_branches_are_one_layer_and_fresh_heads_are_none():
    found = modules(depth.layers(models.create("googlenet", 10, width=0.1), images(64)))
    assert found[:4] == [("conv1",), ("conv2",), ("conv3",), ("inception3a",)]
    assert found[-1] == ("inception5b",)


@pytest.mark.parametrize("kind", ["grid_detector", "region_network", "segmenter"])
def test_of_a_network_on_a_backbone_only_its_layers_count(kind):
    model = models.create("resnet20", 3, kind=kind, width=0.25)
    found = modules(depth.layers(model, images(32)))
    assert found[0] == ("backbone/stem_conv", "backbone/stem_norm")
    assert len(found) == 10
    assert all(path.startswith("backbone/") for layer in found for path in layer)


@pytest.mark.parametrize(
    ("name", "side", "count", "expected"),
    [
        ("resnet18", 64, 1, {"stem_conv", "stem_norm", "stage1_block0", "stage1_block1"}),
        ("vgg11", 64, 2, {"conv1_1", "conv2_1"}),
        ("googlenet", 64, 1, {"conv1", "conv2", "conv3"}),
    ],
)
def test_parameters_of_the_first_stages(name, side, count, expected):
    paths = depth.first_stages(models.create(name, 10, width=0.25), images(side), count)
    assert {path.partition("/")[0] for path in paths} == expected
    assert all(path.rpartition("/")[2] in ("kernel", "scale", "bias") for path in paths)


def test_parameters_of_a_backbones_stage_and_one_too_many():
    model = models.create("resnet20", 3, kind="segmenter", width=0.25)
    paths = depth.first_stages(model, images(32), 1)
    assert "backbone/stage1_block2/conv2/kernel" in paths
    assert not any("stage2" in path or "head" in path for path in paths)
    with pytest.raises(UserError, match=r"frozen_stages 4: must be 1 to 3, the network's stages"):
        depth.first_stages(model, images(32), 4)
