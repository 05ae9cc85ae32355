"""An evaluation shows objects as large as training does, whatever the network and the crop."""

import numpy as np
import pytest

from experiments import annotate, classify
from experiments import options as flags

# Their authors evaluate the middle of an image, 224 of 256 pixels; ResNet-20's take all of it.
NETWORKS = ("alexnet", "vgg11", "resnet18", "resnet20")


def options_of(module, data, *typed):
    return flags.parse(module.Options, ["--data", data, *typed], module.COMMAND.presets)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("crop", ["none", "pad"])
@pytest.mark.parametrize("module, data", [(classify, "folder:a"), (annotate, "csv:a.csv,b")])
@pytest.mark.parametrize("shape", [(32, 32), (40, 60)])
def test_evaluation_sees_what_training_augments(network, crop, module, data, shape):
    options = options_of(module, data, "--model", network, "--crop", crop, "--image-size", "32")
    rng = np.random.default_rng(0)
    example = {"image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8), "label": np.int32(0)}
    evaluated = options.evaluation_transform(dict(example))["image"]
    trained = options.training_transform(dict(example))["image"]
    assert evaluated.shape == (32, 32, 3)
    np.testing.assert_array_equal(evaluated, trained)


def test_evaluation_crops_the_middle_where_training_crops_or_ten_crops_are_asked_for():
    for typed, resized in [
        (("--crop", "resized"), 37),
        (("--crop", "random"), 37),
        (("--ten-crop",), 37),
        (("--crop", "pad", "--resize", "40"), 40),
        (("--crop", "pad"), 32),
    ]:
        typed = ("--model", "vgg11", "--image-size", "32", *typed)
        sizes = options_of(classify, "folder:a", *typed).sizes
        assert (sizes.resize, sizes.evaluation) == (resized, 32), typed


@pytest.mark.parametrize("network", [*NETWORKS, "alexnet_paper", "inception_v3", "airbench94"])
def test_a_random_window_is_of_an_image_as_large_as_at_evaluation(network):
    sizes = options_of(classify, "folder:a", "--model", network, "--crop", "random").sizes
    assert sizes.resize > sizes.evaluation
    assert sizes.canvas / sizes.training == pytest.approx(sizes.resize / sizes.evaluation)
