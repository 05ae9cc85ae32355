"""The GPUs of a process under Slurm, where JAX's own detection takes too few.

JAX assumes one task for each GPU: the task with the local number 3 gets GPU 3 of those that it
sees. That leaves all but the first GPU idle with one task a node, and fails where Slurm shows each
task only its own GPUs.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from cnn_jax.errors import UserError


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """The numbers of this process's GPUs among those that it sees, for JAX.

    Args:
        environment: the variables that Slurm and CUDA or ROCm set.

    Returns:
        None where JAX decides well: outside Slurm, with one task for each GPU of the node, without
        a GPU, or where `JAX_LOCAL_DEVICE_IDS` says it.

    Raises:
        UserError: the GPUs of the node cannot be shared equally among its tasks.
    """
    if "SLURM_LOCALID" not in environment or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    tasks, task = _tasks(environment), int(environment["SLURM_LOCALID"])
    visible = _visible(environment)
    if not visible:
        return None
    # Fewer than the node's: Slurm has bound the task to its own, by --gpus-per-task or --gpu-bind.
    bound = visible < _number(environment, "SLURM_GPUS_ON_NODE") or visible == 1
    if tasks == 1 or bound:
        return list(range(visible))
    if visible % tasks:
        raise UserError(
            f"--distributed: {tasks} tasks on a node with {visible} GPUs; "
            "--ntasks-per-node must be 1, or divide them"
        )
    each = visible // tasks
    return None if each == 1 else list(range(task * each, (task + 1) * each))


def _tasks(environment: Mapping[str, str]) -> int:
    """The number of this step's tasks on this node."""
    # By node, as `2(x3),1`: three nodes with two tasks each, and one with one.
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        counts: list[int] = []
        for count, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get(name, "")):
            counts += [int(count)] * int(repeated or 1)
        node = _number(environment, "SLURM_NODEID")
        if node < len(counts):
            return counts[node]
    return _number(environment, "SLURM_NTASKS_PER_NODE") or 1


def _visible(environment: Mapping[str, str]) -> int:
    """The number of GPUs that this process sees; 0 where nothing tells of one."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if name in environment:
            return len([gpu for gpu in environment[name].split(",") if gpu.strip()])
    return _number(environment, "SLURM_GPUS_ON_NODE") or _driver_s_gpus()


def _driver_s_gpus() -> int:
    """The number of the node's GPUs, as its NVIDIA driver lists them."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _number(environment: Mapping[str, str], name: str) -> int:
    digits = environment.get(name, "")
    return int(digits) if digits.isdecimal() else 0
