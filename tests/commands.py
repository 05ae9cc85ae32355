"""Helpers that read a run's folder, and that start commands in their own processes."""

import json
import os
import socket
import subprocess
import sys

from flax import traverse_util

from cnn_jax.runs.folder import is_timing, pictures
from cnn_jax.training import checkpoints


def rows(out):
    """The rows of a run's metrics, without what no two runs have alike."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not is_timing(k)} for row in lines]


def per_class(out):
    """The figures of a run's classes, by name."""
    content = json.loads((out / "per_class.json").read_text())
    assert content["step"] == json.loads((out / "result.json").read_text())["step"]
    return {one.pop("name"): one for one in content["classes"]}


def events(out):
    """The events of a run for TensorBoard: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(out.glob("events.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            found.append(Event.FromString(data[position + 12 : position + 12 + length]))
            position += 16 + length
    return found


def shows_its_pictures(out):
    """Tell whether TensorBoard has the pictures of a run's last evaluation."""
    values = (value for event in events(out) for value in event.summary.value)
    shown = {v.tag: v.image.encoded_image_string for v in values if v.HasField("image")}
    drawn = {f"eval/{path.stem}": path.read_bytes() for path in pictures(out)}
    return bool(drawn) and drawn.items() <= shown.items()


def leaves(out, folder="checkpoints", step=None):
    """The arrays of a run's newest checkpoint, or that of a step, as nested dictionaries."""
    return traverse_util.unflatten_dict(checkpoints.arrays(out / folder, step), sep="/")


_HEEDED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def heeding_interrupts(*command):
    """The command, in a process that gets SIGINT: those of a background job ignore it.

    It is a program between, as JAX warns where `preexec_fn` makes `subprocess` fork.
    """
    return [sys.executable, "-S", "-c", _HEEDED, *map(str, command)]


def environment(devices: int, **variables: str) -> dict[str, str]:
    """This process's variables, with so many virtual devices of the CPU."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        **variables,
    }


def start(arguments: list[str], processes: int, devices: int) -> list[subprocess.Popen]:
    """Start Python with these arguments in several processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for rank in range(processes):
        joined = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(rank),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                env=environment(devices, **joined),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(process: subprocess.Popen, status: int = 0, timeout: float = 500) -> tuple[str, str]:
    """Wait for a process, which has to end with this status; returns what it printed."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, err[-3000:]
    return out, err
