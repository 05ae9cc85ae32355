"""Batch norm's statistics anew, from a pass over the training set with the weights as they are.

The averages that training keeps lag behind the weights, and those of an average of weights were
never those of a network that was trained.
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
    state: TrainState, task: Task, batches: Batches, steps: int, key: Key[Array, ""]
) -> TrainState:
    """The state with the mean of the statistics of so many training batches.

    As SegNet's authors do before testing. Batches are augmented as in training.

    Args:
        state: without a moving average, or with one, whose statistics are then replaced.
        task: see `Task`.
        batches: the training examples.
        steps: how many batches; usually an epoch.
        key: the run's root key.
    """
    _, model_state = evaluated(state)
    if not jax.tree.leaves(model_state):
        return state
    compute = parallel.compile_batch_statistics(task)
    placed, total = parallel.replicate(state), None
    examples = itertools.islice(parallel.prefetch(batches.iterate(0)), steps)
    for step, (_, batch) in enumerate(track(examples, "Recalibrating batch norm", steps)):
        now = parallel.replicate(jnp.asarray(step, jnp.int32))
        found = jax.tree.map(np.asarray, compute(placed.replace(step=now), batch, key))
        total = found if total is None else jax.tree.map(np.add, total, found)
    mean = jax.tree.map(lambda x: (x / steps).astype(x.dtype), total)
    if state.ema is not None:
        return state.replace(ema=(state.ema[0], mean))
    return state.replace(model_state=mean)
