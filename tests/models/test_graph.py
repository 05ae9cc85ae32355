"""The graph of a network: blocks, costs, and the edges that the papers' figures have."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import models
from cnn_jax.models.graph import INPUT, graph
from cnn_jax.models.summary import summarize, trace
from cnn_jax.reports.network import draw


def image(size):
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


@pytest.fixture(scope="module")
def unet():
    return graph(trace(models.create("unet", 2, "segmenter"), image(572)))


def test_unet_has_the_maps_and_the_skips_of_its_figure(unet):
    """Ronneberger et al. 2015, figure 1."""
    assert (unet.input, unet.output) == ((572, 572, 3), (388, 388, 2))
    maps = [[unit.output for unit in block.units] for block in unet.blocks]
    encoder = [(570, 568, 64), (282, 280, 128), (138, 136, 256), (66, 64, 512), (30, 28, 1024)]
    decoder = [(56, 54, 52, 512), (104, 102, 100, 256), (200, 198, 196, 128), (392, 390, 388, 64)]
    expected = [[(side, side, channels) for side in sides] for *sides, channels in encoder]
    for first, *sides, channels in decoder:
        expected += [[(first, first, channels)], [(side, side, channels) for side in sides]]
    assert maps == [*expected, [(388, 388, 2)]]
    assert [block.level for block in unet.blocks] == [0, 1, 2, 3, 4, 3, 3, 2, 2, 1, 1, 0, 0, 0]
    skips = {(start, end) for start, end in unet.edges if end != start + 1}
    assert skips == {(0, 12), (1, 10), (2, 8), (3, 6)}
    assert {(n, n + 1) for n in range(INPUT, 13)} == set(unet.edges) - skips


def test_the_picture_of_unet_names_its_sizes(unet):
    svg = draw(unet, "unet")
    assert svg.startswith("<svg") and "572 × 572 × 3 → 388 × 388 × 2" in svg  # noqa: RUF001
    assert svg.count('class="skip"') == 4 and svg.count('class="block"') == 14


@pytest.mark.parametrize("name, kind", [("resnet20", "classifier"), ("vgg11_bn", "segmenter")])
def test_costs_are_those_of_the_summary(name, kind):
    model = models.create(name, 3, kind)
    traced = trace(model, image(64))
    drawn, told = graph(traced), summarize(traced)
    units = [unit for block in drawn.blocks for unit in block.units]
    assert drawn.multiply_adds == told.multiply_adds
    assert drawn.parameters == told.parameters == sum(unit.parameters for unit in units)
    assert sum(unit.multiply_adds for unit in units) == told.multiply_adds


def test_a_residual_network_is_a_chain_of_its_stages():
    drawn = graph(trace(models.create("resnet20", 10), image(32)))
    named = [(len(block.units), block.units[0].name, block.level) for block in drawn.blocks]
    assert named == [
        (1, "stem_conv", 0),
        (3, "stage1_block0", 0),
        (3, "stage2_block0", 1),
        (3, "stage3_block0", 2),
        (1, "head", 2),
    ]
    assert drawn.blocks[0].units[0].kind == "Conv + BatchNorm"
    assert drawn.edges == tuple((n, n + 1) for n in range(INPUT, 4))
