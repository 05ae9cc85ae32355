"""Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks ...")."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_jax.explanations.maps import Images, Network, map_shapes, moved

Score = Callable[[Any, Any], Float[Array, ""]]
"""From the outputs of one example, and what is asked about them, to the score that is explained."""


def grad_cam(
    network: Network,
    score: Score,
    images: Images,
    asked: Any,
    stage: str,
    local: bool = False,
) -> Float[Array, "batch rows columns"]:
    """Compute where a map of the network speaks for a score (equations 1 and 2).

    Args:
        network: the network, without dropout and with fixed batch statistics.
        score: the score, such as the logit of a class before the softmax. A score of a map of
            logits, summed over the pixels of a class, explains a segmentation (Vinogradova et al.
            2020).
        images: normalised images.
        asked: what `score` is asked for each image, such as the number of a class: arrays whose
            first axis is the batch.
        stage: the name of the map.
        local: whether the score is of one place, such as a box. Then every cell has the weights of
            its own gradient, not their means over the map, which would forget the place (Zhao &
            Chan 2023, "ODAM: gradient-based instance-specific visual explanations ...").

    Returns:
        The evidence in every cell of the map, at least 0, in the units of the score.
    """
    zeros = jnp.zeros(map_shapes(network, images)[stage])

    def total(by: Array) -> tuple[Array, Array]:
        outputs, maps = moved(network, images, stage, by)
        return jnp.sum(jax.vmap(score)(outputs, asked)), maps

    # Examples do not depend on each other: the gradient of the sum has each one's own.
    gradients, maps = jax.grad(total, has_aux=True)(zeros)
    if not local:
        gradients = jnp.broadcast_to(jnp.mean(gradients, (1, 2), keepdims=True), maps.shape)
    return jax.vmap(weighted_map)(maps, gradients)


def weighted_map(
    features: Float[Array, "rows columns features"],
    weights: Float[Array, "rows columns features"],
) -> Float[Array, "rows columns"]:
    """Add the weighted maps of one example; negative sums count as 0."""
    return jnp.maximum(jnp.sum(features * weights, axis=-1), 0.0)
