"""What lowerings of a convolution share: its window, and blocks of images that fit the cache."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# An array; while functions are transformed, also a constant that JAX holds as a NumPy array.
Operand = Any


class Window(NamedTuple):
    """How the filter moves over the image: everything static about a convolution but its shapes."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


def map_blocks(
    function: Callable[[Array], Array], x: Operand, image_bytes: int, block_bytes: int
) -> Array:
    """`function(x)` in blocks of images whose operands stay in the cache."""
    images = x.shape[0]
    most = max(1, block_bytes // image_bytes)
    size = max(size for size in range(1, images + 1) if images % size == 0 and size <= most)
    if size == images:
        return function(x)
    out = lax.map(function, x.reshape(images // size, size, *x.shape[1:]))
    return out.reshape(images, *out.shape[2:])


def sum_over_blocks(
    product: Callable[[Array, Array], Array],
    x: Operand,
    g: Operand,
    image_bytes: int,
    block_bytes: int,
) -> Array:
    """Sums `product(x, g)` over blocks of images whose operands stay in the cache."""
    images = x.shape[0]
    size = max(1, min(images, block_bytes // image_bytes))
    blocks = images // size

    def add_block(total, start):
        # Cut out here: cutting all blocks beforehand would copy both arrays once more.
        block = (lax.dynamic_slice_in_dim(a, start, size) for a in (x, g))
        return total + product(*block), None

    rest = product(x[blocks * size :], g[blocks * size :])
    return lax.scan(add_block, rest, size * np.arange(blocks))[0]


def contract_pixels(a: Array, b: Array) -> Array:
    """`[..., m], [..., n] -> [m, n]`, summed over all leading axes."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def output_size(x: Operand, kernel: Operand, window: Window) -> tuple[int, int]:
    """Rows and columns of the output."""
    sizes = []
    for axis in range(2):
        extent = (kernel.shape[axis] - 1) * window.dilation[axis] + 1
        free = x.shape[1 + axis] + sum(window.padding[axis]) - extent
        sizes.append(max(0, free // window.strides[axis] + 1))
    return sizes[0], sizes[1]


def pad(x: Operand, padding: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """Adds zero rows and columns; negative numbers take them away."""
    config = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def tap(
    x: Operand, row: int, column: int, height: int, width: int, strides: tuple[int, int]
) -> Array:
    """Every stride-th pixel from `(row, column)` on, `height` rows and `width` columns of them."""
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
