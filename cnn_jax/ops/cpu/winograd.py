"""3x3 convolutions of stride 1, and their gradients, by Winograd's algorithm.

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1. Dilation and
groups are not supported.

The sixteen elements of a transformed tile are computed in a loop. So the compiler makes one program
of them instead of sixteen, and an element is multiplied while it is in the cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.ops.convolution_definition import Window
from cnn_jax.ops.cpu.image_blocks import contract_pixels, map_blocks, pad, sum_over_blocks

# F(2x2, 3x3): transforms of a 4x4 input tile, of the 3x3 kernel, and to the 2x2 outputs.
_INPUT_TRANSFORM = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT_TRANSFORM = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

# Bytes held at a time. Products stay until all sixteen are there; on two Zen 4 cores one block of
# all images was fastest, up to here. Of a kernel's gradient only one element of the tiles is held,
# and is multiplied while it is in the cache.
_PRODUCTS_BYTES = 2**26
_ELEMENT_BYTES = 2**21


def by_winograd(x: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve with 16 instead of 36 products for every 2x2 outputs.

    Each element of the tiles is a matrix `[tiles, in_channels]`. It is multiplied with the same
    element of the kernel, `[in_channels, out_channels]`, and the sixteen products are transformed
    back. Rounding errors stay within a few times those of the direct sum.
    """
    return _winograd(x, _transformed(_KERNEL_TRANSFORM, kernel), window)


