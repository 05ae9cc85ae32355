"""YOLO's loss of one image: coordinates, confidences and classes on a grid of cells.

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
    """The weighted parts of the loss; training minimises their sum."""

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
    class_weights: Float[Array, " classes"] | None = None,
) -> YoloLoss:
    """Compute sums of squared errors as in the paper, or with a softmax and base boxes.

    The cell that contains an object's centre is responsible for that object, and for only one
    object (see `cnn_jax.ops.grid.owners`). One of the cell's boxes is responsible, too. Without
    priors, it is the box with the highest current IoU with the object; if no box overlaps the
    object, it is the nearest by squared error of centre and sides, as in the authors' code. With
    priors, it is the box whose base box has the shape most similar to the object's. The targets are
    the object for the coordinates of that box, the current IoU for its confidence, and the object's
    class for the cell's classes. All other confidences, also in the same cell, have target 0. The
    IoU is a constant to the gradient.

    The authors' code omits the factor 2 in the gradient of a square, so its learning rates are
    twice those for this loss.

    Args:
        outputs: the network's outputs for one image (see `cnn_jax.ops.grid`).
        boxes: the objects' boxes, in fractions of the image's sides.
        labels, valid: the objects' classes, and a mask of the rows that hold an object.
        key: shuffles the objects that compete for a cell; None prefers the first given.
        num_boxes: the number of boxes in a cell.
        priors: the base boxes of a cell, if any.
        softmax: whether class outputs are logits of a softmax with cross-entropy, as in lectures
            on the method, instead of probabilities with squared errors.
        coordinate_weight, empty_weight: the weights of coordinates, and of confidences whose
            target is 0.
        class_weights: factors of the objects' class losses by their classes.
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
    class_errors = _class_errors(cells.classes, label, softmax)
    if class_weights is not None:
        class_errors *= class_weights[label]
    return YoloLoss(
        coordinates=coordinate_weight * jnp.sum(jnp.where(responsible, errors, 0.0)),
        confidence=jnp.sum(weights * confidence_errors),
        classes=jnp.sum(jnp.where(occupied, class_errors, 0.0)),
    )


def _iou(box: Float[Array, "4"], other: Float[Array, "4"]) -> Float[Array, ""]:
    return box_ops.iou(box[None], other[None])[0, 0]


def _class_errors(
    outputs: Float[Array, "grid grid classes"], labels: Int[Array, "grid grid"], softmax: bool
) -> Float[Array, "grid grid"]:
    if softmax:
        return jax.vmap(jax.vmap(cross_entropy))(outputs, labels)
    return jnp.sum((outputs - jax.nn.one_hot(labels, outputs.shape[-1])) ** 2, axis=-1)
