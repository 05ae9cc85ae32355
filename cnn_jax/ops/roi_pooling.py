"""RoI max pooling with Caffe's rules for a bin's cells and for its gradient.

Each bin is a rectangle of whole cells whose size depends on the data. Its maximum is looked up in
a table of the maxima of all windows whose sides are powers of two. Four overlapping windows cover
any rectangle.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from cnn_jax.ops.boxes import map_boxes, round_half_away


def roi_pool(
    features: Float[Array, "height width channels"],
    boxes: Float[Array, "boxes 4"],
    size: tuple[int, int],
    spatial_scale: float = 1.0,
) -> Float[Array, "boxes {size[0]} {size[1]} channels"]:
    """Take the largest feature in each of `size` bins of every box.

    The rule is that of the paper's Caffe layer and of torchvision. Corners are scaled and rounded
    to cells, halves away from zero. The last cell belongs to the box, so no box is empty. Bin p of
    P spans `floor(p * cells / P)` up to `ceil((p + 1) * cells / P)`, clipped to the map. A bin
    without cells gives 0.

    The gradient goes to the first of a bin's largest features, in reading order; boxes have none.

    Args:
        features: the map of one image.
        boxes: boxes in pixels of the image.
        size: rows and columns of bins.
        spatial_scale: cells of the map per pixel of the image, 1/16 for a stride of 16.

    References:
        Girshick, `Fast R-CNN <https://arxiv.org/abs/1504.08083>`_, 2015, section 2.1
    """
    return _roi_pool(features, lax.stop_gradient(boxes), size, spatial_scale, features.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _roi_pool(
    features: Array, boxes: Array, size: tuple[int, int], spatial_scale: float, shape: tuple
) -> Array:
    """Compute `roi_pool`; `shape` repeats the features' shape for the gradient."""
    table = _tabulate(_Best(features, None), features.shape)
    return _look_up(table, boxes, size, spatial_scale, features.shape).value


def _forward(
    features: Array, boxes: Array, size: tuple[int, int], spatial_scale: float, shape: tuple
) -> tuple[Array, tuple[Array, Array]]:
    height, width, _ = features.shape
    cells = jnp.arange(height * width, dtype=jnp.int32).reshape(height, width, 1)
    table = _tabulate(_Best(features, jnp.broadcast_to(cells, features.shape)), features.shape)
    best = _look_up(table, boxes, size, spatial_scale, features.shape)
    return best.value, (best.cell, boxes)


def _backward(
    size: tuple[int, int],
    spatial_scale: float,
    shape: tuple,
    residuals: tuple[Array, Array],
    g: Array,
) -> tuple[Array, Array]:
    cell, boxes = residuals
    height, width, channels = shape
    total = jnp.zeros((height * width, channels), g.dtype)
    # An empty bin's cell lies beyond the map: dropped.
    cell = jnp.where(cell < 0, height * width, cell)
    columns = jnp.broadcast_to(jnp.arange(channels)[None, None, None], cell.shape)
    total = total.at[cell, columns].add(g, mode="drop")
    return total.reshape(shape), jnp.zeros_like(boxes)


_roi_pool.defvjp(_forward, _backward)


class _Best(NamedTuple):
    """The largest value of each window and, for the gradient, its cell in reading order."""

    value: Array
    cell: Array | None


def _better(first: _Best, second: _Best) -> _Best:
    """Take the larger value per element; the earlier cell wins a tie, NaN always wins."""
    if first.cell is None or second.cell is None:
        return _Best(jnp.maximum(first.value, second.value), None)
    wins = (second.value > first.value) | jnp.isnan(second.value)
    wins |= (second.value == first.value) & (second.cell < first.cell)
    return _Best(*(jnp.where(wins, b, a) for a, b in zip(first, second, strict=True)))


def _levels(length: int) -> int:
    """Count the powers of two that are at most `length`."""
    return length.bit_length()