def input_gradient_by_winograd(g: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve the output gradient with the kernel turned by 180 degrees.

    The transform turns the kernel, and the products exchange its channels. A turned copy would
    take longer than the products do.

    Args:
        g: the output gradient.
        kernel: the kernel as it is in the forward convolution.
        window: the window of the turned kernel over `g`.
    """
    return _winograd(g, _transformed(_KERNEL_TRANSFORM[:, ::-1], kernel), window, contracted=1)


def kernel_gradient_by_winograd(x: Array, g: Array, *, window: Window) -> Array:
    """Compute the kernel's gradient by the transposes of the transforms of `by_winograd`.

    Each element of the tiles of the input, `[in_channels, tiles]`, is multiplied with the same
    element of the tiles of the output gradient, `[tiles, out_channels]`. The sixteen products are
    summed over blocks of images and transformed back once.
    """
    out_height, out_width = window.out_size
    in_channels, out_channels = x.shape[3], g.shape[3]
    tiling = _tiling(window, in_channels + out_channels, _ELEMENT_BYTES)
    rows, columns = tiling.rows, tiling.columns
    padded_height = 2 * rows * tiling.strips
    whole_tiles = ((0, padded_height - out_height), (0, 2 * columns - out_width))

    def products(x, g):
        # Without the barriers XLA computes an operand's elements again for every use.
        x = lax.optimization_barrier(_padded(x, tiling))

        def product(elements):
            operands = (
                _tile_element(element, array, rows, columns)
                for element, array in zip(elements, (x, g), strict=True)
            )
            return contract_pixels(*lax.optimization_barrier(tuple(operands)))

        return lax.map(product, (_elements(_INPUT_TRANSFORM), _elements(_OUTPUT_TRANSFORM.T)))

    x_strips = _strips(x, tiling)
    g_strips = pad(g, whole_tiles).reshape(-1, 2 * rows, 2 * columns, out_channels)
    sums = sum_over_blocks(products, x_strips, g_strips, tiling.strip_bytes, _ELEMENT_BYTES)
    sums = sums.reshape(4, 4, in_channels, out_channels)
    return _transformed(_KERNEL_TRANSFORM.T, sums).reshape(3, 3, in_channels, out_channels)


def _winograd(x: Array, kernels: Array, window: Window, contracted: int = 0) -> Array:
    """Convolve with transformed kernels, `[16, channels, channels]`.

    Args:
        x: images.
        kernels: transformed kernels.
        window: the convolution's window.
        contracted: the axis of a kernel that holds the channels of `x`.
    """
    out_height, out_width = window.out_size
    images, _, _, in_channels = x.shape
    out_channels = kernels.shape[2 - contracted]
    tiling = _tiling(window, in_channels + 16 * out_channels, _PRODUCTS_BYTES)
    rows, columns = tiling.rows, tiling.columns

    def convolve(strips):
        # Without the barriers XLA computes an operand's elements again for every use.
        strips = lax.optimization_barrier(_padded(strips, tiling))

        def product(element_and_kernel):
            element, kernel = element_and_kernel
            tiles = lax.optimization_barrier(_tile_element(element, strips, rows, columns))
            return lax.dot_general(tiles, kernel, (((1,), (contracted,)), ((), ())))

        products = lax.map(product, (_elements(_INPUT_TRANSFORM), kernels))
        products = products.reshape(4, 4, strips.shape[0], rows, columns, out_channels)
        out = _transform_tiles(_OUTPUT_TRANSFORM, lambda i, j: products[i, j])
        out = jnp.stack([jnp.stack(row, axis=3) for row in out], axis=2)
        return out.reshape(-1, 2 * rows, 2 * columns, out_channels)

    out = map_blocks(convolve, _strips(x, tiling), tiling.strip_bytes, _PRODUCTS_BYTES)
    out = out.reshape(images, 2 * rows * tiling.strips, 2 * columns, out_channels)
    return out[:, :out_height, :out_width]


def _transformed(matrix: np.ndarray, elements: Array) -> Array:
    """Compute `matrix @ elements @ matrix.T` for every kernel of `[i, j, m, n]`: `[i * j, m, n]`.

    It is one product, since as sums each of the results would read all elements again.
    """
    size = len(matrix[0])
    both = np.kron(matrix, matrix).astype(elements.dtype)
    product = jnp.matmul(both, elements.reshape(size**2, -1))
    return product.reshape(-1, *elements.shape[2:])


class _Tiling(NamedTuple):
    """A cover of the output by tiles of 2x2 pixels.

    Attributes:
        strips: number of strips that an image is cut into, from top to bottom.
        rows: number of rows of tiles in a strip.
        columns: number of columns of tiles.
        padding: padding of the input; it completes the last tiles of odd sizes.
        strip_bytes: size of a strip's part of a block.
    """

    strips: int
    rows: int
    columns: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    strip_bytes: int


def _tiling(window: Window, channels: int, block_bytes: int) -> _Tiling:
    """Choose strips of equal height that fit a block, if one row of tiles does.

    Args:
        window: the convolution's window.
        channels: number of floats that a block holds for each tile.
        block_bytes: size that a block should not exceed.
    """
    rows, columns = (-(-size // 2) for size in window.out_size)
    (top, _), (left, _) = window.padding
    height, width = window.image_size
    padding = ((top, 2 * rows + 2 - height - top), (left, 2 * columns + 2 - width - left))
    row_bytes = 4 * columns * channels
    most = max(1, block_bytes // row_bytes)
    strip = max(size for size in range(1, rows + 1) if rows % size == 0 and size <= most)
    return _Tiling(rows // strip, strip, columns, padding, strip * row_bytes)


def _strips(x: Array, tiling: _Tiling) -> Array:
    """Cut images into strips, which overlap by two rows, as tiles do."""
    if tiling.strips == 1:
        return x
    x = pad(x, tiling.padding)
    height = 2 * tiling.rows
    cut = [x[:, start * height : (start + 1) * height + 2] for start in range(tiling.strips)]
    return jnp.stack(cut, axis=1).reshape(-1, height + 2, *x.shape[2:])


def _padded(strips: Array, tiling: _Tiling) -> Array:
    """Pad the images of a block, in the cache, unless they are strips, which are padded already."""
    return pad(strips, tiling.padding) if tiling.strips == 1 else strips


class _Elements(NamedTuple):
    """The sixteen elements of `matrix @ tile @ matrix.T`, each a sum of pixels of the tile.

    Attributes:
        starts: where the pixels are that an element needs, `[16, 2, 4]`: each of two rows, and each
            of two columns, as its number of whole pairs and its place in the pair.
        weights: the factors of the two rows and of the two columns, `[16, 2, 2]`.
    """

    starts: np.ndarray
    weights: np.ndarray


def _elements(matrix: np.ndarray) -> _Elements:
    """Find the pixels of each element; a row of the matrix has at most two numbers but 0."""
    taps = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :2], axis=1)
    weights = np.take_along_axis(matrix, taps, axis=1)
    row, column = np.divmod(np.arange(16), 4)
    rows, columns = (np.stack(np.divmod(taps[axis], 2), axis=2) for axis in (row, column))
    return _Elements(
        np.concatenate([rows, columns], axis=2).astype(np.int32),
        np.stack([weights[row], weights[column]], axis=1).astype(np.float32),
    )


def _tile_element(element: _Elements, x: Array, rows: int, columns: int) -> Array:
    """Compute an element of all tiles: `[tiles, channels]`.

    Args:
        element: one of the sixteen, as a loop over them gives it.
        x: images, cut into tiles that begin at every second pixel.
        rows: number of rows of tiles.
        columns: number of columns of tiles.
    """
    images, height, width, channels = x.shape
    pairs = x.reshape(images, height // 2, 2, width // 2, 2, channels)
    row_weights, column_weights = element.weights.astype(x.dtype)
    starts, zero = element.starts, np.int32(0)

    def pixels(first, second):
        row, column = starts[first, :2], starts[second, 2:]
        start = (zero, *row, *column, zero)
        cut = lax.dynamic_slice(
            pairs, start, (images, rows, 1, columns, 1, channels), allow_negative_indices=False
        )
        return cut.reshape(-1, channels)

    half = [
        row_weights[0] * pixels(0, second) + row_weights[1] * pixels(1, second) for second in (0, 1)
    ]
    return column_weights[0] * half[0] + column_weights[1] * half[1]


def _transform_tiles(matrix: np.ndarray, element: Callable[[int, int], Array]) -> list[list[Array]]:
    """Compute `matrix @ elements @ matrix.T`, where the elements are arrays."""

    def combine(weights, terms):
        scaled = [
            term if weight == 1 else -term if weight == -1 else weight * term
            for weight, term in zip(weights, terms, strict=True)
            if weight
        ]
        return sum(scaled[1:], start=scaled[0])

    size = range(len(matrix[0]))
    elements = [[element(i, j) for j in size] for i in size]
    half = [[combine(row, [elements[i][j] for i in size]) for j in size] for row in matrix]
    return [[combine(column, row) for column in matrix] for row in half]
