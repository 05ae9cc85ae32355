"""Pooling over windows, over the whole map and onto a grid, with torch's conventions; unpooling."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from cnn_jax.errors import check

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
NO_PADDING: Padding = ((0, 0), (0, 0))


def max_pool(
    x: Float[Array, "batch height width channels"],
    window: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    ceil_mode: bool = False,
) -> Float[Array, "batch out_height out_width channels"]:
    """Take the largest value of each window; padding never wins, NaN does.

    The gradient goes to the first largest value of a window, in reading order.

    Args:
        x: feature maps.
        window: rows and columns of the window.
        strides: step of the window, rows and columns.
        padding: cells before and after the rows, and before and after the columns.
        ceil_mode: whether a window that only partly overlaps the padded map counts, if it starts
            within the map or the padding before it.
    """
    ends = _ends(x.shape[1:3], window, strides, padding, ceil_mode)
    return _max_pool(x, window, strides, ends, x.shape[1:3])


def max_pool_with_indices(
    x: Float[Array, "batch height width channels"],
    window: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    ceil_mode: bool = False,
) -> tuple[
    Float[Array, "batch out_height out_width channels"],
    Int32[Array, "batch out_height out_width channels"],
]:
    """Apply `max_pool` and return each largest value's index in the map, `row * width + column`.

    Among equal values, the first in reading order is taken, as in torch.

    A 2x2 map, whose largest value is at row 1, column 0::

        1 2
        4 3  ->  values 4, indices 2
    """
    ends = _ends(x.shape[1:3], window, strides, padding, ceil_mode)
    values = _max_pool(x, window, strides, ends, x.shape[1:3])
    _, taps = _largest(lax.stop_gradient(x), window, strides, ends)
    row_tap, column_tap = jnp.divmod(taps.astype(jnp.int32), window[1])
    rows = jnp.arange(values.shape[1]) * strides[0] - ends[0][0]
    columns = jnp.arange(values.shape[2]) * strides[1] - ends[1][0]
    rows = row_tap + jnp.broadcast_to(rows[None, :, None, None], taps.shape)
    columns = column_tap + jnp.broadcast_to(columns[None, None, :, None], taps.shape)
    return values, rows * x.shape[2] + columns


def max_unpool(
    x: Float[Array, "batch height width channels"],
    indices: Int32[Array, "batch height width channels"],
    size: Pair,
    window: Pair = (2, 2),
) -> Float[Array, "batch out_height out_width channels"]:
    """Put every value back where its pooling took it; other cells are 0.

    It inverts :func:`max_pool_with_indices` for windows that neither overlap nor are padded
    (Badrinarayanan et al. 2017, section 3). The result has the recorded `size` of the map before
    pooling: 45 rows are pooled to 23 in ceil mode (22 without), and restored to 45.

    A 2x2 map from a pooling of 4x4 cells, counted in reading order::

        1 2       4  2      0 0 2 0
        3 4  at  12 11  ->  1 0 0 0
                            0 0 0 4
                            3 0 0 0

    Args:
        x: the values.
        indices: from the pooling: `row * width + column` in the map of `size`.
        size: rows and columns of that map.
        window: the pooling's window, which was also its stride.

    Raises:
        UserError: windows of this size do not make a map of the shape of `x` from one of `size`.
    """
    for length, cells, pooled in zip(size, window, x.shape[1:3], strict=True):
        fits = pooled in (length // cells, -(-length // cells))
        check(fits, "window", window, f"that of the pooling from {size} to {x.shape[1:3]}")
    # A comparison instead of a scatter: it is exact, too, and compiles to one pass over the map.
    spread = [_spread(array, size, window) for array in (x, indices)]
    position = jnp.arange(size[0])[:, None] * size[1] + jnp.arange(size[1])[None, :]
    own = spread[1] == jnp.broadcast_to(position[None, :, :, None], spread[1].shape)
    return jnp.where(own, spread[0], jnp.zeros((), x.dtype))


def avg_pool(
    x: Float[Array, "batch height width channels"],
    window: Pair,
    strides: Pair,
    padding: Padding = NO_PADDING,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "batch out_height out_width channels"]:
    """Compute the mean of each window.

    Args:
        x: feature maps.
        window: rows and columns of the window.
        strides: step of the window, rows and columns.
        padding: zeros before and after the rows, and before and after the columns.
        ceil_mode: as in `max_pool`; cells beyond the padding are not counted.
        count_include_pad: whether padding counts as zeros in the mean.
    """
    ends = _ends(x.shape[1:3], window, strides, padding, ceil_mode)
    sums = lax.reduce_window(
        x, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *ends, (0, 0))
    )
    rows, columns = (
        _cells(*axis, count_include_pad)
        for axis in zip(x.shape[1:3], sums.shape[1:3], window, strides, padding, strict=True)
    )
    counts = np.outer(rows, columns)[None, :, :, None]
    return sums / jnp.asarray(counts, x.dtype)


def global_avg_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Compute the mean over rows and columns."""
    return jnp.mean(x, axis=(1, 2))


