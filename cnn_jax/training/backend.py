"""Settings of JAX's backend: memory on the host, and the compiler's options."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import jax

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees for its next allocation.

    Call it before JAX starts its backend.

    On a CPU, XLA allocates a step's temporary arrays anew at every step. glibc returns blocks of
    that size to the kernel as soon as they are freed, and the kernel then maps and zeroes each of
    their pages again, which takes a quarter of a training step. The cost of this setting is that
    the process never shrinks.

    Returns:
        Whether the C library has such a switch; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    # Only the main thread's heap holds blocks of any size; in other threads, blocks above 64 MiB
    # are always mappings. So steps run in the thread that starts them: a single CPU gains nothing
    # from queued steps. (One heap for all threads, M_ARENA_MAX, avoids page faults too, but its
    # threads wait for each other: ResNet-18 at 224 px reaches 7.8 images/s, and 10.2 this way.)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # No block is a separate mapping; the heap is never trimmed and grows by 64 MiB at a time.
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, 2**26),
    )
    return all([mallopt(name, value) == 1 for name, value in settings])


def compile_single_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Apply `jax.jit` to a function that is called once, such as the first state's.

    On a CPU LLVM's highest level takes longer to compile such a function than to run it. The first
    state of ResNet-18 takes 5.3 s with it and 2.0 s with the lowest level that optimizes, and has
    the same bits. Where JAX_DISABLE_MOST_OPTIMIZATIONS asks for none, it is compiled with none.
    """
    optimized = not jax.config.read("jax_disable_most_optimizations")
    lower = optimized and jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": "1"} if lower else {}
    return jax.jit(function, compiler_options=options)


def compile_inference(function: Callable[..., Any]) -> Callable[..., Any]:
    """Apply `jax.jit` with the compiler options for predictions."""
    return jax.jit(function, compiler_options=inference_options())


def inference_options() -> dict[str, str]:
    """Return XLA's options for evaluation and prediction on the default backend.

    On a CPU, XLA fuses a product and the operations after it, up to the next sum or maximum and
    through further products, into one YNNPACK call. The classifier of VGG-16 then takes 1,630 ms,
    against 43 ms product by product; convolutions that are products are slower, too. Images/s of
    inference with and without fusion, on two Zen 4 cores: VGG-16 2.1 and 5.3, Inception-v3 6.9 and
    9.1, ResNet-20 836 and 951. Training keeps the fusion: its products have other shapes and are
    slower without it (ResNet-50 3.4 and 2.5).
    """
    # XLA refuses an unknown option, so it is set only for the versions it was measured with.
    if jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": ""}
