"""3x3 convolutions of stride 1, and their gradients, by Winograd's algorithm.

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1. Dilation and
groups are not supported.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.ops.convolution_definition import Window
from cnn_jax.ops.cpu.image_blocks import contract_pixels, map_blocks, pad, sum_over_blocks, tap

# F(2x2, 3x3): transforms of a 4x4 input tile, of the 3x3 kernel, and to the 2x2 outputs.
_INPUT_TRANSFORM = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT_TRANSFORM = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

# Bytes of transformed tiles held at a time, so that they are still in the cache when multiplied. On
# two Zen 4 cores 2 to 16 MB measured alike in whole training steps; more leaves the cache.
_TILES_BYTES = 2**23


def by_winograd(x: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve with 16 instead of 36 products for every 2x2 outputs.

    A few images are handled at a time. Their tiles are transformed, multiplied as 16 matrix
    products `[tiles, in_channels] x [in_channels, out_channels]`, and transformed back. Rounding
    errors stay within a few times those of the direct sum.
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
    return _winograd(g, _transformed(_KERNEL_TRANSFORM[:, ::-1], kernel), window, contracted=2)


def kernel_gradient_by_winograd(x: Array, g: Array, *, window: Window) -> Array:
    """Compute the kernel's gradient by the transposes of the transforms of `by_winograd`.

    Tiles of the input and of the output gradient are transformed and multiplied as 16 matrix
    products `[in_channels, tiles] x [tiles, out_channels]`, which are summed over blocks of images.
    The sums are transformed back once.
    """
    out_height, out_width = window.out_size
    in_channels, out_channels = x.shape[3], g.shape[3]
    block_bytes = _block_bytes(x.shape[0], window.out_size, in_channels, out_channels)
    tiling = _tiling(window, in_channels + out_channels, block_bytes)
    rows, columns = tiling.rows, tiling.columns
    padded_height = 2 * rows * tiling.strips
    whole_tiles = ((0, padded_height - out_height), (0, 2 * columns - out_width))

    def products(x, g):
        x, g = lax.optimization_barrier((_padded(x, tiling), g))
        operands = (
            _tiles(_INPUT_TRANSFORM, x, rows, columns),
            _tiles(_OUTPUT_TRANSFORM.T, g, rows, columns),
        )
        # Sixteen products are faster than one of stacked tiles, which are copied for it.
        operands = lax.optimization_barrier(operands)
        return jnp.stack([contract_pixels(a, b) for a, b in zip(*operands, strict=True)])

    x_strips = _strips(x, tiling)
    g_strips = pad(g, whole_tiles).reshape(-1, 2 * rows, 2 * columns, out_channels)
    sums = sum_over_blocks(products, x_strips, g_strips, tiling.strip_bytes, block_bytes)
    sums = sums.reshape(4, 4, in_channels, out_channels)
    return _transformed(_KERNEL_TRANSFORM.T, sums).reshape(3, 3, in_channels, out_channels)


def _winograd(x: Array, kernels: Array, window: Window, contracted: int = 1) -> Array:
    """Convolve with transformed kernels, `[16, channels, channels]`.

    Args:
        x: images.
        kernels: transformed kernels.
        window: the convolution's window.
        contracted: the axis of the kernels that holds the channels of `x`.
    """
    out_height, out_width = window.out_size
    images, _, _, in_channels = x.shape
    out_channels = kernels.shape[3 - contracted]
    block_bytes = _block_bytes(images, window.out_size, in_channels, out_channels)
    tiling = _tiling(window, in_channels + out_channels, block_bytes)
    rows, columns = tiling.rows, tiling.columns

    def convolve(strips):
        # Without the barriers XLA computes an operand's elements again for every use.
        strips = lax.optimization_barrier(_padded(strips, tiling))
        tiles = _tiles(_INPUT_TRANSFORM, strips, rows, columns)
        tiles = lax.optimization_barrier(jnp.stack(tiles))
        products = lax.dot_general(tiles, kernels, (((2,), (contracted,)), ((0,), (0,))))
        products = lax.optimization_barrier(products)
        products = products.reshape(4, 4, strips.shape[0], rows, columns, out_channels)
        out = _transform_tiles(_OUTPUT_TRANSFORM, lambda i, j: products[i, j])
        out = jnp.stack([jnp.stack(row, axis=3) for row in out], axis=2)
        return out.reshape(-1, 2 * rows, 2 * columns, out_channels)

    out = map_blocks(convolve, _strips(x, tiling), tiling.strip_bytes, block_bytes)
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
        strip_bytes: size of a strip's transformed tiles.
    """

    strips: int
    rows: int
    columns: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    strip_bytes: int


def _block_bytes(
    images: int, out_size: tuple[int, int], in_channels: int, out_channels: int
) -> int:
    """Compute the number of bytes of transformed tiles in a block.

    A block is not smaller than the kernels, for which the products would wait. Where a layer adds
    few channels, as in networks that concatenate, there are at least two blocks: outside of a loop
    XLA computes the long sums that are their gradients again for every tile that a pixel is in (a
    third of DenseNet-121's step). Elsewhere a loop costs more, since its sums run on one core.
    """
    block_bytes = _TILES_BYTES
    if 4 * min(in_channels, out_channels) <= max(in_channels, out_channels):
        rows, columns = (-(-size // 2) for size in out_size)
        tiles = images * rows * columns
        block_bytes = min(block_bytes, 4 * 16 * tiles * (in_channels + out_channels) // 2)
    return max(block_bytes, 4 * 16 * in_channels * out_channels)


def _tiling(window: Window, channels: int, block_bytes: int) -> _Tiling:
    """Choose strips of equal height that fit a block, if one row of tiles does."""
    rows, columns = (-(-size // 2) for size in window.out_size)
    (top, _), (left, _) = window.padding
    height, width = window.image_size
    padding = ((top, 2 * rows + 2 - height - top), (left, 2 * columns + 2 - width - left))
    row_bytes = 4 * 16 * columns * channels
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


def _tiles(matrix: np.ndarray, x: Array, rows: int, columns: int) -> list[Array]:
    """Transform the tiles that begin at every second pixel to 16 arrays `[tiles, channels]`."""
    stride = (2, 2)
    tiles = _transform_tiles(matrix, lambda i, j: tap(x, i, j, rows, columns, stride))
    return [tile.reshape(-1, x.shape[3]) for row in tiles for tile in row]


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
