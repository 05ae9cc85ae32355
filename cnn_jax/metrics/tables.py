"""Tables of a whole set, filled batch by batch: what a metric needs that ranks all of a set."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num, Shaped


def set_table(
    values: Shaped[Array, "batch *row"],
    index: Int[Array, " batch"],
    valid: Bool[Array, " batch"],
    size: int,
) -> Num[Array, "{size} *row"]:
    """A batch's rows at their places in a table of the whole set, zeros elsewhere.

    Every example fills its own row once, so tables of batches, devices and processes add up to
    the set's own values to the last bit.

    Args:
        values: one row an example; booleans become 0 and 1, so that tables add.
        index: the examples' positions in the set, below `size`.
        valid: which examples count.
        size: number of examples of the set.
    """
    if values.dtype == bool:
        values = values.astype(jnp.int32)
    place = jnp.where(valid, index, size)
    return jnp.zeros((size, *values.shape[1:]), values.dtype).at[place].add(values, mode="drop")
