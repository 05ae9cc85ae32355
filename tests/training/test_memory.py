"""The arrays that a step makes are allocated again without the kernel."""

import statistics
import subprocess
import sys

PROGRAM = """
import resource
from cnn_jax.training.memory import keep_freed_memory

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
