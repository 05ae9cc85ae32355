"""Occlusion sensitivity (Zeiler & Fergus 2014, "Visualizing and understanding ...", 4.2)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cnn_jax.explanations.grad_cam import Score
from cnn_jax.explanations.maps import Images, Network


def starts(size: int, patch: int, step: int) -> np.ndarray:
    """The first rows (or columns) of patches at equal steps; the last one ends at the border.

    Args:
        size: rows of the image.
        patch: rows of a patch, at most `size`.
        step: rows from one patch to the next, at least 1.
    """
    regular = np.arange(0, size - patch, step, dtype=np.int32)
    return np.append(regular, np.int32(size - patch))


def occlusion(
    network: Network,
    score: Score,
    images: Images,
    asked: Any,
    *,
    patch: int,
    step: int,
    at_a_time: int = 16,
) -> Float[Array, "batch height width"]:
    """Compute how much a score falls where the image is covered by a grey square.

    Args:
        network: the network.
        score: the score of one example's outputs, such as the probability of a class.
        images: normalised images, in which 0 is the data's mean colour.
        asked: what `score` is asked for each image: arrays whose first axis is the batch.
        patch: pixels on a side of the square.
        step: pixels from one place of the square to the next, at most `patch`.
        at_a_time: places whose images are computed together.

    Returns:
        The mean fall over the squares that cover a pixel; negative where covering it helps.
    """
    height, width = images.shape[1:3]
    rows, columns = (starts(length, patch, step) for length in (height, width))
    tops, lefts = (jnp.asarray(x.ravel()) for x in np.meshgrid(rows, columns, indexing="ij"))

    def scores(images: Images) -> Float[Array, " batch"]:
        return jax.vmap(score)(network(images)[0], asked)

    def covered(place: tuple[Array, Array]) -> Bool[Array, "height width"]:
        down, across = jnp.arange(height) - place[0], jnp.arange(width) - place[1]
        inside = [(offset >= 0) & (offset < patch) for offset in (down, across)]
        return inside[0][:, None] & inside[1][None]

    before = scores(images)

    def fall(place: tuple[Array, Array]) -> Float[Array, " batch"]:
        return before - scores(jnp.where(covered(place)[None, :, :, None], 0.0, images))

    falls = jax.lax.map(fall, (tops, lefts), batch_size=at_a_time)
    covers = jax.vmap(covered)((tops, lefts)).astype(jnp.float32)
    return jnp.einsum("pb,phw->bhw", falls, covers) / jnp.sum(covers, axis=0)[None]
