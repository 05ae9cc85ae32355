"""Rows of an evaluation that two processes share are those of one process, in order, on both."""

import pytest

from tests import commands

PROGRAM = """
import sys

import jax
import numpy as np
import optax

from cnn_jax.metrics.summary import Summary
from cnn_jax.training import parallel
from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.state import create

parallel.initialize()


class Square:
    def predict(self, params, model_state, batch):
        return batch["x"] ** 2

    def measure(self, predictions, batch):
        rows = {"square": predictions, "even": batch["index"] % 2 == 0}
        return {"examples": batch["valid"].sum()}, rows

    def summarize(self, sums, rows=None):
        return Summary({"examples": float(sums["examples"])}, rows)


class Shared:
    # 13 examples in batches of 8, those of a batch in reverse; this process reads half of each.
    def iterate(self):
        half = 4 * jax.process_index()
        for first in (0, 8):
            index = np.arange(first, first + 8)[::-1][half : half + 4]
            valid = index < 13
            index = np.where(valid, index, 0).astype(np.int32)
            yield {"x": index.astype(np.float32), "index": index, "valid": valid}


task = Square()
state = parallel.replicate(create({}, {}, optax.identity()))
result = evaluate(task, parallel.compile_evaluation_step(task), state, Shared())
assert result.metrics["examples"] == 13
np.testing.assert_array_equal(result.details["square"], np.arange(13.0) ** 2)
np.testing.assert_array_equal(result.details["even"], np.arange(13) % 2 == 0)
print(jax.process_count(), jax.device_count())
"""


@pytest.mark.slow
def test_two_processes_have_the_rows_of_the_whole_set():
    for process in commands.start(["-c", PROGRAM], processes=2, devices=2):
        out, _ = commands.finish(process)
        assert out.splitlines()[-1] == "2 4"
