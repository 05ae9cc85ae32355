"""The fastest way known to compute a convolution of given shapes on a CPU, and its gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.ops import convolution_definition as by_compiler
from cnn_jax.ops.convolution_definition import Window
from cnn_jax.ops.cpu import lowerings, winograd

# Sizes are numbers; those of an exported program may be symbols.
Shape = tuple[Any, ...]


def convolution(x: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve NHWC images with an HWIO kernel."""
    taps, window = without_idle_taps(window)
    kernel = kernel[taps]
    return _forward(x.shape, kernel.shape, x.dtype, window)(x, kernel, window=window)


def input_gradient(g: Array, kernel: Array, *, window: Window) -> Array:
    """Compute the gradient with respect to the images from `g`, that of the output.

    With stride 1 it is the convolution of `g` with the kernel turned by 180 degrees, for which
    there is the same choice. With larger strides it is derived from the forward convolution.
    """
    taps, window = without_idle_taps(window)
    kernel = kernel[taps]
    x_shape = (g.shape[0], *window.image_size, kernel.shape[2] * window.groups)
    if _left_to_compiler(x_shape, kernel.shape, g.dtype, window):
        return by_compiler.input_gradient(g, kernel, window=window)
    if window.strides != (1, 1):
        forward = _forward(x_shape, kernel.shape, g.dtype, window)
        if forward in (by_compiler.convolution, lowerings.by_patches):
            # XLA / patches, GFLOP/s on one core: 27 / 53 (16->32 on 32x32), 5 / 90 (128->256 on
            # 4x4), and the same on large maps.
            forward = partial(lowerings.by_patches, looped=False)
        return by_compiler.transpose(lambda x: forward(x, kernel, window=window), x_shape, g)
    margins = [(k - 1) * d for k, d in zip(window.kernel_size, window.dilation, strict=True)]
    padding = tuple(
        (margin - before, size + before - g_size)
        for margin, (before, _), size, g_size in zip(
            margins, window.padding, window.image_size, g.shape[1:3], strict=True
        )
    )
    full = window._replace(image_size=g.shape[1:3], padding=padding)
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    forward = _forward(g.shape, turned.shape, g.dtype, full)
    if forward is winograd.by_winograd:
        return winograd.input_gradient_by_winograd(g, kernel, window=full)
    return forward(g, turned, window=full)


def kernel_gradient(x: Array, g: Array, *, window: Window) -> Array:
    """Compute the gradient with respect to the kernel from `g`, that of the output."""
    (rows, columns), trimmed = without_idle_taps(window)
    kernel_shape = (*trimmed.kernel_size, x.shape[3] // window.groups, g.shape[3])
    gradient = _kernel_gradient(x.shape, kernel_shape, x.dtype, trimmed)(x, g, window=trimmed)
    idle = [
        (taps.start, size - taps.stop, 0)
        for taps, size in zip((rows, columns), window.kernel_size, strict=True)
    ]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), [*idle, (0, 0, 0), (0, 0, 0)])


def without_idle_taps(window: Window) -> tuple[tuple[slice, slice], Window]:
    """Find the taps that remain without the outer ones that see only padding, as on tiny maps.

    Returns:
        The remaining rows and columns of the kernel, and the window of a kernel of just these.
    """
    kept, padding = [], []
    for axis, outputs in enumerate(window.out_size):
        step, (before, after) = window.dilation[axis], window.padding[axis]
        taps, pixels = window.kernel_size[axis], window.image_size[axis]
        reached = range(0, outputs * window.strides[axis], window.strides[axis])
        seeing = [
            tap
            for tap in range(taps)
            if any(0 <= tap * step - before + start < pixels for start in reached)
        ]
        first, last = (seeing[0], seeing[-1]) if seeing else (0, taps - 1)
        kept.append(slice(first, last + 1))
        padding.append((before - first * step, after - (taps - 1 - last) * step))
    rows, columns = kept
    kernel_size = (rows.stop - rows.start, columns.stop - columns.start)
    return (rows, columns), window._replace(kernel_size=kernel_size, padding=tuple(padding))


def _forward(
    x_shape: Shape, kernel_shape: Shape, dtype: jnp.dtype, window: Window
) -> Callable[..., Array]:
    """Choose the way to convolve arrays of these shapes.

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
    if _left_to_compiler(x_shape, kernel_shape, dtype, window):
        return by_compiler.convolution
    if window.kernel_size == (1, 1):
        return lowerings.by_product
    if _winograd_is_faster(x_shape, kernel_shape, window):
        return winograd.by_winograd
    in_channels = kernel_shape[2]
    if in_channels < 8 and window.strides == (1, 1):
        return lowerings.by_shared_shifts
    if in_channels >= 128 or min(window.out_size) < 4:
        return lowerings.by_patches
    return by_compiler.convolution


def _kernel_gradient(
    x_shape: Shape, kernel_shape: Shape, dtype: jnp.dtype, window: Window
) -> Callable[..., Array]:
    """Choose the way to compute the kernel's gradient for arrays of these shapes.

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
    if _left_to_compiler(x_shape, kernel_shape, dtype, window):
        return by_compiler.kernel_gradient
    if _winograd_is_faster(x_shape, kernel_shape, window):
        return winograd.kernel_gradient_by_winograd
    kernel_height, kernel_width, in_channels, out_channels = kernel_shape
    padded_width = window.image_size[1] + sum(window.padding[1])
    patches_channels = kernel_height * kernel_width * in_channels
    shared_channels = kernel_height * in_channels + kernel_width * out_channels
    if (
        window.strides == (1, 1)
        and kernel_width > 1
        and padded_width <= 1.25 * window.out_size[1]
        and shared_channels < patches_channels
    ):
        return lowerings.kernel_gradient_by_shared_shifts
    return lowerings.kernel_gradient_by_patches


def _winograd_is_faster(x_shape: Shape, kernel_shape: Shape, window: Window) -> bool:
    """Tell whether Winograd's form is faster: few channels or tiles do not pay its transforms."""
    height, width = window.out_size
    tiles = x_shape[0] * -(-height // 2) * -(-width // 2)
    return (
        window.kernel_size == (3, 3)
        and window.strides == window.dilation == (1, 1)
        and min(kernel_shape[2:]) >= 32
        and tiles >= 64
    )


def _left_to_compiler(
    x_shape: Shape, kernel_shape: Shape, dtype: jnp.dtype, window: Window
) -> bool:
    """Groups, types other than float32, empty arrays and symbolic shapes are left to XLA."""
    sizes = (*x_shape, *kernel_shape, *window.out_size)
    known = all(isinstance(size, int) and size > 0 for size in sizes)
    return window.groups > 1 or dtype != jnp.float32 or not known