def adaptive_avg_pool(
    x: Float[Array, "batch height width channels"], size: Pair
) -> Float[Array, "batch out_height out_width channels"]:
    """Compute means over a `size` grid of nearly equal windows that cover the map.

    Torch's rule: cell i of n over a length L averages from floor(i L / n) up to, but without,
    ceil((i + 1) L / n). Windows overlap where n does not divide L, and repeat where n > L.
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = (
        jnp.asarray(_averaging(length, count), x.dtype)
        for length, count in zip(x.shape[1:3], size, strict=True)
    )
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows, columns, precision=lax.Precision.HIGHEST)


# XLA's gradient of a windowed maximum searches every window again, cell by cell. On a CPU it takes
# up to fifty times as long as this one. On a GPU it adds atomically, so the order of the sum, and
# with it the last bits, changes from run to run.
@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x: Array, window: Pair, strides: Pair, ends: Padding, size: Pair) -> Array:
    """Apply max pooling to `x`; `size` repeats its rows and columns for the gradient."""
    return _largest(x, window, strides, ends)[0]


def _max_pool_forward(
    x: Array, window: Pair, strides: Pair, ends: Padding, size: Pair
) -> tuple[Array, Array]:
    return _largest(x, window, strides, ends)


def _max_pool_backward(
    window: Pair, strides: Pair, ends: Padding, size: Pair, winners: Array, g: Array
) -> tuple[Array]:
    """Sum, for each cell of the map, the cotangents of the windows whose maximum it is.

    Cells a multiple of the stride apart lie at the same taps of their windows. So the map is built
    as one plane for every remainder of row and column by the stride. Each plane is a sum of shifted
    cotangents; the planes are interleaved at the end.
    """
    (row_step, column_step), (rows, columns) = strides, g.shape[1:3]
    # Windows that reach beyond the one that starts at a cell's own multiple of the stride.
    reach = (window[0] - 1) // row_step, (window[1] - 1) // column_step
    rows, columns = rows + reach[0], columns + reach[1]
    around = ((0, 0), (reach[0],) * 2, (reach[1],) * 2, (0, 0))
    g, winners = jnp.pad(g, around), jnp.pad(winners, around, constant_values=-1)

    empty = jnp.zeros((g.shape[0], rows, columns, g.shape[3]), g.dtype)
    planes = [[empty] * column_step for _ in range(row_step)]
    for tap in range(window[0] * window[1]):
        i, j = divmod(tap, window[1])
        top, left = reach[0] - i // row_step, reach[1] - j // column_step
        shifted = (slice(None), slice(top, top + rows), slice(left, left + columns))
        share = jnp.where(winners[shifted] == tap, g[shifted], 0)
        planes[i % row_step][j % column_step] += share
    padded = jnp.stack([jnp.stack(row, axis=3) for row in planes], axis=2)
    padded = padded.reshape(g.shape[0], rows * row_step, columns * column_step, g.shape[3])
    # Crop to the map: without its padding, with the cells after the last window.
    edges = [
        (-before, length + before - covered, 0)
        for length, (before, _), covered in zip(size, ends, padded.shape[1:3], strict=True)
    ]
    return (lax.pad(padded, jnp.zeros((), g.dtype), ((0, 0, 0), *edges, (0, 0, 0))),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _largest(x: Array, window: Pair, strides: Pair, ends: Padding) -> tuple[Array, Array]:
    """Return the largest value of each window, and its tap in reading order."""
    taps = _taps(x, window, strides, ends)
    largest = next(taps)
    index_type = jnp.int8 if window[0] * window[1] < 128 else jnp.int32
    winners = jnp.zeros(largest.shape, index_type)
    for tap, value in enumerate(taps, start=1):
        wins = (value > largest) | jnp.isnan(value)
        largest = jnp.where(wins, value, largest)
        winners = jnp.where(wins, jnp.asarray(tap, index_type), winners)
    return largest, winners


def _taps(x: Array, window: Pair, strides: Pair, ends: Padding) -> Iterator[Array]:
    """Yield, for each cell of the window in reading order, its value in every window."""
    x = jnp.pad(x, ((0, 0), *ends, (0, 0)), constant_values=-jnp.inf)
    last = [length - cells for length, cells in zip(x.shape[1:3], window, strict=True)]
    for i in range(window[0]):
        for j in range(window[1]):
            yield x[:, i : i + last[0] + 1 : strides[0], j : j + last[1] + 1 : strides[1]]


def _spread(x: Array, size: Pair, window: Pair) -> Array:
    """Repeat every cell over its window; cells of `size` beyond the windows get -1."""
    for axis, (length, cells) in enumerate(zip(size, window, strict=True), start=1):
        x = jnp.repeat(x, cells, axis=axis)
        missing = [(0, 0, 0)] * 4
        missing[axis] = (0, length - x.shape[axis], 0)
        x = lax.pad(x, jnp.full((), -1, x.dtype), missing)
    return x


def _ends(
    size: tuple[int, ...], window: Pair, strides: Pair, padding: Padding, ceil_mode: bool
) -> Padding:
    """Extend `padding` at the end to complete the last window where `ceil_mode` has one."""
    if not ceil_mode:
        return padding
    ends = []
    for length, cells, stride, (before, after) in zip(size, window, strides, padding, strict=True):
        last = -(-(length + before + after - cells) // stride)
        if last * stride >= length + before:
            last -= 1
        ends.append((before, max(after, last * stride + cells - length - before)))
    return tuple(ends)


def _cells(
    length: int, outputs: int, cells: int, stride: int, padding: Pair, count_include_pad: bool
) -> np.ndarray:
    """Count how many of the `cells` along one axis each window contains."""
    starts = np.arange(outputs) * stride - padding[0]
    stops = np.minimum(starts + cells, length + padding[1])
    if not count_include_pad:
        starts, stops = np.maximum(starts, 0), np.minimum(stops, length)
    return stops - starts


def _averaging(length: int, count: int) -> np.ndarray:
    """Build the matrix that averages `length` cells down to `count`, one row a window."""
    cells, windows = np.arange(length), np.arange(count)[:, None]
    starts, stops = windows * length // count, -(-(windows + 1) * length // count)
    inside = (cells >= starts) & (cells < stops)
    return inside / inside.sum(axis=1, keepdims=True)
