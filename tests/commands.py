"""Helpers that read a run's folder, and that start commands in their own processes."""

import json
import os
import subprocess
import sys

from flax import traverse_util

from cnn_jax.runs.folder import is_timing
from cnn_jax.training import checkpoints


def rows(out):
    """The rows of a run's metrics, without what no two runs have alike."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not is_timing(k)} for row in lines]


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


def start(verb, out, *arguments, **variables):
    """`python -m experiments.VERB --out OUT ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{verb}", "--out", str(out), *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Wait for a process, which has to end well."""
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
