"""Two processes of two devices each equal one process of four."""

import jax
import numpy as np
import pytest

from tests import commands
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.faults import kills

COMMAND = [
    *("--model", "airbench94"),
    *("--width", "0.25", "--image-size", "16", "--batch-size", "16", "--eval-batch-size", "4"),
    *("--steps", "4", "--report-every", "2", "--eval-every", "4"),
    *("--learning-rate", "0.02", "--crop", "pad", "--flip", "--mixup", "0.2"),
    *("--whiten", "10"),
]


def classify(out, processes, devices, *extra):
    """Train in so many processes, each with so many devices."""
    flags = ["--distributed"] if processes > 1 else []
    data = ["--data", f"folder:{out.parent / 'data' / 'classes'}"]
    command = ["-m", "experiments.classify", "--out", str(out), *data, *COMMAND, *flags, *extra]
    return commands.start(command, processes, devices)


def assert_close(a, b):
    """Arrays differ by rounding: sums over devices are in another order, and steps spread it."""
    a, b = np.float64(a), np.float64(b)
    assert np.linalg.norm(a - b) <= 5e-3 * np.linalg.norm(a) + 1e-6


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    kills.write_data(tmp_path / "data")
    for name, processes, devices, *extra in (
        ("one", 1, 4),
        ("two", 2, 2),
        ("twin", 2, 2, "--parallel", "shard"),
    ):
        for process in classify(tmp_path / name, processes, devices, *extra):
            commands.finish(process)
    assert_same_bits(*(leaves(tmp_path / name, step=4) for name in ("two", "twin")))
    assert rows(tmp_path / "two") == rows(tmp_path / "twin")
    one, two = (leaves(tmp_path / name, step=4) for name in ("one", "two"))
    jax.tree.map(assert_close, one, two)
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
