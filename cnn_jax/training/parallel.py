"""Many devices and many processes: the only file that knows `pmap`.

State and key are the same on every device and are passed whole (`in_axes=None`); a batch is split
along its leading axis. JAX does not check that an output declared the same everywhere
(`out_axes=None`) really is, so a test compares the replicas on every architecture.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import UserError
from cnn_jax.training.backend import inference_options
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import (
    Rows,
    Sums,
    Task,
    batch_statistics,
    evaluation_step,
    train_step,
    train_steps,
)

AXIS = "devices"


def initialize() -> None:
    """Join the other processes of a run; JAX finds them itself under Slurm, TPU pods, Kubernetes.

    Elsewhere the environment names them: `JAX_COORDINATOR_ADDRESS` (read by JAX),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

    Raises:
        UserError: the processes cannot be found, or one of them does not answer.
    """
    variables = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        given = {name: int(os.environ[v]) for name, v in variables.items() if v in os.environ}
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--distributed: {error}") from error


def check_batch_size(batch_size: int, accumulate: int = 1, flag: str = "--batch-size") -> None:
    """Raise UserError unless every device gets equally many examples in every part of a batch."""
    devices, parts = jax.device_count(), f" x {accumulate} parts" if accumulate > 1 else ""
    if batch_size % (devices * accumulate):
        divisor = devices * accumulate
        nearest = max(divisor, round(batch_size / divisor) * divisor)
        raise UserError(
            f"{flag} {batch_size}: not divisible by {devices} devices{parts}; "
            f"{nearest} would be right"
        )


def compile_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, Sums]]:
    """`train_step` over all devices; the given state's memory is reused for the returned one."""
    step = partial(
        train_step,
        task=task,
        optimizer=optimizer,
        accumulate=accumulate,
        ema_decay=ema_decay,
        axis_name=AXIS,
    )
    return _in_order(jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0))


def compile_train_steps(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> Callable[..., tuple[TrainState, Sums]]:
    """`train_steps` over all devices; state and examples are `replicate`d, places are `split`.

    The memory of the given state is reused for the returned one.
    """
    steps = partial(
        train_steps,
        task=task,
        optimizer=optimizer,
        accumulate=accumulate,
        ema_decay=ema_decay,
        axis_name=AXIS,
    )
    axes = (None, None, None, 0, None, None)
    return _in_order(jax.pmap(steps, AXIS, in_axes=axes, out_axes=None, donate_argnums=0))


def no_sums(task: Task, optimizer: optax.GradientTransformation, state: Any, batch: Any) -> Sums:
    """Zeros in place of the sums of a step; they depend on the shapes of state and batch alone."""
    step = partial(train_step, task=task, optimizer=optimizer)
    _, sums = jax.eval_shape(step, state, batch, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sums)


def compile_evaluation_step(task: Task) -> Callable[[TrainState, Any], tuple[Sums, Rows, Any]]:
    """Compile `evaluation_step` for all devices.

    The sums that it returns are those of all devices of all processes; rows and predictions have
    the axes (device, example) of this process (see `merge` and `gather`).
    """
    step = partial(evaluation_step, task=task, axis_name=AXIS)
    return _in_order(_for_inference(jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=(None, 0, 0))))


def compile_batch_statistics(task: Task) -> Callable[[TrainState, Any, jax.Array], Any]:
    """`batch_statistics` over all devices: those of the whole batch, the same on each."""
    step = partial(batch_statistics, task=task, axis_name=AXIS)
    return _in_order(jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None))


def _for_inference(function: Any) -> Callable[..., Any]:
    """A pmapped function with the compiler's options for inference, which pmap does not take."""
    options = inference_options()
    # Lowered for several processes, it would want arrays that span them.
    if not options or jax.process_count() > 1:
        return function
    compiled: dict[Any, Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        signature = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if signature not in compiled:
            compiled[signature] = function.lower(*args).compile(compiler_options=options)
        return compiled[signature](*args)

    return call


def _in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wait for each call where running ahead could deadlock.

    Virtual CPU devices share one thread pool: when calls are queued, threads that wait in one
    call's collective can starve the devices that it waits for.
    """
    if jax.default_backend() != "cpu" or jax.local_device_count() == 1:
        return function
    return lambda *args: jax.block_until_ready(function(*args))


def replicate(tree: Any) -> Any:
    """The same arrays on every device of every process.

    A state must be placed so before it is donated to a step that spans processes.
    """
    sharding = NamedSharding(Mesh(np.array(jax.devices()), AXIS), PartitionSpec())

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def split(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This process's rows of a batch by device: [rows, ...] -> [devices, rows / devices, ...]."""
    devices = jax.local_device_count()
    return {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}


def split_steps(places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As `split`, of several steps: [steps, rows] -> [devices, steps, rows / devices]."""
    devices, steps = jax.local_device_count(), len(next(iter(places.values())))
    return {k: v.reshape(steps, devices, -1).swapaxes(0, 1) for k, v in places.items()}


def prefetch(
    batches: Iterable[dict[str, np.ndarray]],
    ahead: int = 2,
    during: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
    """Each host batch with its copy on the devices, the copying begun `ahead` batches early.

    Args:
        batches: the batches of this process.
        ahead: the number of batches that are copied before they are asked for.
        during: told "data" around the reading of a batch and "transfer" around its copying; see
            `cnn_jax.training.clock.DeviceClock.during`.
    """

    def place(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Any]:
        if jax.process_count() > 1:
            return batch, split(batch)
        sharding = NamedSharding(Mesh(np.array(jax.devices()), AXIS), PartitionSpec(AXIS))
        return batch, jax.device_put(split(batch), sharding)

    iterator, waiting = iter(batches), deque()

    def advance() -> None:
        with during("data"):
            batch = next(iterator, None)
        if batch is not None:
            with during("transfer"):
                waiting.append(place(batch))

    for _ in range(ahead):
        advance()
    while waiting:
        current = waiting.popleft()
        advance()
        yield current


def merge(tree: Any) -> Any:
    """Copy this process's rows to the host: arrays [devices, rows, ...] -> NumPy [rows, ...]."""

    def local(x: jax.Array) -> np.ndarray:
        # A mapped output has its device's axis first, one shard a device.
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate(
            [np.asarray(shard.data).reshape(-1, *x.shape[2:]) for shard in shards]
        )

    return jax.tree.map(local, tree)


def gather(tree: Any) -> Any:
    """Copy the rows of all processes to the host of each, as NumPy arrays [rows, ...].

    The rows of the first process come first. Every process must call this for the same batch.
    """
    rows = merge(tree)
    if jax.process_count() == 1:
        return rows
    return multihost_utils.process_allgather(rows, tiled=True)


def replicas_agree(tree: Any) -> bool:
    """Check that arrays which are declared equal on all devices are so, to the last bit."""

    def agree(x: jax.Array) -> bool:
        first, *others = (np.asarray(shard.data) for shard in x.addressable_shards)
        return all(first.tobytes() == other.tobytes() for other in others)

    return all(map(agree, jax.tree.leaves(tree)))


def alone() -> bool:
    """Tell whether this process has the run to itself."""
    return jax.process_count() == 1


def as_first(value: bool) -> bool:
    """Return the first process's value on every process; all of them must call this."""
    if alone():
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(value)))


def agreed_stop(requested: bool, step: int) -> bool:
    """Decide whether to stop after this step: at once, or when every process has reached it."""
    if jax.process_count() == 1:
        return requested
    return multihost_utils.reached_preemption_sync_point(step)
