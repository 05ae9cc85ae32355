"""Convolution: one function that every model uses.

On accelerators it is the compiler's own. On a CPU XLA's convolutions lose to torch's, its weight
gradients by up to fifteen times, while its matrix products do not; so there the large ones are
written as matrix products over blocks of images that stay in the cache. `_forward_lowering` and
`_kernel_gradient_lowering` choose, shape by shape, and give the measurements.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Padding = str | Sequence[tuple[int, int]]
# An array; while functions are transformed, also a constant that JAX holds as a NumPy array.
Operand = Any


class Window(NamedTuple):
    """How the filter moves over the image: everything static about a convolution but its shapes."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


_as_defined: ContextVar[bool] = ContextVar("as_defined", default=False)


@contextmanager
def as_defined() -> Iterator[None]:
    """Trace convolutions as the one operation that they are: for counting their arithmetic."""
    token = _as_defined.set(True)
    try:
        yield
    finally:
        _as_defined.reset(token)


def conv(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels_per_group out_channels"],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Two-dimensional convolution (cross-correlation) of a batch of NHWC images.

    Equal to `jax.lax.conv_general_dilated` in values and gradients, and exactly that on
    accelerators. On a CPU only reverse-mode derivatives exist (of any order).

    Args:
        x: images or feature maps.
        kernel: filters, HWIO.
        strides: step of the window, rows and columns.
        padding: `"SAME"`, `"VALID"`, or zeros before and after for each spatial axis.
        dilation: spacing of the filter's taps, rows and columns.
        groups: number of channel groups convolved separately.
    """
    if isinstance(padding, str):
        extent = [
            (size - 1) * step + 1 for size, step in zip(kernel.shape[:2], dilation, strict=True)
        ]
        padding = lax.padtype_to_pads(x.shape[1:3], extent, strides, padding)
    rows, columns = padding
    window = Window(tuple(strides), (tuple(rows), tuple(columns)), tuple(dilation), groups)
    if jax.default_backend() == "cpu" and not _as_defined.get():
        return _cpu_conv(x, kernel, window)
    return by_compiler(x, kernel, window)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_conv(x: Operand, kernel: Operand, window: Window) -> Array:
    return _forward_lowering(x, kernel, window)(x, kernel, window)


def _cpu_conv_forward(
    x: Operand, kernel: Operand, window: Window
) -> tuple[Array, tuple[Operand, Operand]]:
    return _cpu_conv(x, kernel, window), (x, kernel)


def _cpu_conv_backward(
    window: Window, residuals: tuple[Operand, Operand], g: Operand
) -> tuple[Array, Array]:
    x, kernel = residuals
    kernel_gradient = _kernel_gradient_lowering(x, g, kernel, window)
    return input_gradient(x, g, kernel, window), kernel_gradient(x, g, kernel, window)


_cpu_conv.defvjp(_cpu_conv_forward, _cpu_conv_backward)


Forward = Callable[[Array, Array, Window], Array]
KernelGradient = Callable[[Array, Array, Array, Window], Array]


def _forward_lowering(x: Operand, kernel: Operand, window: Window) -> Forward:
    """The fastest way known to convolve these shapes on a CPU.

    GFLOP/s on one Zen 3 core, float32 (XLA / Winograd / torch):
        32x32   64->64       73 /  86 / 83
        16x16  128->128      74 / 110 / 96
        56x56   64->64       77 / 100 / 85
        28x28  128->128      77 / 107 / 96
        14x14  256->256      62 /  72 / 81
    With fewer channels its transforms weigh more than the products that they save.
    """
    if _only_compiler_knows(x, kernel, window):
        return by_compiler
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    height, width = _out_size(x, kernel, window)
    if (kernel_height, kernel_width) == (1, 1):
        return by_product
    if (
        (kernel_height, kernel_width) == (3, 3)
        and window.strides == window.dilation == (1, 1)
        and min(in_channels, out_channels) >= 64
        # Small maps do not pay for the kernel's transform.
        and min(height, width) >= 8
    ):
        return by_winograd
    return by_compiler


def _kernel_gradient_lowering(
    x: Operand, g: Operand, kernel: Operand, window: Window
) -> KernelGradient:
    """The fastest way known to compute the weight gradient of these shapes on a CPU.

    GFLOP/s on two Zen 3 cores, float32, batch 128 (XLA / patches / shared shifts / torch):
        32x32    3->16  3x3     3 / 34 / 25 / 74
        32x32   16->16  3x3     6 / 39 / 63 / 96
        16x16   32->32  3x3    23 / 50 / 65 / 78
         8x8    64->64  3x3    20 / 31 / 44 / 34
        32x32   64->64  3x3     4 / 30 / 39 / 43
        16x16 128->128  3x3    21 / 79 / 95 / 84
         8x8  256->256  3x3    55 / 114 / 107 / 118
         4x4  512->512  3x3    44 / 117 / 78 / 81
        32x32   48->12  3x3     2 / 15 / 37 / 48
        32x32  160->48  1x1     2 / 43 /  - / 66
    """
    if _only_compiler_knows(x, kernel, window):
        return kernel_gradient_by_compiler
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    padded_width = x.shape[2] + sum(window.padding[1])
    patches_channels = kernel_height * kernel_width * in_channels
    shared_channels = kernel_height * in_channels + kernel_width * out_channels
    if (
        window.strides == (1, 1)
        and kernel_width > 1
        and padded_width <= 1.25 * g.shape[2]
        and shared_channels < patches_channels
    ):
        return kernel_gradient_by_shared_shifts
    return kernel_gradient_by_patches


def _only_compiler_knows(x: Operand, kernel: Operand, window: Window) -> bool:
    """Groups, other types than float32 and empty arrays are left to XLA."""
    empty = 0 in x.shape or 0 in kernel.shape or 0 in _out_size(x, kernel, window)
    return window.groups > 1 or x.dtype != jnp.float32 or empty


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
    height, width = _out_size(x, kernel, window)
    pixels = _tap(_pad(x, window.padding), 0, 0, height, width, window.strides)
    return lax.dot_general(pixels, kernel[0, 0], (((3,), (0,)), ((), ())))


# Winograd's F(2x2, 3x3) (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks",
# section 4.1): transforms of a 4x4 input tile, of the 3x3 kernel, and to the 2x2 outputs.
_INPUT_TRANSFORM = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL_TRANSFORM = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT_TRANSFORM = ((1, 1, 1, 0), (0, 1, -1, -1))


def by_winograd(x: Operand, kernel: Operand, window: Window) -> Array:
    """A 3x3 convolution of stride 1 with 16 instead of 36 products for every 2x2 outputs.

    A few images at a time: tiles are transformed, multiplied as 16 matrix products
    `[tiles, in_channels] x [in_channels, out_channels]`, and transformed back. Rounding errors stay
    within a few times those of the direct sum.
    """
    _, height, width, in_channels = x.shape
    out_channels = kernel.shape[3]
    out_height, out_width = _out_size(x, kernel, window)
    rows, columns = -(-out_height // 2), -(-out_width // 2)
    (top, _), (left, _) = window.padding
    # Zeros at the end complete the last tiles of odd sizes.
    whole_tiles = (
        (top, 2 * rows + 2 - height - top),
        (left, 2 * columns + 2 - width - left),
    )
    kernels = _transform_tiles(_KERNEL_TRANSFORM, lambda i, j: kernel[i, j])
    kernels = jnp.stack([k for row in kernels for k in row])

    def convolve(x):
        # Barriers: without them XLA computes an operand's elements again for every use.
        x = lax.optimization_barrier(_pad(x, whole_tiles))
        stride = (2, 2)
        tiles = _transform_tiles(
            _INPUT_TRANSFORM, lambda i, j: _tap(x, i, j, rows, columns, stride)
        )
        tiles = jnp.stack([tile for row in tiles for tile in row]).reshape(16, -1, in_channels)
        tiles = lax.optimization_barrier(tiles)
        products = lax.dot_general(tiles, kernels, (((2,), (1,)), ((0,), (0,))))
        products = lax.optimization_barrier(products)
        products = products.reshape(4, 4, x.shape[0], rows, columns, out_channels)
        out = _transform_tiles(_OUTPUT_TRANSFORM, lambda i, j: products[i, j])
        out = jnp.stack([jnp.stack(row, axis=3) for row in out], axis=2)
        out = out.reshape(x.shape[0], 2 * rows, 2 * columns, out_channels)
        return out[:, :out_height, :out_width]

    image_bytes = 4 * 16 * rows * columns * (in_channels + out_channels)
    return _map_blocks(convolve, x, image_bytes)


def _transform_tiles(matrix, element: Callable[[int, int], Array]) -> list[list[Array]]:
    """`matrix @ element @ matrix.T` of a square matrix of arrays, given by its elements."""

    def combine(weights, terms):
        scaled = [
            term if weight == 1 else weight * term
            for weight, term in zip(weights, terms, strict=True)
            if weight
        ]
        return sum(scaled[1:], start=scaled[0])

    size = range(len(matrix[0]))
    elements = [[element(i, j) for j in size] for i in size]
    half = [[combine(row, [elements[i][j] for i in size]) for j in size] for row in matrix]
    return [[combine(column, row) for column in matrix] for row in half]


def input_gradient(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Gradient of the convolution with respect to `x`.

    With stride 1 it is the convolution of `g` with the kernel turned by 180 degrees, which has a
    choice of its own; others are derived.
    """
    if window.strides != (1, 1) or _only_compiler_knows(x, kernel, window):
        forward = _forward_lowering(x, kernel, window)
        (gradient,) = jax.linear_transpose(lambda x: forward(x, kernel, window), x)(g)
        return gradient
    margins = [(k - 1) * d for k, d in zip(kernel.shape[:2], window.dilation, strict=True)]
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    padding = tuple(
        (margin - before, size + before - g_size)
        for margin, (before, _), size, g_size in zip(
            margins, window.padding, x.shape[1:3], g.shape[1:3], strict=True
        )
    )
    full = window._replace(padding=padding)
    return _forward_lowering(g, turned, full)(g, turned, full)


def kernel_gradient_by_compiler(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Weight gradient as XLA derives it."""
    (gradient,) = jax.linear_transpose(lambda kernel: by_compiler(x, kernel, window), kernel)(g)
    return gradient


def kernel_gradient_by_patches(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Weight gradient as products of output gradients with patch matrices (im2col).

    A few images at a time: `[out_channels, pixels] x [pixels, taps * in_channels]`, summed.
    """
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    _, out_height, out_width, _ = g.shape

    def product(x, g):
        x = _pad(x, window.padding)
        taps = [
            _tap(
                x,
                i * window.dilation[0],
                j * window.dilation[1],
                out_height,
                out_width,
                window.strides,
            )
            for i in range(kernel_height)
            for j in range(kernel_width)
        ]
        # This way round: the wide operand second is up to 1.5 times faster than the wide one first.
        return _contract_pixels(g, jnp.concatenate(taps, axis=-1))

    pixel_floats = kernel_height * kernel_width * in_channels + out_channels
    gradient = _sum_over_blocks(product, x, g, 4 * out_height * out_width * pixel_floats)
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
        x = _pad(x, window.padding)
        margin = x.shape[2] - out_width
        rows = [x[:, i * row_step : i * row_step + out_height] for i in range(kernel_height)]
        shifts = [j * column_step for j in range(kernel_width)]
        columns = [_pad(g, ((0, 0), (shift, margin - shift))) for shift in shifts]
        return _contract_pixels(jnp.concatenate(rows, axis=-1), jnp.concatenate(columns, axis=-1))

    pixel_floats = kernel_height * in_channels + kernel_width * out_channels
    padded_width = x.shape[2] + sum(window.padding[1])
    gradient = _sum_over_blocks(product, x, g, 4 * out_height * padded_width * pixel_floats)
    gradient = gradient.reshape(kernel_height, in_channels, kernel_width, out_channels)
    return gradient.transpose(0, 2, 1, 3)


def _map_blocks(function: Callable[[Array], Array], x: Operand, image_bytes: int) -> Array:
    """`function(x)` in blocks of images whose operands stay in the cache."""
    images = x.shape[0]
    most = max(1, _BLOCK_BYTES // image_bytes)
    size = max(size for size in range(1, images + 1) if images % size == 0 and size <= most)
    if size == images:
        return function(x)
    out = lax.map(function, x.reshape(images // size, size, *x.shape[1:]))
    return out.reshape(images, *out.shape[2:])


def _sum_over_blocks(
    product: Callable[[Array, Array], Array], x: Operand, g: Operand, image_bytes: int
) -> Array:
    """Sums `product(x, g)` over blocks of images whose operands stay in the cache."""
    images = x.shape[0]
    size = max(1, min(images, _BLOCK_BYTES // image_bytes))
    blocks = images // size

    def add_block(total, start):
        # Cut out here: cutting all blocks beforehand would copy both arrays once more.
        block = (lax.dynamic_slice_in_dim(a, start, size) for a in (x, g))
        return total + product(*block), None

    rest = product(x[blocks * size :], g[blocks * size :])
    return lax.scan(add_block, rest, size * np.arange(blocks))[0]


def _contract_pixels(a: Array, b: Array) -> Array:
    """`[..., m], [..., n] -> [m, n]`, summed over all leading axes."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _out_size(x: Operand, kernel: Operand, window: Window) -> tuple[int, int]:
    """Rows and columns of the output."""
    sizes = []
    for axis in range(2):
        extent = (kernel.shape[axis] - 1) * window.dilation[axis] + 1
        free = x.shape[1 + axis] + sum(window.padding[axis]) - extent
        sizes.append(max(0, free // window.strides[axis] + 1))
    return sizes[0], sizes[1]


def _pad(x: Operand, padding: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """Adds zero rows and columns; negative numbers take them away."""
    config = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _tap(
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
