"""Losses of one example: ``jax.vmap`` them over the batch, and reduce there.

Every function takes the outputs of one example and computes in float32 or wider, whatever the
network's computation dtype. Nothing here averages over a batch: the caller does, who knows which
rows of the batch are valid.
"""

from cnn_jax.losses.boxes import smooth_l1
from cnn_jax.losses.classification import (
    class_distribution,
    cross_entropy,
    sigmoid_cross_entropy,
)
from cnn_jax.losses.segmentation import dice_loss, pixel_cross_entropy

__all__ = [
    "class_distribution",
    "cross_entropy",
    "dice_loss",
    "pixel_cross_entropy",
    "sigmoid_cross_entropy",
    "smooth_l1",
]
