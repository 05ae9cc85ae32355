"""The precision of losses and attention scores."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Widen bfloat16 and float16 to float32; leave float32 and float64 as they are."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
