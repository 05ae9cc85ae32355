"""The memory that a run needs, estimated from shapes before anything of it is allocated."""

import jax
import optax

from cnn_jax import memory
from cnn_jax.errors import UserError
from cnn_jax.models import summary
from cnn_jax.training.feeding import WholeSet
from cnn_jax.training.state import TrainState

from .options import DataOptions


def check(
    traced: summary.Trace,
    state: TrainState,
    *,
    evaluated: int,
    trained: int = 0,
    optimizer: optax.GradientTransformation | None = None,
) -> summary.ModelSummary:
    """Refuse a run that does not fit into memory; return what its network costs.

    Counted are the state, its gradients, what a step keeps for the backward pass, and a batch of an
    evaluation. The estimate is low: XLA's programs for a CPU need 1.0 to 1.2 times as much.

    Args:
        traced: the network's forward pass.
        state: the state, as shapes.
        evaluated: examples in a step of an evaluation, over all devices.
        trained: examples in each part of a batch, over all devices; 0 where nothing is trained.
        optimizer: counted in the returned summary.

    Raises:
        UserError: the memory is too small; the message gives both sizes.
    """
    counts = summary.summarize(traced, optimizer)
    copies, share, free = _devices()
    example = summary.tree_bytes(traced.inputs) + 2 * counts.largest_bytes
    parts = {"the state": copies * summary.tree_bytes(state)}
    work = {"evaluated examples": share * evaluated * example}
    if trained:
        parts["gradients"] = copies * counts.parameter_bytes
        work["activations"] = share * trained * (counts.activation_bytes + example)
    # A step of training and one of an evaluation come after each other.
    largest = max(work, key=work.__getitem__)
    parts[largest] = work[largest]
    listed = ", ".join(f"{name} {memory.shown(size)}" for name, size in parts.items())
    memory.require(
        int(sum(parts.values())),
        f"this run ({listed})",
        "a smaller --batch-size or --eval-batch-size, a smaller image or network",
        free,
    )
    return counts


def _devices() -> tuple[int, float, int | float | None]:
    """Copies of the state in one memory, the share of a batch there, and the bytes free in it.

    The devices of a CPU share the machine's memory; an accelerator has its own.
    """
    local, every = jax.local_device_count(), jax.device_count()
    if jax.default_backend() == "cpu":
        return local, local / every, None
    return 1, 1 / every, free_on_device()


def free_on_device() -> int | float:
    """The bytes that are free in the memory of a device; infinity where it does not say."""
    if jax.default_backend() == "cpu":
        return memory.available() / jax.local_device_count()
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in found:
        return float("inf")
    return found["bytes_limit"] - found.get("bytes_in_use", 0)


def bytes_on_device(data: DataOptions, batches: WholeSet) -> int:
    """Decide whether the training examples lie on the devices; return their bytes there, or 0.

    Raises:
        UserError: they are asked to be, and are no fixed set, or too large.
    """
    asked = data.cache == "device"
    if not (asked or (data.cache is None and jax.default_backend() != "cpu")):
        return 0
    if not batches.keeps:
        if asked:
            raise UserError("--cache device: these examples are no fixed set; use --cache host")
        return 0
    size, free = batches.total_bytes(), free_on_device()
    if asked:
        purpose = f"--cache device with examples of {memory.shown(size)}"
        memory.require(size, purpose, "--cache host", free)
    return size if asked or size <= free / 3 else 0
