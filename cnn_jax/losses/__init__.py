"""Losses of one example; the caller applies ``jax.vmap`` over the batch and reduces.

Every function takes the outputs of one example and computes in float32 or wider, whatever the
network's computation dtype. No function averages over a batch: only the caller knows which rows of
the batch are valid.
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