def _tabulate(cells: _Best, shape: tuple[int, ...]) -> _Best:
    """Tabulate the best of all windows of 2^i x 2^j cells, as [levels, levels, height, width]."""

    def doubled(best: _Best, axis: int, step: int) -> _Best:
        """Join two adjacent windows into one twice as long; those beyond the map are unused."""
        return _better(best, _Best(*(x if x is None else _shift(x, axis, step) for x in best)))

    tables = []
    by_rows = cells
    for i in range(_levels(shape[0])):
        by_rows = doubled(by_rows, 0, 2 ** (i - 1)) if i else by_rows
        by_columns = by_rows
        for j in range(_levels(shape[1])):
            by_columns = doubled(by_columns, 1, 2 ** (j - 1)) if j else by_columns
            tables.append(by_columns)
    channels = shape[2]
    return _Best(
        *(
            None if parts[0] is None else jnp.stack(parts).reshape(-1, channels)
            for parts in zip(*tables, strict=True)
        )
    )


def _shift(x: Array, axis: int, step: int) -> Array:
    """Shift the cells by `step` along the axis, and repeat the last ones."""
    kept = lax.slice_in_dim(x, step, None, axis=axis)
    rest = lax.slice_in_dim(x, x.shape[axis] - step, None, axis=axis)
    return jnp.concatenate([kept, rest], axis=axis)


def _look_up(
    table: _Best,
    boxes: Array,
    size: tuple[int, int],
    spatial_scale: float,
    shape: tuple[int, ...],
) -> _Best:
    """Look up the best of every bin of every box; an empty bin has value 0 and cell -1."""
    height, width, _ = shape

    def one_box(box: Array) -> _Best:
        x1, y1, x2, y2 = round_half_away(box.astype(jnp.float32) * spatial_scale)
        top, bottom = _bins(y1, y2, height, size[0])
        left, right = _bins(x1, x2, width, size[1])
        row_level, last_row = _window(top, bottom, height)
        column_level, last_column = _window(left, right, width)
        level = row_level[:, None] * _levels(width) + column_level[None]

        def corner(row: Array, column: Array) -> _Best:
            place = (level * height + row[:, None]) * width + column[None]
            return _Best(*(x if x is None else x[place] for x in table))

        best = corner(top, left)
        for row, column in ((top, last_column), (last_row, left), (last_row, last_column)):
            best = _better(best, corner(row, column))
        empty = ((bottom <= top)[:, None] | (right <= left)[None])[..., None]
        return _Best(
            jnp.where(empty, 0, best.value).astype(best.value.dtype),
            None if best.cell is None else jnp.where(empty, -1, best.cell),
        )

    return map_boxes(one_box, boxes)


def _bins(
    first: Float[Array, ""], last: Float[Array, ""], length: int, bins: int
) -> tuple[Int[Array, " {bins}"], Int[Array, " {bins}"]]:
    """Compute the cells [start, stop) of each bin along one axis, clipped to the map."""
    first, last = (
        jnp.clip(cell, -_FARTHEST, _FARTHEST).astype(jnp.int32) for cell in (first, last)
    )
    cells = jnp.maximum(last - first + 1, 1)
    number = jnp.arange(bins)
    whole = number * cells // bins, -(-(number + 1) * cells // bins)
    tables = (jnp.asarray(table)[jnp.minimum(cells, _TABULATED)] for table in _edges(bins))
    start, stop = (
        jnp.clip(first + jnp.where(cells <= _TABULATED, table, edge), 0, length)
        for table, edge in zip(tables, whole, strict=True)
    )
    return start, stop


# Caffe divides in float32, which sometimes makes the last bin a cell too long; 57 cells in 7 bins
# are the first such case. Compilers rewrite divisions by constants, so its arithmetic is tabulated
# up to this many cells. Larger sizes, beyond any map, use whole numbers.
_TABULATED = 1024
_FARTHEST = 2.0**20


@lru_cache
def _edges(bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute Caffe's start and stop of each bin [cells, bin] for up to `_TABULATED` cells."""
    size = np.arange(_TABULATED + 1, dtype=np.float32)[:, None] / np.float32(bins)
    number = np.arange(bins, dtype=np.float32)[None]
    edges = np.floor(number * size), np.ceil((number + 1) * size)
    return tuple(edge.astype(np.int32) for edge in edges)


def _window(
    start: Int[Array, " bins"], stop: Int[Array, " bins"], length: int
) -> tuple[Int[Array, " bins"], Int[Array, " bins"]]:
    """Find the largest power of two of cells in [start, stop), and where its last window begins."""
    logarithm = np.array([max(n, 1).bit_length() - 1 for n in range(length + 1)], np.int32)
    level = jnp.asarray(logarithm)[jnp.maximum(stop - start, 0)]
    return level, jnp.maximum(stop - (1 << level), 0)
