"""A convolution, and the gradient with respect to its kernel, as matrix products.

Groups are not supported.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.ops.convolution_definition import Window
from cnn_jax.ops.cpu.image_blocks import (
    contract_pixels,
    map_blocks,
    pad,
    sum_over_blocks,
    tap,
    zeros,
)

# Bytes of matrix operands built at a time, so that they are still in the cache when multiplied.
# On two cores 1 to 4 MB measured alike and 16 MB up to twice as slow.
_BLOCK_BYTES = 2**20

# Fewer channels are slowly copied by a loop over taps.
_LOOPED_CHANNELS = 64


def by_product(x: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve with a 1x1 kernel by one matrix product."""
    pixels = tap(pad(x, window.padding), 0, 0, *window.out_size, window.strides)
    return lax.dot_general(pixels, kernel[0, 0], (((3,), (0,)), ((), ())))


def by_patches(x: Array, kernel: Array, *, window: Window, looped: bool = True) -> Array:
    """Convolve by products of patch matrices (im2col) with the kernel, a few images at a time.

    Args:
        x: images.
        kernel: filters.
        window: the window of the convolution.
        looped: gather the patches in a loop over taps. It is faster and compiles faster, but its
            transpose adds whole images once for each tap.
    """
    gather = _patches_by_loop if looped else _patches
    out_height, out_width = window.out_size
    out_channels = kernel.shape[3]

    def convolve(x):
        flat = kernel.reshape(-1, out_channels)
        return lax.dot_general(gather(x, window), flat, (((3,), (0,)), ((), ())))

    pixel_floats = kernel.size // out_channels + out_channels
    return map_blocks(convolve, x, 4 * out_height * out_width * pixel_floats, _BLOCK_BYTES)


def by_shared_shifts(x: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve with rows shifted on the input and columns shifted on the output.

    `out[p] = sum_j y[p + (0, j)]_j` with `y[q]_j = sum_i x[q + (i, 0)] kernel[i, j]`. One product
    `[pixels, rows * in_channels] x [rows * in_channels, columns * out_channels]` has all taps, and
    its operands are a fraction of the size of the patches. Strides must be 1.
    """
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    out_height, out_width = window.out_size
    row_step, column_step = window.dilation
    flat = kernel.transpose(0, 2, 1, 3).reshape(kernel_height * in_channels, -1)

    def convolve(x):
        x = pad(x, window.padding)
        # Without the barriers XLA computes an operand's elements again for every use.
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


def kernel_gradient_by_patches(x: Array, g: Array, *, window: Window) -> Array:
    """Compute the kernel's gradient by products of output gradients with patches (im2col).

    `[out_channels, pixels] x [pixels, taps * in_channels]`, a few images at a time, summed.
    """
    _, out_height, out_width, out_channels = g.shape
    kernel_height, kernel_width = window.kernel_size
    patch_floats = kernel_height * kernel_width * x.shape[3]

    gather = _patches_by_loop if x.shape[3] >= _LOOPED_CHANNELS else _patches

    def product(x, g):
        # With the wide operand second, the product is up to 1.5 times faster than with it first.
        return contract_pixels(g, gather(x, window))

    image_bytes = 4 * out_height * out_width * (patch_floats + out_channels)
    gradient = sum_over_blocks(product, x, g, image_bytes, _BLOCK_BYTES)
    return gradient.T.reshape(kernel_height, kernel_width, x.shape[3], out_channels)


def kernel_gradient_by_shared_shifts(x: Array, g: Array, *, window: Window) -> Array:
    """Compute the kernel's gradient with rows shifted on the input and columns on the gradient.

    `dW[i, j] = sum_p x[p + (i, j)] g[p] = sum_q x[q + (i, 0)] g[q - (0, j)]`. One product
    `[rows * in_channels, pixels] x [pixels, columns * out_channels]` has all taps, and its operands
    are a fraction of the size of the patches. Strides must be 1.
    """
    kernel_height, kernel_width = window.kernel_size
    in_channels = x.shape[3]
    _, out_height, out_width, out_channels = g.shape
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


def _patches(x: Array, window: Window) -> Array:
    """Gather what each output sees, `[batch, out_height, out_width, taps * in_channels]`."""
    kernel_height, kernel_width = window.kernel_size
    (row_stride, column_stride), (row_step, column_step) = window.strides, window.dilation
    x = pad(x, window.padding)
    row_offsets = range(0, kernel_height * row_step, row_step)
    column_offsets = range(0, kernel_width * column_step, column_step)
    if x.shape[3] < 8:
        # Copies of a few floats are slow: columns are gathered for all rows first.
        every_row = (x.shape[1], window.out_size[1], (1, column_stride))
        columns = [tap(x, 0, j, *every_row) for j in column_offsets]
        x = lax.optimization_barrier(jnp.concatenate(columns, axis=-1))
        taps = [tap(x, i, 0, *window.out_size, (row_stride, 1)) for i in row_offsets]
    else:
        taps = [
            tap(x, i, j, *window.out_size, window.strides)
            for i in row_offsets
            for j in column_offsets
        ]
    return jnp.concatenate(taps, axis=-1)


def _patches_by_loop(x: Array, window: Window) -> Array:
    """Gather what each output sees, as `_patches` does, by one program for all taps."""
    kernel_height, kernel_width = window.kernel_size
    taps = kernel_height * kernel_width
    out_height, out_width = window.out_size
    images, channels = x.shape[0], x.shape[3]
    cells, starts, zero = _cells(x, window), _tap_starts(window), np.int32(0)

    def copy_tap(patches, tap_and_start):
        tap, start = tap_and_start
        size = (images, out_height, 1, out_width, 1, channels)
        cut = lax.dynamic_slice(cells, (zero, *start, zero), size, allow_negative_indices=False)
        cut = cut.reshape(images, out_height, out_width, 1, channels)
        at = (zero, zero, zero, tap, zero)
        return lax.dynamic_update_slice(patches, cut, at, allow_negative_indices=False), None

    patches = zeros((images, out_height, out_width, taps, channels), x)
    patches, _ = lax.scan(copy_tap, patches, (np.arange(taps, dtype=np.int32), starts))
    return patches.reshape(images, out_height, out_width, taps * channels)


def _cells(x: Array, window: Window) -> Array:
    """Cut padded images into cells of the strides' size: `[batch, rows, stride, columns, ...]`."""
    padding, shape = [], [x.shape[0]]
    for axis in range(2):
        stride = window.strides[axis]
        reach = (window.kernel_size[axis] - 1) * window.dilation[axis]
        cells = window.out_size[axis] + reach // stride
        before = window.padding[axis][0]
        padding.append((before, stride * cells - window.image_size[axis] - before))
        shape += [cells, stride]
    # Without the barrier XLA pads the images again for every tap.
    return lax.optimization_barrier(pad(x, tuple(padding)).reshape(*shape, x.shape[3]))


def _tap_starts(window: Window) -> tuple[np.ndarray, ...]:
    """Find where each tap begins: row of cells, row in the cell, column of cells, and column."""
    tap = np.divmod(np.arange(window.kernel_size[0] * window.kernel_size[1]), window.kernel_size[1])
    pixels = (axis * step for axis, step in zip(tap, window.dilation, strict=True))
    starts = (np.divmod(a, stride) for a, stride in zip(pixels, window.strides, strict=True))
    return tuple(a.astype(np.int32) for start in starts for a in start)
