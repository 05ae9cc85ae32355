"""RoIAlign: bilinear sampling of box features, as two small matrix products for each box."""

import math
from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnn_jax.ops.boxes import map_boxes


def roi_align(
    features: Float[Array, "height width channels"],
    boxes: Float[Array, "boxes 4"],
    size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | None = 2,
    aligned: bool = True,
) -> Float[Array, "boxes {size[0]} {size[1]} channels"]:
    """Average bilinear samples on a regular grid in each of `size` bins of every box.

    A sample more than one cell outside the map counts as zero; a nearer one takes the value at the
    border (the rule of torchvision and detectron2). The result is differentiable in features and
    boxes.

    Args:
        features: the map of one image.
        boxes: boxes in pixels of the image.
        size: rows and columns of bins.
        spatial_scale: cells of the map per pixel of the image, 1/16 for a stride of 16.
        sampling_ratio: samples along each side of a bin. None takes as many as the bin has cells,
            rounded up (torchvision's `sampling_ratio=-1`), but for boxes larger than the map, no
            more than a bin of the whole map would get.
        aligned: whether centres of cells lie at halves, as in this project. If not, they lie at
            whole numbers, half a cell off, and boxes smaller than a cell are enlarged to one (the
            form of the first implementations and torchvision's default).

    References:
        He et al., `Mask R-CNN <https://arxiv.org/abs/1703.06870>`_, 2017, section 3
    """
    axis_weights = partial(_axis_weights, sampling_ratio=sampling_ratio, aligned=aligned)

    def pool(box):
        x1, y1, x2, y2 = box * spatial_scale
        rows = axis_weights(y1, y2, features.shape[0], size[0])
        columns = axis_weights(x1, x2, features.shape[1], size[1])
        product = partial(
            jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )
        by_row = product("ph,hwc->pwc", rows, features)
        return product("qw,pwc->pqc", columns, by_row).astype(features.dtype)

    return map_boxes(pool, boxes.astype(jnp.float32))


def _axis_weights(
    start: Float[Array, ""],
    stop: Float[Array, ""],
    length: int,
    bins: int,
    sampling_ratio: int | None,
    aligned: bool,
) -> Float[Array, "{bins} {length}"]:
    """Compute the weight of each of `length` cells in the average of each bin, along one axis."""
    if aligned:
        start, stop = start - 0.5, stop - 0.5
    extent = stop - start if aligned else jnp.maximum(stop - start, 1.0)
    bin_size = extent / bins
    most = sampling_ratio or math.ceil(length / bins)
    # As many samples as torchvision takes: none in a bin without size.
    samples = jnp.clip(jnp.ceil(bin_size), 0, most) if sampling_ratio is None else float(most)
    steps, divisor = jnp.arange(most, dtype=jnp.float32), jnp.maximum(samples, 1.0)
    within = (steps + 0.5) * bin_size / divisor
    places = start + jnp.arange(bins, dtype=jnp.float32)[:, None] * bin_size + within[None]
    counted = (places >= -1) & (places <= length) & (steps < samples)[None]
    cells = jnp.arange(length, dtype=jnp.float32)[None, None]
    distance = jnp.abs(jnp.clip(places, 0, length - 1)[..., None] - cells)
    weights = jnp.where(counted[..., None], jnp.maximum(1.0 - distance, 0.0), 0.0)
    return jnp.sum(weights, axis=1) / divisor
