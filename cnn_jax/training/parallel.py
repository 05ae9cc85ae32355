"""Many devices and many processes: the only file that knows `pmap`, and its twin `shard_map`.

State and key are the same on every device and are passed whole (`in_axes=None`); a batch is split
along its leading axis. JAX does not check that an output declared the same everywhere
(`out_axes=None`) really is, so a test compares the replicas on every architecture.
"""

import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import UserError
from cnn_jax.training import cluster
from cnn_jax.training.averaging import Average
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

Transform = Literal["pmap", "shard"]
"""The function of JAX that runs a step on every device: `pmap`, or `shard_map` under `jit`.

Both compile the same program for a device, and take and return the same arrays.
"""

Axes = tuple[int | None, ...]

T = TypeVar("T")
"""0 for each argument or result that has an axis of devices in front, else None."""

HEARTBEAT_SECONDS = 30
"""A process that JAX has not heard of for so long is dead, and the others end."""


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
        jax.distributed.initialize(
            **given,
            local_device_ids=cluster.local_device_ids(os.environ),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            # So long a process that fails waits for the others before it ends.
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--distributed: {error}") from error


def hosts() -> tuple[str, ...]:
    """The machine of every process of the run; all of them must call this."""
    if alone():
        return (socket.gethostname(),)
    own = np.zeros(64, np.uint8)
    name = socket.gethostname().encode()[: len(own)]
    own[: len(name)] = np.frombuffer(name, np.uint8)
    names = multihost_utils.process_allgather(own)
    return tuple(bytes(row[row > 0]).decode(errors="replace") for row in names)


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
    average: Average | None = None,
    transform: Transform = "pmap",
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, Sums]]:
    """`train_step` over all devices; the given state's memory is reused for the returned one."""
    step = partial(
        train_step,
        task=task,
        optimizer=optimizer,
        accumulate=accumulate,
        average=average,
        axis_name=AXIS,
    )
    return over_devices(step, transform, (None, 0, None), None, donate=(0,))


def compile_train_steps(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    average: Average | None = None,
    transform: Transform = "pmap",
) -> Callable[..., tuple[TrainState, Sums]]:
    """`train_steps` over all devices; state and examples are `replicate`d, places are `split`.

    The memory of the given state is reused for the returned one.
    """
    steps = partial(
        train_steps,
        task=task,
        optimizer=optimizer,
        accumulate=accumulate,
        average=average,
        axis_name=AXIS,
    )
    return over_devices(steps, transform, (None, None, None, 0, None, None), None, donate=(0,))


def no_sums(task: Task, optimizer: optax.GradientTransformation, state: Any, batch: Any) -> Sums:
    """Zeros in place of the sums of a step; they depend on the shapes of state and batch alone."""
    step = partial(train_step, task=task, optimizer=optimizer)
    _, sums = jax.eval_shape(step, state, batch, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sums)


def compile_evaluation_step(
    task: Task, *, transform: Transform = "pmap"
) -> Callable[[TrainState, Any], tuple[Sums, Rows, Any]]:
    """Compile `evaluation_step` for all devices.

    The sums that it returns are those of all devices of all processes; rows and predictions have
    the axes (device, example) of this process (see `merge` and `gather`).
    """
    step = partial(evaluation_step, task=task, axis_name=AXIS)
    return over_devices(step, transform, (None, 0), (None, 0, 0), options=inference_options())


def compile_batch_statistics(
    task: Task, *, transform: Transform = "pmap"
) -> Callable[[TrainState, Any, jax.Array], Any]:
    """`batch_statistics` over all devices: those of the whole batch, the same on each."""
    step = partial(batch_statistics, task=task, axis_name=AXIS)
    return over_devices(step, transform, (None, 0, None), None)


def over_devices(
    function: Callable[..., Any],
    transform: Transform,
    in_axes: Axes,
    out_axes: Axes | None,
    *,
    donate: tuple[int, ...] = (),
    options: dict[str, str] | None = None,
) -> Callable[..., Any]:
    """Compile a function of one device's arrays for all devices.

    Args:
        function: what a device computes; collectives run over `AXIS`.
        transform: see `Transform`.
        in_axes: 0 for the arguments that have an axis of this process's devices in front, None for
            those that are the same on every device.
        out_axes: the same of the outputs, or None for all of them.
        donate: the arguments whose memory is reused.
        options: the compiler's, where one process has the run to itself. Lowered for several,
            `pmap` would want arrays that span them, and both transforms give the same bits.

    Returns:
        The compiled function. Its `lower` is that of `jax.jit`.
    """
    if not alone():
        options = None
    if transform == "shard":
        mapped = _sharded(function, in_axes, out_axes, donate, options)
    else:
        mapped = jax.pmap(function, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate)
        mapped = _with_options(mapped, options)
    return _in_order(mapped)


