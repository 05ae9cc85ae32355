"""AlexNet, VGG and the residual networks, given torchvision's weights by name, give its logits.

The files of the other networks have their own such tests.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.models import weights

slow = pytest.mark.slow
NAMES = [
    "alexnet",
    "alexnet_paper",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    *(
        pytest.param(name, marks=slow)
        for name in (
            "vgg11",
            "vgg13",
            "vgg16",
            "vgg19",
            "vgg11_bn",
            "vgg13_bn",
            "vgg16_bn",
            "vgg19_bn",
            "resnet34",
            "resnet101",
            "resnet152",
            "resnext101_32x8d",
            "resnext101_64x4d",
            "wide_resnet50_2",
            "wide_resnet101_2",
        )
    ),
]


def relative_error(ours, theirs) -> float:
    """The largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def with_golden_weights(model, golden, name):
    """Our variables for the network `name` with torchvision's values."""
    # Height, width and channels are all that the variables' shapes depend on.
    images = jax.ShapeDtypeStruct((1, *golden.images(name).shape[1:]), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(
        lambda key, images: model.init({"params": key, "dropout": key}, images, train=True),
        key,
        images,
    )
    return weights.assign(golden.tensors(name), model, shapes)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_torchvisions(name, golden):
    """Torchvision's, or, for the paper's AlexNet, that of the same layers in torch."""
    model = models.create(name)
    variables = with_golden_weights(model, golden, name)
    logits, features = jax.jit(model.apply)(variables, jnp.asarray(golden.images(name)))
    assert relative_error(logits, golden.answers[f"{name}.logits"]) <= 1e-4
    assert logits.dtype == jnp.float32
    assert "auxiliary_logits" not in features


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "resnet50"])
def test_training_logits_equal_torchvisions(name, golden):
    """Batch norm with the batch's own statistics."""
    model = models.create(name, dropout_rate=0.0)
    variables = with_golden_weights(model, golden, name)
    images = jnp.asarray(golden.images(name, training=True))
    training = partial(model.apply, train=True, mutable=["batch_stats"])
    (logits, _), _ = jax.jit(training)(variables, images)
    assert relative_error(logits, golden.answers[f"{name}.training.logits"]) <= 1e-4
