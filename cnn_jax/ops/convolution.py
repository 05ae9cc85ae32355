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
        return _cpu_conv(x, *_without_idle_taps(x, kernel, window))
    return by_compiler(x, kernel, window)


def _without_idle_taps(x: Operand, kernel: Operand, window: Window) -> tuple[Operand, Window]:
    """The kernel without its outer taps that see only padding, as on maps of a few pixels."""
    kept, padding = [], []
    for axis, outputs in enumerate(_out_size(x, kernel, window)):
        step, (before, after) = window.dilation[axis], window.padding[axis]
        taps = kernel.shape[axis]
        reached = range(0, outputs * window.strides[axis], window.strides[axis])
        seeing = [
            tap
            for tap in range(taps)
            if any(0 <= tap * step - before + start < x.shape[1 + axis] for start in reached)
        ]
        first, last = (seeing[0], seeing[-1]) if seeing else (0, taps - 1)
        kept.append(slice(first, last + 1))
        padding.append((before - first * step, after - (taps - 1 - last) * step))
    return kernel[tuple(kept)], window._replace(padding=tuple(padding))


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

    GFLOP/s on one Zen 4 core, float32 (XLA / patches / Winograd / torch; shared shifts, where they
    are best: 34 for 3->16):
        16 x 56x56   64->64   3x3        98 /  60 / 155 / 114
        16 x 28x28  128->128  3x3        98 /  89 / 192 / 117
        16 x 14x14  256->256  3x3        96 /  95 / 198 / 122
        16 x 28x28  128->256  3x3, by 2  77 /  86 /  -  / 110
        16 x 14x14  256->512  3x3, by 2  85 /  98 /  -  / 114
        128 x 32x32   3->16   3x3        13 /  16 /   9 /  79
        128 x 32x32  16->16   3x3        50 /  36 /  50 /  97
        128 x 16x16  32->32   3x3        90 /  54 / 122 / 106
        128 x   8x8  64->64   3x3       103 /  80 / 158 / 124
        128 x   2x2 256->256  3x3         4 /  82 / 157 / 104
        128 x   2x2 256->512  3x3, by 2   1 /  80 /  -  /  62
    """
    if _only_compiler_knows(x, kernel, window):
        return by_compiler
    in_channels = kernel.shape[2]
    if kernel.shape[:2] == (1, 1):
        return by_product
    if _winograd_pays(x, kernel, window):
        return by_winograd
    if in_channels < 8 and window.strides == (1, 1):
        return by_shared_shifts
    if in_channels >= 128 or min(_out_size(x, kernel, window)) < 4:
        return by_patches
    return by_compiler


def _kernel_gradient_lowering(
    x: Operand, g: Operand, kernel: Operand, window: Window
) -> KernelGradient:
    """The fastest way known to compute the weight gradient of these shapes on a CPU.

    GFLOP/s on one Zen 4 core, float32 (patches / shared shifts / Winograd / torch); XLA's own stays
    below 10 with few channels:
        16 x 56x56   64->64   3x3        70 /  70 /  96 / 102
        16 x 28x28  128->128  3x3        89 /  81 / 143 /  94
        16 x 14x14  256->256  3x3        93 /  80 / 148 / 110
        16 x 56x56   64->128  3x3, by 2  84 /   - /   - /  84
        8 x 224x224   3->64   7x7, by 2  43 /   - /   - /  82
        128 x 32x32   3->16   3x3        32 /  20 /   - /  99
        128 x 32x32  16->16   3x3        53 /  49 /  32 / 108
        128 x 16x16  32->32   3x3        63 /  53 /  71 / 104
        128 x   8x8  64->64   3x3        76 /  62 / 100 /  97
        128 x   2x2 256->256  3x3        86 /  46 / 137 /  77
    """
    if _only_compiler_knows(x, kernel, window):
        return kernel_gradient_by_compiler
    if _winograd_pays(x, kernel, window):
        return kernel_gradient_by_winograd
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


def _winograd_pays(x: Operand, kernel: Operand, window: Window) -> bool:
    """Not with few channels or tiles: transforms then weigh more than the products they save."""
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    height, width = _out_size(x, kernel, window)
    tiles = x.shape[0] * -(-height // 2) * -(-width // 2)
    return (
        (kernel_height, kernel_width) == (3, 3)
        and window.strides == window.dilation == (1, 1)
        and min(in_channels, out_channels) >= 32
        and tiles >= 64
    )


def _only_compiler_knows(x: Operand, kernel: Operand, window: Window) -> bool:
    """Groups, other types than float32 and empty arrays are left to XLA."""
    empty = 0 in x.shape or 0 in kernel.shape or 0 in _out_size(x, kernel, window)
    return window.groups > 1 or x.dtype != jnp.float32 or empty


# Bytes of matrix operands built at a time, so that they are still in the cache when multiplied.
# On two cores 1 to 4 MB measured alike and 16 MB up to twice as slow.
_BLOCK_BYTES = 2**20

# The same for Winograd's transformed tiles. On two Zen 4 cores 2 to 16 MB measured alike in whole
# training steps; more leaves the cache.
_TILES_BYTES = 2**23


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


def by_patches(x: Operand, kernel: Operand, window: Window) -> Array:
    """Products of patch matrices (im2col) with the kernel, a few images at a time."""
    out_size = _out_size(x, kernel, window)
    out_channels = kernel.shape[3]

    def convolve(x):
        patches = _patches(x, kernel.shape[:2], window, out_size)
        flat = kernel.reshape(-1, out_channels)
        return lax.dot_general(patches, flat, (((3,), (0,)), ((), ())))

    pixel_floats = kernel.size // out_channels + out_channels
    return _map_blocks(convolve, x, 4 * out_size[0] * out_size[1] * pixel_floats, _BLOCK_BYTES)


def by_shared_shifts(x: Operand, kernel: Operand, window: Window) -> Array:
    """Rows shifted on the input, columns shifted on the output; strides must be 1.

    `out[p] = sum_j y[p + (0, j)]_j` with `y[q]_j = sum_i x[q + (i, 0)] kernel[i, j]`: one product
    `[pixels, rows * in_channels] x [rows * in_channels, columns * out_channels]` has all taps, from
    operands a fraction of the size of the patches.
    """
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    out_height, out_width = _out_size(x, kernel, window)
    row_step, column_step = window.dilation
    flat = kernel.transpose(0, 2, 1, 3).reshape(kernel_height * in_channels, -1)

    def convolve(x):
        x = _pad(x, window.padding)
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
    return _map_blocks(convolve, x, 4 * out_height * padded_width * pixel_floats, _BLOCK_BYTES)


# Winograd's F(2x2, 3x3) (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks",
# section 4.1): transforms of a 4x4 input tile, of the 3x3 kernel, and to the 2x2 outputs.
_INPUT_TRANSFORM = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OUTPUT_TRANSFORM = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def by_winograd(x: Operand, kernel: Operand, window: Window) -> Array:
    """A 3x3 convolution of stride 1 with 16 instead of 36 products for every 2x2 outputs.

    A few images at a time: tiles are transformed, multiplied as 16 matrix products
    `[tiles, in_channels] x [in_channels, out_channels]`, and transformed back. Rounding errors stay
    within a few times those of the direct sum.
    """
    return _winograd(
        x, _transformed(_KERNEL_TRANSFORM, kernel), window, _out_size(x, kernel, window)
    )


def _input_gradient_by_winograd(g: Operand, kernel: Operand, full: Window) -> Array:
    """`by_winograd` of the output gradient with the kernel turned by 180 degrees.

    It is turned by its transform, and its channels change places in the products: as a copy that
    would take longer than they do.
    """
    turning = _KERNEL_TRANSFORM[:, ::-1]
    kernels = _transformed(turning, kernel)
    return _winograd(g, kernels, full, _out_size(g, kernel, full), contracted=2)


def _winograd(
    x: Operand,
    kernels: Array,
    window: Window,
    out_size: tuple[int, int],
    contracted: int = 1,
) -> Array:
    """Convolution with transformed kernels, `[16, channels, channels]`.

    Args:
        contracted: the axis of the kernels that holds the channels of `x`.
    """
    out_height, out_width = out_size
    images, _, _, in_channels = x.shape
    out_channels = kernels.shape[3 - contracted]
    # Fewer tiles than that, and the products would wait for the kernels.
    block_bytes = max(_TILES_BYTES, 4 * kernels.size)
    tiling = _tiling(x, window, out_size, in_channels + out_channels, block_bytes)
    rows, columns = tiling.rows, tiling.columns

    def convolve(strips):
        # Barriers: without them XLA computes an operand's elements again for every use.
        strips = lax.optimization_barrier(_padded(strips, tiling))
        tiles = _tiles(_INPUT_TRANSFORM, strips, rows, columns)
        tiles = lax.optimization_barrier(jnp.stack(tiles))
        products = lax.dot_general(tiles, kernels, (((2,), (contracted,)), ((0,), (0,))))
        products = lax.optimization_barrier(products)
        products = products.reshape(4, 4, strips.shape[0], rows, columns, out_channels)
        out = _transform_tiles(_OUTPUT_TRANSFORM, lambda i, j: products[i, j])
        out = jnp.stack([jnp.stack(row, axis=3) for row in out], axis=2)
        return out.reshape(-1, 2 * rows, 2 * columns, out_channels)

    out = _map_blocks(convolve, _strips(x, tiling), tiling.strip_bytes, block_bytes)
    out = out.reshape(images, 2 * rows * tiling.strips, 2 * columns, out_channels)
    return out[:, :out_height, :out_width]


def _transformed(matrix: np.ndarray, elements: Operand) -> Array:
    """`matrix @ element @ matrix.T` of a square of matrices `[i, j, m, n]`, as `[i * j, m, n]`.

    For kernels: one product, since as sums each of the results would read all elements again.
    """
    size = len(matrix[0])
    both = np.kron(matrix, matrix).astype(elements.dtype)
    product = jnp.matmul(both, elements.reshape(size**2, -1))
    return product.reshape(-1, *elements.shape[2:])


class _Tiling(NamedTuple):
    """How the output is covered by tiles of 2x2 pixels.

    Attributes:
        strips: parts that an image is cut into, from top to bottom.
        rows, columns: of tiles, in a strip.
        padding: of the input, which completes the last tiles of odd sizes.
        strip_bytes: size of a strip's transformed tiles.
    """

    strips: int
    rows: int
    columns: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    strip_bytes: int


def _tiling(
    x: Operand, window: Window, out_size: tuple[int, int], channels: int, block_bytes: int
) -> _Tiling:
    """Strips of equal height that fit a block, if one row of tiles does."""
    rows, columns = (-(-size // 2) for size in out_size)
    (top, _), (left, _) = window.padding
    height, width = x.shape[1:3]
    padding = ((top, 2 * rows + 2 - height - top), (left, 2 * columns + 2 - width - left))
    row_bytes = 4 * 16 * columns * channels
    most = max(1, block_bytes // row_bytes)
    strip = max(size for size in range(1, rows + 1) if rows % size == 0 and size <= most)
    return _Tiling(rows // strip, strip, columns, padding, strip * row_bytes)


def _strips(x: Operand, tiling: _Tiling) -> Operand:
    """Images cut into strips, which overlap by the two rows that tiles do."""
    if tiling.strips == 1:
        return x
    x = _pad(x, tiling.padding)
    height = 2 * tiling.rows
    cut = [x[:, start * height : (start + 1) * height + 2] for start in range(tiling.strips)]
    return jnp.stack(cut, axis=1).reshape(-1, height + 2, *x.shape[2:])


def _padded(strips: Operand, tiling: _Tiling) -> Operand:
    """Strips of a block. Whole images are padded only here, in the cache."""
    return _pad(strips, tiling.padding) if tiling.strips == 1 else strips


def _tiles(matrix, x: Operand, rows: int, columns: int) -> list[Array]:
    """Transformed tiles that begin at every second pixel: 16 arrays `[tiles, channels]`."""
    stride = (2, 2)
    tiles = _transform_tiles(matrix, lambda i, j: _tap(x, i, j, rows, columns, stride))
    return [tile.reshape(-1, x.shape[3]) for row in tiles for tile in row]


def _transform_tiles(matrix: np.ndarray, element: Callable[[int, int], Array]) -> list[list[Array]]:
    """`matrix @ element @ matrix.T` of a square matrix of arrays, given by its elements."""

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


def input_gradient(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Gradient of the convolution with respect to `x`.

    With stride 1 it is the convolution of `g` with the kernel turned by 180 degrees, which has a
    choice of its own; others are derived.
    """
    if window.strides != (1, 1) or _only_compiler_knows(x, kernel, window):
        forward = _forward_lowering(x, kernel, window)
        if forward is by_compiler and not _only_compiler_knows(x, kernel, window):
            # XLA / patches, GFLOP/s on one core: 27 / 53 (16->32 on 32x32), 5 / 90 (128->256 on
            # 4x4), alike on large maps.
            forward = by_patches
        (gradient,) = jax.linear_transpose(lambda x: forward(x, kernel, window), x)(g)
        return gradient
    margins = [(k - 1) * d for k, d in zip(kernel.shape[:2], window.dilation, strict=True)]
    padding = tuple(
        (margin - before, size + before - g_size)
        for margin, (before, _), size, g_size in zip(
            margins, window.padding, x.shape[1:3], g.shape[1:3], strict=True
        )
    )
    full = window._replace(padding=padding)
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    lowering = _forward_lowering(g, turned, full)
    if lowering is by_winograd:
        return _input_gradient_by_winograd(g, kernel, full)
    return lowering(g, turned, full)


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
        return _contract_pixels(g, patches)

    pixel_floats = kernel.size // out_channels + out_channels
    image_bytes = 4 * out_height * out_width * pixel_floats
    gradient = _sum_over_blocks(product, x, g, image_bytes, _BLOCK_BYTES)
    return gradient.T.reshape(kernel.shape)


