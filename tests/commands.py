"""Helpers that read a run's folder, and that start and kill commands in their own processes."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np

from cnn_jax.runs.folder import TIMING_KEYS
from cnn_jax.training import checkpoints


def rows(out):
    """The rows of a run's metrics, without what no two runs have alike."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING_KEYS} for row in lines]


def leaves(out, folder="checkpoints", step=None):
    """The arrays of a run's newest checkpoint, or that of a step, as nested dictionaries."""
    nested = {}
    for path, leaf in checkpoints.leaves(out / folder, step).items():
        *parents, name = path.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = np.zeros(leaf.shape, leaf.dtype)
    return checkpoints.restore(out / folder, nested, step)[0]


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


def kill_once_past(process, out, step):
    """`kill -9`, as soon as the run has a checkpoint of that step or a later one."""
    deadline = time.monotonic() + 300
    while max(checkpoints.steps(out / "checkpoints"), default=0) < step:
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def run_whole_and_killed(verb, folder, arguments, moments):
    """Run one command to its end here, and in processes killed past each given step and resumed.

    Returns the folders of both runs.
    """
    whole, killed, resume = folder / "whole", folder / "killed", ()
    importlib.import_module(f"experiments.{verb}").main(["--out", str(whole), *arguments])
    devices = {"JAX_NUM_CPU_DEVICES": str(jax.local_device_count())}
    for step in moments:
        kill_once_past(start(verb, killed, *arguments, *resume, **devices), killed, step)
        resume = ("--resume",)
    finish(start(verb, killed, *arguments, *resume, **devices))
    return whole, killed
