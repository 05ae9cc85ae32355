"""The convolution and its two gradients as XLA computes them: what every other way must equal.

All three are bilinear: the output in the images and the kernel, the gradient with respect to the
images in the output gradient and the kernel, the gradient with respect to the kernel in the images
and the output gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax


class Window(NamedTuple):
    """Everything static about a convolution except the numbers of images and channels.

    Attributes:
        image_size: rows and columns of the images.
        kernel_size: rows and columns of the kernel.
        strides: steps of the kernel over rows and columns.
        padding: zero rows before and after the image, and zero columns; a negative number crops.
        dilation: distances between the kernel's taps, in rows and columns.
        groups: number of groups of channels that are convolved separately.
    """

    image_size: tuple[int, int]
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int

    @property
    def out_size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        sizes = []
        for axis in range(2):
            extent = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            free = self.image_size[axis] + sum(self.padding[axis]) - extent
            sizes.append(max(0, free // self.strides[axis] + 1))
        return sizes[0], sizes[1]


def convolution(x: Array, kernel: Array, *, window: Window) -> Array:
    """Convolve NHWC images with an HWIO kernel."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def input_gradient(g: Array, kernel: Array, *, window: Window) -> Array:
    """Compute the gradient with respect to the images from `g`, that of the output."""
    shape = (g.shape[0], *window.image_size, kernel.shape[2] * window.groups)
    return transpose(lambda x: convolution(x, kernel, window=window), shape, g)


def kernel_gradient(x: Array, g: Array, *, window: Window) -> Array:
    """Compute the gradient with respect to the kernel from `g`, that of the output."""
    shape = (*window.kernel_size, x.shape[3] // window.groups, g.shape[3])
    return transpose(partial(convolution, x, window=window), shape, g)


def transpose(function: Callable[[Array], Array], shape: tuple[Any, ...], g: Array) -> Array:
    """Apply the transpose of a linear function of arrays of this shape to `g`."""
    # The type of `g` also says over which axes of `jax.shard_map` it varies.
    (gradient,) = jax.linear_transpose(function, jax.typeof(g).update(shape=shape))(g)
    return gradient