def kernel_gradient_by_winograd(x: Operand, g: Operand, kernel: Operand, window: Window) -> Array:
    """Weight gradient of a 3x3 convolution of stride 1, derived from `by_winograd`.

    Tiles of the input and of the output gradient are transformed, multiplied as 16 matrix products
    `[in_channels, tiles] x [tiles, out_channels]` that are summed over blocks of images, and the
    sums transformed back, once.
    """
    _, out_height, out_width, _ = g.shape
    in_channels, out_channels = kernel.shape[2:]
    block_bytes = max(_TILES_BYTES, 4 * 16 * in_channels * out_channels)
    channels = in_channels + out_channels
    tiling = _tiling(x, window, (out_height, out_width), channels, block_bytes)
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
        return jnp.stack([_contract_pixels(a, b) for a, b in zip(*operands, strict=True)])

    x_strips = _strips(x, tiling)
    g_strips = _pad(g, whole_tiles).reshape(-1, 2 * rows, 2 * columns, out_channels)
    sums = _sum_over_blocks(products, x_strips, g_strips, tiling.strip_bytes, block_bytes)
    sums = sums.reshape(4, 4, in_channels, out_channels)
    return _transformed(_KERNEL_TRANSFORM.T, sums).reshape(kernel.shape)


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
    image_bytes = 4 * out_height * padded_width * pixel_floats
    gradient = _sum_over_blocks(product, x, g, image_bytes, _BLOCK_BYTES)
    gradient = gradient.reshape(kernel_height, in_channels, kernel_width, out_channels)
    return gradient.transpose(0, 2, 1, 3)


def _map_blocks(
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


def _sum_over_blocks(
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


def _patches(
    x: Operand, kernel_size: tuple[int, ...], window: Window, out_size: tuple[int, int]
) -> Array:
    """What each output pixel sees, `[batch, out_height, out_width, taps * in_channels]`."""
    kernel_height, kernel_width = kernel_size
    (row_stride, column_stride), (row_step, column_step) = window.strides, window.dilation
    x = _pad(x, window.padding)
    row_offsets = range(0, kernel_height * row_step, row_step)
    column_offsets = range(0, kernel_width * column_step, column_step)
    if x.shape[3] < 8:
        # Copies of a few floats are slow: columns are gathered for all rows first.
        every_row = (x.shape[1], out_size[1], (1, column_stride))
        columns = [_tap(x, 0, j, *every_row) for j in column_offsets]
        x = lax.optimization_barrier(jnp.concatenate(columns, axis=-1))
        taps = [_tap(x, i, 0, *out_size, (row_stride, 1)) for i in row_offsets]
    else:
        taps = [
            _tap(x, i, j, *out_size, window.strides) for i in row_offsets for j in column_offsets
        ]
    return jnp.concatenate(taps, axis=-1)


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
