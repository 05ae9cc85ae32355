"""Batch statistics are averaged over devices, in every architecture.

`pmap`'s `out_axes=None` is never checked: a batch norm without the axis name lets replicas drift
apart unseen. Every architecture is traced and each of its batch norms asked for its axis; one of
each family is trained on four devices and its replicas compared to the last bit.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import models
from cnn_jax.models import resnet
from cnn_jax.models.densenet import DenseNet
from cnn_jax.models.layers import on_axis
from cnn_jax.tasks.classification import Classification
from cnn_jax.training import parallel, prng
from cnn_jax.training.state import create

CLASSES = 4


@pytest.mark.parametrize("name", models.names())
def test_every_batch_norm_sees_all_devices(name):
    model = on_axis(models.create(name, CLASSES), parallel.AXIS)
    size = max(models.input_spec(name).minimum_size, 32)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    axes = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            axes[context.module.path] = context.module.axis_name
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda x: model.init(keys, x, train=True), images)
    assert len(axes) == len(jax.tree.leaves(variables.get("batch_stats", {}))) // 2
    assert set(axes.values()) <= {parallel.AXIS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        models.create("vgg11_bn", CLASSES, width=0.0625),
        models.create("googlenet", CLASSES, width=0.125),
        # One or two blocks a stage: what the deeper ones repeat.
        resnet.resnet18(num_classes=CLASSES, stage_sizes=(2, 1), stem="small", width=0.125),
        resnet.resnext50_32x4d(num_classes=CLASSES, stage_sizes=(1, 1), width=0.25),
        resnet.resnet20(num_classes=CLASSES, stage_sizes=(2, 1), width=0.25),
        DenseNet((2, 3), growth_rate=4, num_classes=CLASSES, stem="small"),
    ],
    ids=["vgg11_bn", "googlenet", "resnet18", "resnext50_32x4d", "resnet20", "densenet"],
)
def test_replicas_agree_after_training(model):
    assert jax.local_device_count() == 4
    size = 32
    task = Classification(model, CLASSES, size, (0.5,) * 3, (0.5,) * 3)
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = create(*jax.jit(task.init)(jax.random.key(0)), optimizer)
    step = parallel.compile_train_step(task, optimizer)
    rng = np.random.default_rng(0)
    for number in range(3):
        batch = {
            "image": rng.integers(0, 256, (8, size, size, 3)).astype(np.uint8),
            "label": rng.integers(0, CLASSES, 8).astype(np.int32),
            "valid": np.ones(8, bool),
            "ordinal": np.arange(8 * number, 8 * number + 8, dtype=np.int32),
            "size": np.full((8, 2), size, np.float32),
        }
        state, sums = step(state, parallel.split(batch), prng.root(0))
    assert parallel.replicas_agree(state)
    assert parallel.replicas_agree(sums)
    assert np.isfinite(float(sums["loss"]))
