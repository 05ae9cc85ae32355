"""Ways to compute a convolution, and its weight gradient: XLA's own, and as matrix products."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.ops.cpu.image_blocks import (
    Operand,
    Window,
    contract_pixels,
    map_blocks,
    output_size,
    pad,
    sum_over_blocks,
    tap,
)

# Bytes of matrix operands built at a time, so that they are still in the cache when multiplied.
# On two cores 1 to 4 MB measured alike and 16 MB up to twice as slow.
_BLOCK_BYTES = 2**20


def by_compiler(x: Operand, kernel: Operand, window: Window) -> Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def by_product(x: Operand, kernel: Operand, window: Window) -> Array:
    """A 1x1 convolution as the matrix product it is."""
    height, width = output_size(x, kernel, window)
    pixels = tap(pad(x, window.padding), 0, 0, height, width, window.strides)
    return lax.dot_general(pixels, kernel[0, 0], (((3,), (0,)), ((), ())))


def by_patches(x: Operand, kernel: Operand, window: Window) -> Array:
    """Products of patch matrices (im2col) with the kernel, a few images at a time."""
    out_size = output_size(x, kernel, window)
    out_channels = kernel.shape[3]

    def convolve(x):
        patches = _patches(x, kernel.shape[:2], window, out_size)
        flat = kernel.reshape(-1, out_channels)
        return lax.dot_general(patches, flat, (((3,), (0,)), ((), ())))

    pixel_floats = kernel.size // out_channels + out_channels
    return map_blocks(convolve, x, 4 * out_size[0] * out_size[1] * pixel_floats, _BLOCK_BYTES)


def by_shared_shifts(x: Operand, kernel: Operand, window: Window) -> Array:
    """Rows shifted on the input, columns shifted on the output; strides must be 1.

    `out[p] = sum_j y[p + (0, j)]_j` with `y[q]_j = sum_i x[q + (i, 0)] kernel[i, j]`: one product
    `[pixels, rows * in_channels] x [rows * in_channels, columns * out_channels]` has all taps, from
    operands a fraction of the size of the patches.
    """
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    out_height, out_width = output_size(x, kernel, window)
    row_step, column_step = window.dilation
    flat = kernel.transpose(0, 2, 1, 3).reshape(kernel_height * in_channels, -1)

    def convolve(x):
        x = pad(x, window.padding)
        # Barriers: without them XLA computes an operand's elements again for every use.
        rows = [x[:, i * row_step : i * row_step + out_height] for i in range(kernel_height)]
        rows = lax.optimization_barrier(jnp.concatenate(rows, axis=-1))
        products = lax.dot_general(rows, flat, (((3,), (0,)), ((), ())))
        products = lax.optimization_barrier(products)
        products = products.reshape(*products.shape[:3], kernel_width, out_channels)
        shifts = range(0, kernel_width * column_step, column_step)
        columns = [products[:, :, s : s + out_width, j] for j, s in enumerate(shifts)]
        return sum(columns[1:], start=columns[0])

    padded_width = x.shape[2] + sum(window.padding[1])
    pixel_floats = kernel_height * in_channels + kernel_width * out_channels
    return map_blocks(convolve, x, 4 * out_height * padded_width * pixel_floats, _BLOCK_BYTES)


def kernel_gradient_by_compiler(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Weight gradient as XLA derives it."""
    (gradient,) = jax.linear_transpose(lambda kernel: by_compiler(x, kernel, window), kernel)(g)
    return gradient


def kernel_gradient_by_patches(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Weight gradient as products of output gradients with patch matrices (im2col).

    A few images at a time: `[out_channels, pixels] x [pixels, taps * in_channels]`, summed.
    """
    _, out_height, out_width, out_channels = g.shape

    def product(x, g):
        patches = _patches(x, kernel.shape[:2], window, (out_height, out_width))
        # This way round: the wide operand second is up to 1.5 times faster than the wide one first.
        return contract_pixels(g, patches)

    pixel_floats = kernel.size // out_channels + out_channels
    image_bytes = 4 * out_height * out_width * pixel_floats
    gradient = sum_over_blocks(product, x, g, image_bytes, _BLOCK_BYTES)
    return gradient.T.reshape(kernel.shape)


def kernel_gradient_by_shared_shifts(
    x: Operand, g: Operand, kernel: Operand, window: Window
) -> Array:
    """Weight gradient with rows shifted on the input and columns shifted on the output gradient.

    `dW[i, j] = sum_p x[p + (i, j)] g[p] = sum_q x[q + (i, 0)] g[q - (0, j)]`: one product
    `[rows * in_channels, pixels] x [pixels, columns * out_channels]` has all taps, from operands a
    fraction of the size of the patches. Strides must be 1.
    """
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    _, out_height, out_width, _ = g.shape
    row_step, column_step = window.dilation

    def product(x, g):
        x = pad(x, window.padding)
        margin = x.shape[2] - out_width
        rows = [x[:, i * row_step : i * row_step + out_height] for i in range(kernel_height)]
        shifts = [j * column_step for j in range(kernel_width)]
        columns = [pad(g, ((0, 0), (shift, margin - shift))) for shift in shifts]
        return contract_pixels(jnp.concatenate(rows, axis=-1), jnp.concatenate(columns, axis=-1))

    pixel_floats = kernel_height * in_channels + kernel_width * out_channels
    padded_width = x.shape[2] + sum(window.padding[1])
    image_bytes = 4 * out_height * padded_width * pixel_floats
    gradient = sum_over_blocks(product, x, g, image_bytes, _BLOCK_BYTES)
    gradient = gradient.reshape(kernel_height, in_channels, kernel_width, out_channels)
    return gradient.transpose(0, 2, 1, 3)


def _patches(
    x: Operand, kernel_size: tuple[int, ...], window: Window, out_size: tuple[int, int]
) -> Array:
    """What each output pixel sees, `[batch, out_height, out_width, taps * in_channels]`."""
    kernel_height, kernel_width = kernel_size
    (row_stride, column_stride), (row_step, column_step) = window.strides, window.dilation
    x = pad(x, window.padding)
    row_offsets = range(0, kernel_height * row_step, row_step)
    column_offsets = range(0, kernel_width * column_step, column_step)
    if x.shape[3] < 8:
        # Copies of a few floats are slow: columns are gathered for all rows first.
        every_row = (x.shape[1], out_size[1], (1, column_stride))
        columns = [tap(x, 0, j, *every_row) for j in column_offsets]
        x = lax.optimization_barrier(jnp.concatenate(columns, axis=-1))
        taps = [tap(x, i, 0, *out_size, (row_stride, 1)) for i in row_offsets]
    else:
        taps = [
            tap(x, i, j, *out_size, window.strides) for i in row_offsets for j in column_offsets
        ]
    return jnp.concatenate(taps, axis=-1)
