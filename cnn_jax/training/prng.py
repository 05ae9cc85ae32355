"""Random keys, derived from one seed by name, step and device, and never stored.

A run's randomness is a function of (seed, stream, step, device). Resuming therefore needs no key
in the checkpoint, and a new stream does not disturb the others.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def root(seed: int) -> Key[Array, ""]:
    """Make the root key of a run."""
    return jax.random.key(seed)


def stream(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """Derive the key of one named use of randomness: `init`, `augment`, `mix`, `dropout`, ..."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def step_keys(
    key: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None = None,
    microbatch: int | Int[Array, ""] = 0,
) -> dict[str, Key[Array, ""]]:
    """Derive the keys of one part of a training step.

    Args:
        key: the run's root key.
        step: the number of the step.
        axis_name: the mapped axis; each device along it gets its own `dropout` key.
        microbatch: the position within an accumulated batch.

    Returns:
        Three keys. `augment` is the same throughout the run; it is folded with each example's
        ordinal, so that an example's augmentation does not depend on the number of devices. `mix`
        is the same on every device, since mixing sees the whole batch. `dropout` differs.
    """

    def folded(name: str) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(stream(key, name), step), microbatch)

    dropout = folded("dropout")
    if axis_name is not None:
        dropout = jax.random.fold_in(dropout, jax.lax.axis_index(axis_name))
    return {"augment": stream(key, "augment"), "mix": folded("mix"), "dropout": dropout}
