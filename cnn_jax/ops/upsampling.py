"""Making feature maps larger: nearest neighbour, bilinear, transposed convolution.

Max unpooling, the fourth way, stands beside the pooling that it undoes (`cnn_jax.ops.pooling`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[int, int]


def nearest(
    x: Float[Array, "batch height width channels"], factor: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """Repeats every cell `factor` times in both directions.

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
    """Sets `factor - 1` zeros after every row and column: n rows become `factor * n`.

    A 2x2 map::

        1 2      1 0 2 0
        3 4  ->  0 0 0 0
                 3 0 4 0
                 0 0 0 0
    """
    after = (0, factor - 1, factor - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), after, after, (0, 0, 0)))


def bilinear_filter(factor: int = 2) -> Float[np.ndarray, "taps taps"]:
    """The tent that interpolates between cells `factor` apart; its values sum to 1.

    It has 2 * factor taps, one less where `factor` is odd. For a factor of 2 it is
    `[1 3 3 1]^T [1 3 3 1] / 64`.
    """
    taps = _tent(factor)
    return np.outer(taps, taps)


def bilinear(
    x: Float[Array, "batch height width channels"], factor: int = 2, normalize: bool = True
) -> Float[Array, "batch out_height out_width channels"]:
    """Inserts zeros, convolves with a filter that sums to 1, and multiplies by `factor ** 2`.

    The multiplication restores the mean, of which the zeros have left one in `factor ** 2`. At the
    border the filter also sees the zeros outside of the map. With `normalize` the result is divided
    by what the same steps make of a map of ones. It is then half-pixel bilinear interpolation
    everywhere (`jax.image.resize`, torch's `align_corners=False`); without, only in the interior.

    A 2x2 map, normalised::

        1 2      1.0  1.25  1.75  2.0
        3 4  ->  1.5  1.75  2.25  2.5
                 2.5  2.75  3.25  3.5
                 3.0  3.25  3.75  4.0

    and raw, where what the corner loses is 1 - (3/4)^2::

        1 2      0.5625  0.9375  1.3125  1.125
        3 4  ->  1.125   1.75    2.25    1.875
                 1.875   2.75    3.25    2.625
                 1.6875  2.4375  2.8125  2.25

    Args:
        x: feature maps.
        factor: how many times larger.
        normalize: whether the border is corrected for the zeros outside.
    """
    if normalize:
        # The same numbers by two matrix products, many times faster than sums over zeros.
        batch, height, width, channels = x.shape
        return jax.image.resize(x, (batch, factor * height, factor * width, channels), "linear")
    y = insert_zeros(x, factor)
    for axis in (1, 2):
        y = _convolve(y, _tent(factor), factor, axis) * factor
    return y


def transposed_conv(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels out_channels"],
    stride: int = 2,
    padding: int = 0,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Every cell adds `cell * kernel` to the output, `stride` apart: the transpose of convolution.

    n rows become `(n - 1) * stride + kernel_height - 2 * padding`, as in torch.

    A 2x2 map and a 2x2 kernel::

        1 2      a b       1a 1b 2a 2b
        3 4  ,   c d   ->  1c 1d 2c 2d
                           3a 3b 4a 4b
                           3c 3d 4c 4d

    With the kernel of :func:`bilinear_kernel` it is :func:`bilinear` without normalisation.

    Args:
        x: feature maps.
        kernel: [rows, columns, channels of `x`, channels of the output].
        stride: how far apart neighbouring cells' contributions are.
        padding: rows and columns that are cut off on every side of the output.
    """
    height, width = kernel.shape[:2]
    if (height, width) == (stride, stride) and padding == 0:
        # Nothing overlaps: one matrix product, and the cells set side by side.
        y = lax.dot_general(x, kernel, (((3,), (2,)), ((), ())))
        batch, rows, columns, *_, channels = y.shape
        y = y.transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, rows * stride, columns * stride, channels)
    return lax.conv_general_dilated(
        x,
        lax.rev(kernel, (0, 1)),
        (1, 1),
        [(size - 1 - padding,) * 2 for size in (height, width)],
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def bilinear_kernel(
    channels: int, factor: int = 2
) -> Float[np.ndarray, "taps taps {channels} {channels}"]:
    """The kernel with which a transposed convolution interpolates every channel by itself.

    It is :func:`bilinear_filter` times `factor ** 2` on the diagonal of the channels: for a factor
    of 2 four taps a side, which sum to 4, with stride 2 and padding 1 (Long et al. 2015, "Fully
    convolutional networks", section 3.3). See :func:`bilinear_padding` for other factors.
    """
    return bilinear_filter(factor)[:, :, None, None] * factor**2 * np.eye(channels)[None, None]


def bilinear_padding(factor: int = 2) -> int:
    """The padding with which `bilinear_kernel` makes n rows into exactly `factor * n`."""
    return factor // 2


def bilinear_init(
    key: Any, shape: tuple[int, int, int, int], dtype: Any = jnp.float32
) -> Float[Array, "taps taps channels channels"]:
    """`bilinear_kernel` as a flax initialiser; `key` is not used."""
    size, _, channels, _ = shape
    return jnp.asarray(bilinear_kernel(channels, (size + 1) // 2), dtype)


def _tent(factor: int) -> Float[np.ndarray, " taps"]:
    """One axis of the bilinear filter."""
    size = 2 * factor - factor % 2
    distance = np.abs(np.arange(size) - (size - 1) / 2)
    return (1 - distance / factor) / factor


def _convolve(y: Array, taps: np.ndarray, factor: int, axis: int) -> Array:
    """Convolves one axis with a symmetric filter as a sum of shifted maps, keeping the size."""
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
