"""Freed memory is used again without the kernel, in the main thread and in others."""

import subprocess
import sys

PROGRAM = """
import resource
import threading
import numpy as np
from cnn_jax.training.memory import keep_freed_memory

kept = keep_freed_memory()
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(2**26, 1, np.uint8)
    thread = threading.Thread(target=np.full, args=(2**25, 1, np.uint8))
    thread.start()
    thread.join()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), faults[-1])
"""


def test_a_large_block_is_mapped_once():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    kept, faults = map(int, run.stdout.split())
    # 32 MiB are 8,192 pages of 4 KiB; a thread has a few of its own.
    assert not kept or faults < 32