def _sharded(
    function: Callable[..., Any],
    in_axes: Axes,
    out_axes: Axes | None,
    donate: tuple[int, ...],
    options: dict[str, str] | None,
) -> Any:
    """The function under `shard_map` and `jit`, with the arguments and outputs of `pmap`."""
    mesh = _mesh()

    def on_one_device(*args: Any) -> Any:
        rows = [_each(jax.lax.squeeze, axis, arg) for axis, arg in zip(in_axes, args, strict=True)]
        out = function(*rows)
        if out_axes is None:
            return out
        return tuple(
            _each(jax.lax.expand_dims, axis, x) for axis, x in zip(out_axes, out, strict=True)
        )

    in_specs, out_specs = tuple(map(_spec, in_axes)), _spec(None)
    if out_axes is not None:
        out_specs = tuple(map(_spec, out_axes))
    # Unchecked as under `pmap`: else JAX adds gradients over devices itself, and twice in all.
    sharded = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    shardings, out_shardings = jax.tree.map(
        partial(NamedSharding, mesh), (in_specs, out_specs), is_leaf=_is_spec
    )
    compiled = jax.jit(
        sharded,
        in_shardings=shardings,
        out_shardings=out_shardings,
        donate_argnums=donate,
        compiler_options=options,
    )
    if alone():
        return compiled

    def call(*args: Any) -> Any:
        return compiled(
            *(
                jax.tree.map(partial(_of_all_processes, sharding), arg)
                for sharding, arg in zip(shardings, args, strict=True)
            )
        )

    call.lower = compiled.lower
    return call


def _each(change: Callable[..., Any], axis: int | None, tree: Any) -> Any:
    return tree if axis is None else jax.tree.map(lambda x: change(x, [axis]), tree)


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(AXIS)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _of_all_processes(sharding: NamedSharding, x: Any) -> jax.Array:
    """The array of all processes of which this one has `x`; nothing is copied between devices."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x
    if sharding.is_fully_replicated:
        return _replicated(x, sharding)
    shape = (jax.device_count(), *x.shape[1:])
    if not isinstance(x, jax.Array):
        return jax.make_array_from_process_local_data(sharding, x, shape)
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _with_options(function: Any, options: dict[str, str] | None) -> Any:
    """A pmapped function with the compiler's options, which `pmap` does not take."""
    if not options:
        return function
    compiled: dict[Any, Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        signature = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if signature not in compiled:
            compiled[signature] = function.lower(*args).compile(compiler_options=options)
        return compiled[signature](*args)

    call.lower = function.lower
    return call


def _in_order(function: Any) -> Callable[..., Any]:
    """Wait for each call where running ahead could deadlock.

    Virtual CPU devices share one thread pool: when calls are queued, threads that wait in one
    call's collective can starve the devices that it waits for.
    """
    if jax.default_backend() != "cpu" or jax.local_device_count() == 1:
        return function

    def call(*args: Any) -> Any:
        return jax.block_until_ready(function(*args))

    call.lower = function.lower
    return call


def _mesh(local: bool = False) -> Mesh:
    """All devices, or those of this process, along one axis; those of a process are neighbours."""
    processes = [jax.process_index()] if local else range(jax.process_count())
    devices = [device for index in processes for device in jax.local_devices(process_index=index)]
    return Mesh(np.array(devices), AXIS)


def replicate(tree: Any) -> Any:
    """The same arrays on every device of every process.

    A state must be placed so before it is donated to a step that spans processes.
    """
    return jax.tree.map(
        partial(_replicated, sharding=NamedSharding(_mesh(), PartitionSpec())), tree
    )


def _replicated(x: Any, sharding: NamedSharding) -> jax.Array:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _replicated(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


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

    A process copies its own rows to its own devices. A step takes them as they lie, whatever the
    number of processes.

    Args:
        batches: the batches of this process.
        ahead: the number of batches that are copied before they are asked for.
        during: told "data" around the reading of a batch and "transfer" around its copying; see
            `cnn_jax.training.clock.DeviceClock.during`.
    """
    sharding = NamedSharding(_mesh(local=True), PartitionSpec(AXIS))

    def place(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Any]:
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


def as_first(value: T) -> T:
    """Return the first process's value on every process; all of them must call this.

    Args:
        value: a number, a truth value, or a tree of arrays.
    """
    if alone():
        return value
    return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, value))


# How often this process has been asked by `agreed_stop`; JAX compares the numbers of processes.
_questions = itertools.count(1)


def agreed_stop(requested: bool) -> bool:
    """Decide whether to stop now: at once, or when every process has come as far as this.

    With several processes the request is JAX's: a process hears it as SIGTERM (see `stopping`).
    All of them must call this equally often, and not again after it returned True.
    """
    if alone():
        return requested
    return multihost_utils.reached_preemption_sync_point(next(_questions))
