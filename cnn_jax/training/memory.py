"""Memory of the host: what the C library is told about it."""

import ctypes
import sys

import jax

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocation.

    To be called before JAX starts its backend.

    On a CPU, XLA allocates a step's temporary arrays anew at every step. glibc gives blocks of that
    size back to the kernel as soon as they are freed, and the kernel then maps and zeroes each of
    their pages again: of a training step that is a quarter of the time. What it costs is that the
    process stays as large as it has ever been.

    Returns:
        Whether the C library has such a switch; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    # Only the main thread's heap holds blocks of any size; in other threads those above 64 MiB are
    # mappings whatever is set. So steps run in the thread that starts them: one CPU has no use for
    # queued ones. (One heap for all threads, M_ARENA_MAX, has no page faults either, but its
    # threads wait for each other: ResNet-18 at 224 px has 7.8 images/s so, and 10.2 this way.)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # No block is a mapping of its own, and the heap is never trimmed and grows by 64 MiB at a time.
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, 2**26),
    )
    return all([mallopt(name, value) == 1 for name, value in settings])
