"""Shapes of convolutions, arrays for them, and XLA's convolution to compare with."""

import functools

import jax
import numpy as np
from hypothesis import strategies as st
from jax import lax

from cnn_jax.ops import convolution
from cnn_jax.ops.convolution_definition import Window


def reference(x, kernel, window):
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def public(x, kernel, window):
    return convolution.conv(
        x,
        kernel,
        strides=window.strides,
        padding=window.padding,
        dilation=window.dilation,
        groups=window.groups,
    )


@st.composite
def cases(draw, max_stride=3, max_groups=3, max_dilation=2, kernel_sizes=(1, 2, 3, 4)):
    """Shapes and a window with at least one output pixel."""
    size = st.integers(1, 4)
    kernel_size = (draw(st.sampled_from(kernel_sizes)), draw(st.sampled_from(kernel_sizes)))
    strides = (draw(st.integers(1, max_stride)), draw(st.integers(1, max_stride)))
    dilation = (draw(st.integers(1, max_dilation)), draw(st.integers(1, max_dilation)))
    pad = st.integers(0, 3)
    padding = ((draw(pad), draw(pad)), (draw(pad), draw(pad)))
    groups = draw(st.integers(1, max_groups))
    image = []
    for k, d, (before, after) in zip(kernel_size, dilation, padding, strict=True):
        least = max(1, (k - 1) * d + 1 - before - after)
        image.append(draw(st.integers(least, least + 6)))
    batch = draw(st.integers(1, 5))
    in_channels, out_channels = groups * draw(size), groups * draw(size)
    x_shape = (batch, *image, in_channels)
    kernel_shape = (*kernel_size, in_channels // groups, out_channels)
    return (
        x_shape,
        kernel_shape,
        Window(tuple(image), kernel_size, strides, padding, dilation, groups),
    )


# Shapes that a CPU computes in different ways: (batch, size, in and out channels), kernel size,
# strides.
CHOICES = {
    "winograd": ((3, 9, 32, 32), (3, 3), (1, 1)),
    "tiny map": ((3, 2, 6, 4), (3, 3), (2, 2)),
    "product": ((3, 5, 4, 6), (1, 1), (1, 1)),
    "strided product": ((3, 5, 4, 6), (1, 1), (2, 2)),
    "shared shifts": ((3, 12, 8, 8), (3, 3), (1, 1)),
    "patches": ((3, 12, 3, 8), (7, 7), (2, 2)),
}


def choice(name):
    (batch, size, in_channels, out_channels), kernel_size, strides = CHOICES[name]
    padding = tuple((k // 2, k // 2) for k in kernel_size)
    kernel_shape = (*kernel_size, in_channels, out_channels)
    window = Window((size, size), kernel_size, strides, padding, (1, 1), 1)
    return (batch, size, size, in_channels), kernel_shape, window


def arrays(x_shape, kernel_shape, window, dtype=np.float32, seed=0):
    """Random images, kernel and output gradient."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=x_shape).astype(dtype)
    kernel = generator.normal(size=kernel_shape).astype(dtype)
    out = jax.eval_shape(functools.partial(reference, window=window), x, kernel)
    return x, kernel, generator.normal(size=out.shape).astype(dtype)


def values_and_gradients(function, x, kernel, g, window):
    out, pullback = jax.vjp(functools.partial(function, window=window), x, kernel)
    return out, *pullback(g)


def assert_close(actual, expected, tolerance):
    expected = np.asarray(expected, np.float64)
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, 0, tolerance * scale)
