"""The grid of cells on which YOLO predicts: assignment of objects, encoding and decoding of boxes.

The functions work on one image. Boxes are corners in fractions of the image's sides, 0..1. An
object belongs to the cell that contains its centre. A cell's outputs are (x, y, width, height,
confidence) for each of its boxes, then one number for each class. The coordinates of a box are

- without priors, as in Redmon et al. 2016, section 2: the centre in units of the cell, from its
  corner, and the **square roots** of the sides in fractions of the image. The paper's loss compares
  the roots; with them as outputs its gradient is finite at every size;
- with priors: the linear refinement of R-CNN (`cnn_jax.ops.boxes.encode`) relative to one base box
  for each of the cell's boxes, centred on the cell.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from cnn_jax.ops import boxes as box_ops

Priors = Sequence[tuple[float, float]]
"""Widths and heights of base boxes, in fractions of the image's sides; empty without priors."""


class CellOutputs(NamedTuple):
    """A network's outputs, split by meaning."""

    coordinates: Float[Array, "rows columns boxes 4"]
    confidences: Float[Array, "rows columns boxes"]
    classes: Float[Array, "rows columns classes"]


def split_outputs(outputs: Float[Array, "rows columns outputs"], boxes: int) -> CellOutputs:
    """Split each cell's outputs into coordinates, confidences and classes.

    Args:
        outputs: the network's outputs.
        boxes: the number of boxes in a cell.
    """
    rows, columns, _ = outputs.shape
    by_box = outputs[..., : boxes * 5].reshape(rows, columns, boxes, 5)
    return CellOutputs(by_box[..., :4], by_box[..., 4], outputs[..., boxes * 5 :])


def owners(
    boxes: Float[Array, "objects 4"],
    valid: Bool[Array, " objects"],
    grid: int,
    key: Key[Array, ""] | None = None,
) -> Int[Array, "{grid} {grid}"]:
    """Find the object that each cell is responsible for; -1 means none.

    If several objects have their centres in one cell, one is kept: the first in an order shuffled
    by the key, or the first given if there is no key.
    """
    count = boxes.shape[0]
    if count == 0:
        return jnp.full((grid, grid), -1, jnp.int32)
    order = jnp.arange(count) if key is None else jax.random.permutation(key, count)
    row, column = _cell_of(boxes, grid)
    cell = jnp.where(valid, row * grid + column, grid * grid)
    first = jnp.full(grid * grid, count).at[cell[order]].min(jnp.arange(count), mode="drop")
    owner = jnp.where(first < count, order[jnp.minimum(first, count - 1)], -1)
    return owner.astype(jnp.int32).reshape(grid, grid)


def encode(
    boxes: Float[Array, "rows columns 4"], num_boxes: int, priors: Priors = ()
) -> Float[Array, "rows columns {num_boxes} 4"]:
    """Compute the coordinates at which each of a cell's boxes equals the given box of the cell.

    Args:
        boxes: one box for each cell.
        num_boxes: the number of boxes in a cell.
        priors: the base boxes of a cell, if any.
    """
    rows, columns, _ = boxes.shape
    repeated = jnp.broadcast_to(boxes[:, :, None], (rows, columns, num_boxes, 4))
    if priors:
        return box_ops.encode(repeated, _base_boxes(rows, columns, priors))
    corner, scale = _cells(rows, columns)
    center, sides = jnp.split(box_ops.to_center(repeated), 2, axis=-1)
    roots = jnp.sqrt(jnp.maximum(sides, 0.0))
    return jnp.concatenate([center * scale - corner, roots], axis=-1)


def decode(
    coordinates: Float[Array, "rows columns boxes 4"], priors: Priors = ()
) -> Float[Array, "rows columns boxes 4"]:
    """Compute the boxes from their coordinates (see the module)."""
    rows, columns, _, _ = coordinates.shape
    if priors:
        return box_ops.decode(coordinates, _base_boxes(rows, columns, priors))
    corner, scale = _cells(rows, columns)
    center = (coordinates[..., :2] + corner) / scale
    return box_ops.from_center(jnp.concatenate([center, coordinates[..., 2:] ** 2], axis=-1))


def scored_boxes(
    outputs: Float[Array, "rows columns outputs"],
    num_boxes: int,
    priors: Priors = (),
    softmax: bool = True,
) -> tuple[Float[Array, "boxes 4"], Float[Array, "boxes classes"]]:
    """Return all boxes of all cells, and the score of each box for each class.

    A score is confidence times class probability (equation 1 of the paper). Both may be regressed
    without a squashing function; negative values count as 0.

    Args:
        outputs: the network's outputs.
        num_boxes: the number of boxes in a cell.
        priors: the base boxes of a cell, if any.
        softmax: whether class outputs are logits; otherwise they are probabilities.
    """
    cells = split_outputs(outputs, num_boxes)
    boxes = decode(cells.coordinates, priors)
    classes = jax.nn.softmax(cells.classes) if softmax else jnp.maximum(cells.classes, 0.0)
    scores = jnp.maximum(cells.confidences, 0.0)[..., None] * classes[:, :, None]
    return boxes.reshape(-1, 4), scores.reshape(-1, classes.shape[-1])


def _cell_of(
    boxes: Float[Array, "objects 4"], grid: int
) -> tuple[Int[Array, " objects"], Int[Array, " objects"]]:
    """Find the row and the column of the cell that contains each box's centre."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    cell = jnp.clip(jnp.floor(center * grid), 0, grid - 1).astype(jnp.int32)
    return cell[:, 1], cell[:, 0]


def _cells(
    rows: int, columns: int
) -> tuple[Float[Array, "{rows} {columns} 1 2"], Float[Array, "1 1 1 2"]]:
    """Return the (column, row) of each cell, and the numbers of columns and rows."""
    row, column = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
    corner = jnp.stack([column, row], axis=-1)[:, :, None].astype(jnp.float32)
    return corner, jnp.array([columns, rows], jnp.float32).reshape(1, 1, 1, 2)


def _base_boxes(
    rows: int, columns: int, priors: Priors
) -> Float[Array, "{rows} {columns} boxes 4"]:
    """Place the base boxes at the centres of all cells."""
    corner, scale = _cells(rows, columns)
    shape = (rows, columns, len(priors), 2)
    center = jnp.broadcast_to((corner + 0.5) / scale, shape)
    sides = jnp.broadcast_to(jnp.array(priors, jnp.float32)[None, None], shape)
    return box_ops.from_center(jnp.concatenate([center, sides], axis=-1))
