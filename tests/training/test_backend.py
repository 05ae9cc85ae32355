"""The host keeps freed memory, and inference on a CPU has its own compiler options."""

import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import backend, parallel
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Task

pytestmark = pytest.mark.optimized  # Tests how programs are compiled.

without_option = pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11),
    reason="an option of XLA for CPUs, known of jax 0.10",
)


def largest_of_product(a, b):
    return (a @ b).max(axis=-1)


@without_option
def test_a_product_is_not_fused_with_the_next_operation():
    x = jnp.ones((64, 64))
    plain = jax.jit(largest_of_product).lower(x, x).compile().as_text()
    inference = backend.compile_inference(largest_of_product).lower(x, x).compile().as_text()
    # Should the first fail, XLA no longer does what the option turns off.
    assert "ynn_fusion" in plain
    assert "ynn_fusion" not in inference


@without_option
def test_evaluation_is_compiled_with_the_options_once_per_shape(monkeypatch):
    class Product(Task):
        def predict(self, params, model_state, batch):
            return largest_of_product(batch["image"], params)

        def measure(self, predictions, batch):
            return {"sum": predictions.sum()}, {}

    compiled, compile_it = [], jax.stages.Lowered.compile

    def counted(self, compiler_options=None):
        compiled.append(compiler_options)
        return compile_it(self, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    params = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    state = parallel.replicate(TrainState(np.int32(0), params, {}, ()))
    evaluate = parallel.compile_evaluation_step(Product())
    for rows in (4, 2, 4):
        image = np.random.default_rng(rows).normal(size=(rows * 8, 8)).astype(np.float32)
        sums, _, predictions = evaluate(state, parallel.split({"image": image}))
        expected = (image @ params).max(axis=-1)
        np.testing.assert_allclose(parallel.merge(predictions), expected, rtol=1e-5)
        np.testing.assert_allclose(sums["sum"], expected.sum(), rtol=1e-5)
    assert compiled == [backend.inference_options()] * 2


PROGRAM = """
import resource
from cnn_jax.training.backend import keep_freed_memory

kept = keep_freed_memory()
import jax
import jax.numpy as jnp

# 128 MiB, which the heap of a thread other than the main one cannot hold.
step = jax.jit(lambda x: x + 1)
x = jnp.ones(2**25)
faults = []
for _ in range(32):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), *faults)
"""


def test_the_arrays_of_a_step_are_mapped_once():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    kept, first, *later = map(int, run.stdout.split())
    # They are 32,768 pages of 4 KiB, less where the kernel has larger ones.
    assert first > 100
    # Small blocks may come to lie in freed ones, so that a few steps need memory at another place.
    assert not kept or statistics.median(later) < first / 10
