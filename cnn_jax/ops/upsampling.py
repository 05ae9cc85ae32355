"""Upsampling of feature maps: nearest neighbour, interpolating filters, transposed convolution.

Max unpooling is in `cnn_jax.ops.pooling`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnn_jax.ops.convolution import input_gradient
from cnn_jax.ops.convolution_definition import Window

Pair = tuple[int, int]


def nearest(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Repeat every cell `factor` times in both directions.

    A 2x2 map::

        1 2      1 1 2 2
        3 4  ->  1 1 2 2
                 3 3 4 4
                 3 3 4 4
    """
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def insert_zeros(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Insert `factor - 1` zeros after every row and column: n rows become `factor * n`.

    A 2x2 map::

        1 2      1 0 2 0
        3 4  ->  0 0 0 0
                 3 0 4 0
                 0 0 0 0
    """
    after = (0, factor - 1, factor - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), after, after, (0, 0, 0)))


def bilinear_filter(factor: int = 2) -> Float[np.ndarray, "taps taps"]:
    """Compute the tent that interpolates between cells `factor` apart; its values sum to 1.

    It has 2 * factor taps, one fewer if `factor` is odd. For a factor of 2 it is
    `[1 3 3 1]^T [1 3 3 1] / 64`.
    """
    taps = _tent(factor)
    return np.outer(taps, taps)


def bilinear(
    x: Float[Array, "batch height width channels"], factor: int = 2, normalize: bool = True
) -> Float[Array, "batch out_height out_width channels"]:
    """Insert zeros, convolve with a filter that sums to 1, and multiply by `factor ** 2`.

    The multiplication restores the mean, which the zeros divide by `factor ** 2`. At the border,
    the filter also covers the zeros outside the map. With `normalize`, the result is divided by
    the result for a map of ones. It then equals half-pixel bilinear interpolation everywhere
    (`jax.image.resize`, torch's `align_corners=False`); without it, only in the interior.

    A 2x2 map, normalised::

        1 2      1.0  1.25  1.75  2.0
        3 4  ->  1.5  1.75  2.25  2.5
                 2.5  2.75  3.25  3.5
                 3.0  3.25  3.75  4.0

    and raw, where the corner loses a fraction of 1 - (3/4)^2::

        1 2      0.5625  0.9375  1.3125  1.125
        3 4  ->  1.125   1.75    2.25    1.875
                 1.875   2.75    3.25    2.625
                 1.6875  2.4375  2.8125  2.25

    Args:
        x: feature maps.
        factor: the factor of enlargement.
        normalize: whether the border is corrected for the zeros outside.
    """
    if normalize:
        # Two matrix products give the same numbers, many times faster than sums over zeros.
        batch, height, width, channels = x.shape
        return jax.image.resize(x, (batch, factor * height, factor * width, channels), "linear")
    y = insert_zeros(x, factor)
    for axis in (1, 2):
        y = _convolve(y, _tent(factor), factor, axis) * factor
    return y


def gaussian_filter(factor: int = 2) -> Float[np.ndarray, "taps taps"]:
    """Compute the Gaussian that blurs inserted zeros away; its values sum to 1.

    Its standard deviation is half the distance between two cells, `factor / 2`. It is cut off at
    three of these, which leaves 3 * factor taps.
    """
    taps = _bell((np.arange(3 * factor) - (3 * factor - 1) / 2) / factor)
    return np.outer(taps, taps) / taps.sum() ** 2


def gaussian(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Insert zeros, convolve with a Gaussian, and divide by the result for a map of ones.

    The division restores the mean, and corrects the border for the zeros outside the map. The
    Gaussian is that of :func:`gaussian_filter`. Unlike interpolation it does not keep the values at
    the cells' centres: it blurs the map.

    A 2x2 map::

        1 2      1.14  1.36  1.83  2.05
        3 4  ->  1.59  1.81  2.27  2.49
                 2.51  2.73  3.19  3.41
                 2.95  3.17  3.64  3.86

    Args:
        x: feature maps.
        factor: the factor of enlargement.
    """
    y = x
    for axis, size in ((1, x.shape[1]), (2, x.shape[2])):
        centres = (np.arange(factor * size) + 0.5) / factor
        weights = _bell(centres[:, None] - (np.arange(size) + 0.5))
        weights = jnp.asarray(weights / weights.sum(axis=1, keepdims=True), x.dtype)
        y = jnp.tensordot(weights, y, (1, axis), precision=lax.Precision.HIGHEST)
        y = jnp.moveaxis(y, 0, axis)
    return y


def cubic(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Interpolate by cubic convolution with a = -1/2, normalised at the border.

    Values may lie outside the range of the map's own: beside an edge it overshoots (Keys 1981,
    "Cubic convolution interpolation for digital image processing").

    A 2x2 map::

        1 2      0.74  1.03  1.62  1.91
        3 4  ->  1.33  1.62  2.21  2.50
                 2.50  2.79  3.38  3.67
                 3.09  3.38  3.97  4.26

    Args:
        x: feature maps.
        factor: the factor of enlargement.
    """
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, factor * height, factor * width, channels), "cubic")


def transposed_conv(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels out_channels"],
    stride: int = 2,
    padding: int = 0,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Add `cell * kernel` to the output for every cell, `stride` apart (transpose of convolution).

    n rows become `(n - 1) * stride + kernel_height - 2 * padding`, as in torch.

    A 2x2 map and a 2x2 kernel::

        1 2      a b       1a 1b 2a 2b
        3 4  ,   c d   ->  1c 1d 2c 2d
                           3a 3b 4a 4b
                           3c 3d 4c 4d

    With the kernel of :func:`bilinear_kernel`, it is :func:`bilinear` without normalisation.

    Args:
        x: feature maps.
        kernel: [rows, columns, channels of `x`, channels of the output].
        stride: the distance between the contributions of neighbouring cells.
        padding: the rows and columns that are cut off on every side of the output.
    """
    height, width = kernel.shape[:2]
    if (height, width) == (stride, stride) and padding == 0:
        # Without overlap: one matrix product, and the results placed next to each other.
        y = lax.dot_general(x, kernel, (((3,), (2,)), ((), ())))
        batch, rows, columns, *_, channels = y.shape
        y = y.transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, rows * stride, columns * stride, channels)
    rows, columns = (
        (cells - 1) * stride + taps - 2 * padding
        for cells, taps in zip(x.shape[1:3], (height, width), strict=True)
    )
    window = Window(
        image_size=(rows, columns),
        kernel_size=(height, width),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dilation=(1, 1),
        groups=1,
    )
    # The convolution whose gradient this is goes from the output to `x`.
    return input_gradient(x, kernel.swapaxes(2, 3), window=window)


def bilinear_kernel(
    channels: int, factor: int = 2
) -> Float[np.ndarray, "taps taps {channels} {channels}"]:
    """Build the kernel with which a transposed convolution interpolates each channel separately.

    It is :func:`bilinear_filter` times `factor ** 2` on the diagonal of the channels. A factor of 2
    gives four taps on each side, which sum to 4, with stride 2 and padding 1 (Long et al. 2015,
    "Fully convolutional networks", section 3.3). See :func:`bilinear_padding` for other factors.
    """
    return bilinear_filter(factor)[:, :, None, None] * factor**2 * np.eye(channels)[None, None]


def bilinear_padding(factor: int = 2) -> int:
    """Compute the padding with which `bilinear_kernel` turns n rows into exactly `factor * n`."""
    return factor // 2


def bilinear_init(
    key: Any, shape: tuple[int, int, int, int], dtype: Any = jnp.float32
) -> Float[Array, "taps taps channels channels"]:
    """Initialise a flax kernel with `bilinear_kernel`; `key` is not used."""
    size, _, channels, _ = shape
    return jnp.asarray(bilinear_kernel(channels, (size + 1) // 2), dtype)


def _tent(factor: int) -> Float[np.ndarray, " taps"]:
    """Compute one axis of the bilinear filter."""
    size = 2 * factor - factor % 2
    distance = np.abs(np.arange(size) - (size - 1) / 2)
    return (1 - distance / factor) / factor


def _bell(distance: np.ndarray) -> np.ndarray:
    """Compute the Gaussian at distances in cells, up to three standard deviations."""
    return np.where(np.abs(distance) < 1.5, np.exp(-2 * distance**2), 0)


def _convolve(y: Array, taps: np.ndarray, factor: int, axis: int) -> Array:
    """Convolve one axis with a symmetric filter as a sum of shifted maps; the size is kept."""
    before = len(taps) - 1 - bilinear_padding(factor)
    padding = [(0, 0)] * 4
    padding[axis] = (before, len(taps) - 1 - before)
    padded = jnp.pad(y, padding)
    size = y.shape[axis]
    shifted = (lax.slice_in_dim(padded, t, t + size, axis=axis) for t in range(len(taps)))
    return sum(
        (tap * part for tap, part in zip(taps.tolist(), shifted, strict=True)),
        start=jnp.zeros_like(y),
    )
