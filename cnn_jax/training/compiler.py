"""Flags of XLA, the compiler."""

import os

import jax


def set_flags(*, deterministic: bool = False) -> None:
    """Add to XLA_FLAGS what runs want and the environment does not say otherwise.

    To be called before JAX starts its backend.

    Args:
        deterministic: Only kernels on a GPU that repeat to the last bit.
    """
    wanted = {}
    # Of this flag only the versions that it was measured with: XLA ends the process over one that
    # it does not know.
    if jax.__version_info__ < (0, 11):
        # On a CPU, XLA hands products and all that follows them, up to the next sum or maximum, to
        # YNNPACK as one piece. Of VGG-16's classifier that is 1,630 ms where the products by
        # themselves take 43; convolutions computed by products lose a quarter.
        wanted["--xla_cpu_experimental_ynn_fusion_type"] = ""
    if deterministic:
        wanted["--xla_gpu_deterministic_ops"] = "true"
    said = os.environ.get("XLA_FLAGS", "").split()
    names = {flag.partition("=")[0] for flag in said}
    said += [f"{name}={value}" for name, value in wanted.items() if name not in names]
    if said:
        os.environ["XLA_FLAGS"] = " ".join(said)
