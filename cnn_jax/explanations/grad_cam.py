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
    network: Network, score: Score, images: Images, asked: Any, stage: str
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

    Returns:
        The evidence in every cell of the map, at least 0, in the units of the score.
    """
    zeros = jnp.zeros(map_shapes(network, images)[stage])

    def total(by: Array) -> tuple[Array, Array]:
        outputs, maps = moved(network, images, stage, by)
        return jnp.sum(jax.vmap(score)(outputs, asked)), maps

    # Examples do not depend on each other: the gradient of the sum has each one's own.
    gradients, maps = jax.grad(total, has_aux=True)(zeros)
    return jax.vmap(weighted_map)(maps, gradients)


def weighted_map(
    features: Float[Array, "rows columns features"],
    gradients: Float[Array, "rows columns features"],
) -> Float[Array, "rows columns"]:
    """Add the maps of one example, each weighted by its mean gradient; negative sums count as 0."""
    weights = jnp.mean(gradients, axis=(0, 1))
    return jnp.maximum(jnp.einsum("rcf,f->rc", features, weights), 0.0)
