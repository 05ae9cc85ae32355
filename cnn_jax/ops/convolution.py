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

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn_jax.ops.cpu.image_blocks import Operand, Window, output_size
from cnn_jax.ops.cpu.lowerings import (
    by_compiler,
    by_patches,
    by_product,
    by_shared_shifts,
    kernel_gradient_by_compiler,
    kernel_gradient_by_patches,
    kernel_gradient_by_shared_shifts,
)
from cnn_jax.ops.cpu.winograd import (
    by_winograd,
    input_gradient_by_winograd,
    kernel_gradient_by_winograd,
)

Padding = str | Sequence[tuple[int, int]]


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
    for axis, outputs in enumerate(output_size(x, kernel, window)):
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
    if in_channels >= 128 or min(output_size(x, kernel, window)) < 4:
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
    height, width = output_size(x, kernel, window)
    tiles = x.shape[0] * -(-height // 2) * -(-width // 2)
    return (
        (kernel_height, kernel_width) == (3, 3)
        and window.strides == window.dilation == (1, 1)
        and min(in_channels, out_channels) >= 32
        and tiles >= 64
    )


def _only_compiler_knows(x: Operand, kernel: Operand, window: Window) -> bool:
    """Groups, other types than float32 and empty arrays are left to XLA."""
    empty = 0 in x.shape or 0 in kernel.shape or 0 in output_size(x, kernel, window)
    return window.groups > 1 or x.dtype != jnp.float32 or empty


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
        return input_gradient_by_winograd(g, kernel, full)
    return lowering(g, turned, full)
