"""Two processes of two devices each equal one process of four."""

import socket

import jax
import numpy as np
import pytest

from tests.commands import finish, leaves, rows, start

COMMAND = [
    *("--width", "0.25", "--image-size", "16", "--batch-size", "16", "--eval-batch-size", "200"),
    *("--steps", "4", "--report-every", "2", "--eval-every", "4"),
    *("--learning-rate", "0.02", "--crop", "pad", "--flip", "--mixup", "0.2"),
]


def classify(out, cache, devices, *extra, **variables):
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return start(
        "classify", out, *COMMAND, *extra, JAX_COMPILATION_CACHE_DIR=str(cache), **variables
    )


def assert_close(a, b):
    """Arrays differ by rounding: sums over devices are in another order, and steps spread it."""
    a, b = np.float64(a), np.float64(b)
    assert np.linalg.norm(a - b) <= 5e-3 * np.linalg.norm(a) + 1e-6


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    cache = tmp_path / "cache"
    finish(classify(tmp_path / "one", cache, 4))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [
        classify(
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
    one, two = (leaves(tmp_path / name, step=4) for name in ("one", "two"))
    jax.tree.map(assert_close, one, two)
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
