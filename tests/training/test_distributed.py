"""Two processes of two devices each equal one process of four."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnn_jax.reports.runs import TIMING_KEYS
from cnn_jax.training import checkpoints

COMMAND = [
    *(sys.executable, "-m", "experiments.classify", "--width", "0.25", "--image-size", "16"),
    *("--batch-size", "16", "--eval-batch-size", "200", "--steps", "4", "--report-every", "2"),
    *("--learning-rate", "0.02", "--crop", "pad", "--flip", "--mixup", "0.2", "--eval-every", "4"),
]


def start(out, cache, devices, *extra, **variables):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        **variables,
    }
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *extra],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]


def final_params(out):
    nested = {}
    specs = checkpoints.leaves(out / "checkpoints")
    for path in specs:
        *parents, name = path.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = np.zeros(specs[path].shape, specs[path].dtype)
    restored, step = checkpoints.restore(out / "checkpoints", nested)
    assert step == 4
    return restored


def rows(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING_KEYS} for row in lines]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    cache = tmp_path / "cache"
    finish(start(tmp_path / "one", cache, 4))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [
        start(
            tmp_path / "two",
            cache / str(rank),
            2,
            "--distributed",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(rank),
        )
        for rank in range(2)
    ]
    for process in both:
        finish(process)
    one, two = final_params(tmp_path / "one"), final_params(tmp_path / "two")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), one, two)
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
