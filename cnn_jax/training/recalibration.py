"""Recalibration of batch norm: its statistics are recomputed with the final weights.

The running averages of training lag behind the weights. For a moving average of weights, no
network with those weights was ever run in training.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from cnn_jax.progress import track
from cnn_jax.training import parallel
from cnn_jax.training.loop import Batches
from cnn_jax.training.state import TrainState, evaluated
from cnn_jax.training.step import Task


def recalibrated(
    state: TrainState,
    task: Task,
    batches: Batches,
    steps: int,
    key: Key[Array, ""],
    *,
    transform: parallel.Transform = "pmap",
) -> TrainState:
    """Replace the batch statistics by their mean over `steps` training batches.

    SegNet's authors do this before testing. Batches are augmented as in training.

    Args:
        state: the state; if it has a moving average, that average's statistics are replaced.
        task: see `Task`.
        batches: the training examples.
        steps: the number of batches; usually an epoch.
        key: the run's root key.
        transform: see `parallel.Transform`.
    """
    _, model_state = evaluated(state)
    if not jax.tree.leaves(model_state):
        return state
    compute = parallel.compile_batch_statistics(task, transform=transform)
    placed, total = parallel.replicate(state), None
    examples = itertools.islice(parallel.prefetch(batches.iterate(0)), steps)
    for step, (_, batch) in enumerate(track(examples, "Recalibrating batch norm", steps)):
        now = parallel.replicate(jnp.asarray(step, jnp.int32))
        statistics = jax.tree.map(np.asarray, compute(placed.replace(step=now), batch, key))
        total = statistics if total is None else jax.tree.map(np.add, total, statistics)
    mean = jax.tree.map(lambda x: (x / steps).astype(x.dtype), total)
    if state.ema is not None:
        return state.replace(ema=(state.ema[0], mean))
    return state.replace(model_state=mean)
