"""The detectors with a grid: published numbers of parameters, shapes, and what is refused."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import weights
from cnn_jax.models.layers import on_axis
from cnn_jax.training import parallel


def traced(name, num_classes, side, **options):
    model = models.create(name, num_classes, "grid_detector", **options)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(
        lambda k, x: model.init_with_output({"params": k, "dropout": k}, x, train=True), key, images
    )


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # What other implementations of the paper's figure 3 have.
        ("yolo", 271_703_550),
        # The authors' file of float32 weights for it is 172 MiB large.
        ("fast_yolo", 45_089_374),
    ],
)
def test_the_papers_networks(name, total):
    (outputs, features), variables = traced(
        name, 20, models.input_spec(name, "grid_detector").image_size
    )
    assert outputs.shape == (1, 7, 7, 30)
    assert count(variables["params"]) == total
    convolutions = [n for n in variables["params"] if n.startswith("conv")]
    assert len(convolutions) == {"yolo": 24, "fast_yolo": 9}[name]
    last = sorted(n for n in features if n.startswith("stage"))[-1]
    assert features[last].shape == (1, 7, 7, 1024)
    (outputs, _), variables = traced(
        name, 20, 448, batch_norm=True, grid=5, boxes_per_cell=3, width=0.25
    )
    assert outputs.shape == (1, 5, 5, 35)
    assert len(variables["batch_stats"]) == len(convolutions)


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11_bn", "googlenet", "inception_v3", "resnet18", "densenet_bc_100_12"]
)
def test_classifiers_are_backbones(name):
    side = max(models.input_spec(name).minimum_size, 64)
    model = models.create(name, 1)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    (_, features), _ = jax.eval_shape(
        lambda k, x: model.init_with_output({"params": k, "dropout": k}, x), key, images
    )
    grid = min(m.shape[1] for m in features.values() if len(getattr(m, "shape", ())) == 4)
    (outputs, _), variables = traced(name, 20, side, grid=grid, boxes_per_cell=3, width=0.25)
    assert outputs.shape == (1, grid, grid, 35)
    backbone = models.create(name, 0)
    assert not set(backbone.head_modules) & set(variables["params"]["backbone"])


def test_the_grid_chooses_the_map():
    for grid, strides in ((8, 1), (4, 2), (16, 1), (2, 2)):
        (outputs, _), variables = traced("resnet20", 1, 16, grid=grid, width=0.5)
        assert outputs.shape[1:3] == (grid, grid)
        taken = variables["params"]["conv1"]["kernel"].shape[2]
        # The maps have 16, 8 and 4 cells on a side and 8, 16 and 32 channels.
        assert taken == {16: 8, 8: 16, 4: 32, 2: 32}[grid], strides
    with pytest.raises(UserError, match=r"^grid 7: .* resnet20 have 16, 8, 4 cells .* 16x16"):
        traced("resnet20", 1, 16, grid=7)
    with pytest.raises(UserError, match=r"^grid 32: .* resnet20 have 16, 8, 4 cells"):
        traced("resnet20", 1, 16, grid=32)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(UserError, match=r"unknown model 'yolov1', did you mean yolo"):
        models.create("yolov1", 3, "grid_detector")
    with pytest.raises(UserError, match=r"no option 'stem'"):
        models.create("yolo", 3, "grid_detector", stem="small")
    with pytest.raises(UserError, match=r"option grid must be a whole number in"):
        models.create("resnet18", 3, "grid_detector", grid=0)
    with pytest.raises(UserError, match=r"too small"):
        traced("fast_yolo", 3, 32)


def test_a_backbone_starts_from_pretrained_weights():
    side = 32
    model = models.create("resnet18", 3, "grid_detector", grid=1, width=0.125)
    images = jnp.zeros((1, side, side, 3))
    variables = jax.jit(partial(model.init, train=True))(jax.random.key(0), images)
    source = models.create("resnet18", 7, width=0.125)
    donor = jax.jit(partial(source.init, train=True))(jax.random.key(1), images)
    rules = source.pretrained_names()["torchvision or timm"]
    tensors = {}
    flat, _ = jax.tree.flatten_with_path(dict(donor))
    for path, value in flat:
        name = weights.tensor_name(".".join(part.key for part in path), rules)
        value = np.asarray(value)
        tensors[name] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    loaded = weights.assign(tensors, model, variables, head="reinit")
    jax.tree.map(
        np.testing.assert_array_equal,
        loaded["params"]["backbone"],
        {k: v for k, v in donor["params"].items() if k != "head"},
    )
    np.testing.assert_array_equal(
        loaded["params"]["head"]["kernel"], variables["params"]["head"]["kernel"]
    )


@pytest.mark.parametrize("name", ["resnet20", "fast_yolo"])
def test_batch_statistics_are_averaged_over_devices(name):
    side = 64 if name == "fast_yolo" else 16
    options = {"batch_norm": True} if name == "fast_yolo" else {}
    model = models.create(name, 2, "grid_detector", grid=2, width=0.0625, **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, side, side, 3)))
    images = jax.random.normal(jax.random.key(1), (4, 2, side, side, 3))

    def statistics(images):
        _, state = on_axis(model, parallel.AXIS).apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return state

    states = jax.pmap(statistics, axis_name=parallel.AXIS)(images)
    for leaf in jax.tree.leaves(states):
        for other in leaf[1:]:
            np.testing.assert_array_equal(other, leaf[0])
