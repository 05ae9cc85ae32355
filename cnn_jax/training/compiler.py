"""How XLA compiles what does not train."""

from collections.abc import Callable
from typing import Any

import jax


def compile_inference(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, with the options that predictions want."""
    return jax.jit(function, compiler_options=inference_options())


def inference_options() -> dict[str, str]:
    """XLA's options for evaluation and prediction on the default backend.

    On a CPU, XLA hands a product and what follows it, up to the next sum or maximum and through
    further products, to YNNPACK as one piece. The classifier of VGG-16 takes 1,630 ms so, and 43
    ms product by product; convolutions that are products are slower, too. Images/s of
    inference with and without it, on two Zen 4 cores: VGG-16 2.1 and 5.3, Inception-v3 6.9 and 9.1,
    ResNet-20 836 and 951. Training keeps it: its products, of other shapes, lose without it
    (ResNet-50 3.4 and 2.5).
    """
    # XLA refuses an option that it does not know: only for the versions that it was measured with.
    if jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": ""}
