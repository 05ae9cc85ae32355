"""YOLO's loss of one image: coordinates, confidences and classes of a grid of cells.

References:
    Redmon et al., `You Only Look Once: Unified, Real-Time Object Detection
    <https://arxiv.org/abs/1506.02640>`_, 2016, section 2.2
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from cnn_jax.losses.classification import cross_entropy
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops import grid as grid_ops
from cnn_jax.ops.grid import Priors


class YoloLoss(NamedTuple):
    """The parts of the loss, each with its weight; their sum is what is minimised."""

    coordinates: Float[Array, ""]
    confidence: Float[Array, ""]
    classes: Float[Array, ""]


def yolo_loss(
    outputs: Float[Array, "grid grid outputs"],
    boxes: Float[Array, "objects 4"],
    labels: Int[Array, " objects"],
    valid: Bool[Array, " objects"],
    key: Key[Array, ""] | None = None,
    *,
    num_boxes: int,
    priors: Priors = (),
    softmax: bool = True,
    coordinate_weight: float = 5.0,
    empty_weight: float = 0.5,
) -> YoloLoss:
    """Sums of squared errors, as the paper has them, or with a softmax and base boxes.

    A cell into which an object's centre falls is responsible for that object (for one; see
    `cnn_jax.ops.grid.owners`), and so is one of its boxes: without priors the one that at present
    overlaps the object most, by IoU, or is nearest by squared error of centre and sides where none
    overlaps it at all (as in the authors' code); with priors the one whose base box has the shape
    most like the object's. That box's coordinates are pulled to the object, its confidence to the
    present IoU, the cell's classes to the object's class; all other confidences, those of the same
    cell included, are pulled to 0. IoU is a constant to the gradient.

    The authors' code leaves the 2 out of a square's gradient: their learning rates are twice those
    that this loss wants.

    Args:
        outputs: of the network, for one image (see `cnn_jax.ops.grid`).
        boxes: the objects', in shares of the image's sides.
        labels, valid: their classes, and which of them there are.
        key: shuffles which object of a cell goes first; None: the first given.
        num_boxes: how many boxes a cell has.
        priors: their base boxes, if they have any.
        softmax: class outputs are logits of a softmax with cross-entropy, as in lectures on the
            method, instead of probabilities with squared errors.
        coordinate_weight, empty_weight: of coordinates, and of confidences that should be 0.
    """
    cells = grid_ops.split_outputs(outputs.astype(jnp.float32), num_boxes)
    size = outputs.shape[0]
    owner = grid_ops.owners(boxes, valid, size, key)
    occupied = owner >= 0
    if boxes.shape[0] == 0:
        boxes, labels = jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32)
    mine = boxes[jnp.maximum(owner, 0)]
    label = labels[jnp.maximum(owner, 0)]

    predicted = lax.stop_gradient(grid_ops.decode(cells.coordinates, priors))
    over_boxes = jax.vmap(_iou, (0, None))
    overlap = jax.vmap(jax.vmap(over_boxes))(predicted, mine)
    if priors:
        shapes = jnp.array([(0.0, 0.0, *prior) for prior in priors])
        own_shape = jnp.concatenate([jnp.zeros_like(mine[..., :2]), box_ops.sides(mine)], axis=-1)
        alike = jax.vmap(jax.vmap(over_boxes, (None, 0)), (None, 0))(shapes, own_shape)
        best = jnp.argmax(alike, axis=-1)
    else:
        difference = box_ops.to_center(predicted) - box_ops.to_center(mine)[:, :, None]
        nearest = jnp.argmin(jnp.sum(difference**2, axis=-1), axis=-1)
        best = jnp.where(jnp.max(overlap, axis=-1) > 0, jnp.argmax(overlap, axis=-1), nearest)
    responsible = (jnp.arange(num_boxes)[None, None] == best[..., None]) & occupied[..., None]

    errors = jnp.sum((cells.coordinates - grid_ops.encode(mine, num_boxes, priors)) ** 2, axis=-1)
    confidence_errors = (cells.confidences - jnp.where(responsible, overlap, 0.0)) ** 2
    weights = jnp.where(responsible, 1.0, empty_weight)
    return YoloLoss(
        coordinates=coordinate_weight * jnp.sum(jnp.where(responsible, errors, 0.0)),
        confidence=jnp.sum(weights * confidence_errors),
        classes=jnp.sum(jnp.where(occupied, _class_errors(cells.classes, label, softmax), 0.0)),
    )


def _iou(box: Float[Array, "4"], other: Float[Array, "4"]) -> Float[Array, ""]:
    return box_ops.iou(box[None], other[None])[0, 0]


def _class_errors(
    outputs: Float[Array, "grid grid classes"], labels: Int[Array, "grid grid"], softmax: bool
) -> Float[Array, "grid grid"]:
    if softmax:
        return jax.vmap(jax.vmap(cross_entropy))(outputs, labels)
    return jnp.sum((outputs - jax.nn.one_hot(labels, outputs.shape[-1])) ** 2, axis=-1)
