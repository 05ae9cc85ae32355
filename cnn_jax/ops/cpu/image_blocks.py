"""Blocks of images that fit the cache, and the cuts and products that the lowerings share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def map_blocks(
    function: Callable[[Array], Array], x: Array, image_bytes: int, block_bytes: int
) -> Array:
    """Apply a function to images, a block at a time, so that its operands stay in the cache.

    Args:
        function: maps images to arrays with the same first axis.
        x: images.
        image_bytes: size of one image's operands within the function.
        block_bytes: size that a block's operands should not exceed.
    """
    images = x.shape[0]
    most = max(1, block_bytes // image_bytes)
    size = max(size for size in range(1, images + 1) if images % size == 0 and size <= most)
    if size == images:
        return function(x)
    out = lax.map(function, x.reshape(images // size, size, *x.shape[1:]))
    return out.reshape(images, *out.shape[2:])


def sum_over_blocks(
    product: Callable[[Array, Array], Array],
    x: Array,
    g: Array,
    image_bytes: int,
    block_bytes: int,
) -> Array:
    """Sum `product(x, g)` over blocks of images, whose operands stay in the cache.

    Args:
        product: maps images and their output gradients to an array that adds up over images.
        x: images.
        g: output gradients.
        image_bytes: size of one image's operands within the product.
        block_bytes: size that a block's operands should not exceed.
    """
    images = x.shape[0]
    size = max(1, min(images, block_bytes // image_bytes))
    blocks = images // size

    def add_block(total, start):
        # The blocks are cut out here, since cutting all of them beforehand would copy both arrays.
        block = (lax.dynamic_slice_in_dim(a, start, size) for a in (x, g))
        return total + product(*block), None

    if blocks * size < images:
        rest = product(x[blocks * size :], g[blocks * size :])
    else:
        shape = jax.eval_shape(product, x[:size], g[:size])
        rest = zeros(shape.shape, g)
    return lax.scan(add_block, rest, size * np.arange(blocks))[0]


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Make zeros of the type of another array, which vary over the same axes of `jax.shard_map`."""
    varying = tuple(jax.typeof(like).manual_axis_type.varying)
    return lax.pcast(jnp.zeros(shape, like.dtype), varying, to="varying")


def contract_pixels(a: Array, b: Array) -> Array:
    """Multiply `[..., m]` by `[..., n]` to `[m, n]`, summed over all leading axes."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def pad(x: Array, padding: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """Add zero rows and columns; negative numbers crop."""
    config = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def tap(
    x: Array, row: int, column: int, height: int, width: int, strides: tuple[int, int]
) -> Array:
    """Take `height` x `width` pixels from `(row, column)` on, `strides` apart."""
    row_stride, column_stride = strides
    return lax.slice(
        x,
        (0, row, column, 0),
        (
            x.shape[0],
            row + (height - 1) * row_stride + 1,
            column + (width - 1) * column_stride + 1,
            x.shape[3],
        ),
        (1, row_stride, column_stride, 1),
    )
