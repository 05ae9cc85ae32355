"""R-CNN's warped regions: boxes with context, resampled to one size."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.ops.boxes import map_boxes, round_half_away


def warp_crops(
    image: Float[Array, "height width channels"],
    boxes: Float[Array, "boxes 4"],
    size: int,
    context: int = 16,
    fill: tuple[float, ...] | float = 0.0,
) -> Float[Array, "boxes {size} {size} channels"]:
    """Cut boxes out with context around them, and warp each to a square.

    Girshick et al. 2014, appendix A, "warp", with its code's order of roundings. The box grows
    about its centre until exactly `context` pixels of the crop surround it, and its borders are
    rounded to whole pixels. The part inside the image is resampled, bilinear and without
    antialiasing, to its part of the crop, rounded to whole pixels. The rest of the crop, or all of
    it if the box misses the image, is `fill`.

    The crops are differentiable in the image, but not in the boxes, whose borders are rounded.

    Args:
        image: one image.
        boxes: regions in pixels of the image; they may extend beyond it.
        size: the side of a crop in pixels, 227 in the paper.
        context: the pixels of the crop on each side that the box itself does not cover.
        fill: the value outside the image, for all channels or for each: the data's mean in the
            paper.

    References:
        Girshick et al., `Rich feature hierarchies for accurate object detection and semantic
        segmentation <https://arxiv.org/abs/1311.2524>`_, 2014
    """
    height, width, channels = image.shape
    growth = size / (size - 2 * context)
    outside = jnp.broadcast_to(jnp.asarray(fill, image.dtype), (channels,))[None, None]

    def warp(box):
        x1, y1, x2, y2 = box
        rows = _samples(y1, y2, growth, height, size)
        columns = _samples(x1, x2, growth, width, size)

        def across(row: Int[Array, " size"]) -> Float[Array, "size size channels"]:
            left, right = (image[row[:, None], x[None]] for x in (columns.low, columns.high))
            return _blend(left, right, columns.share[None, :, None])

        sampled = _blend(across(rows.low), across(rows.high), rows.share[:, None, None])
        inside = rows.inside[:, None] & columns.inside[None]
        return jnp.where(inside[..., None], sampled.astype(image.dtype), outside)

    return map_boxes(warp, boxes)


class _Samples(NamedTuple):
    """The source pixels of one side of a crop: two neighbours and the weight of the second."""

    low: Int[Array, " size"]
    high: Int[Array, " size"]
    share: Float[Array, " size"]
    inside: Bool[Array, " size"]


def _samples(
    start: Float[Array, ""], stop: Float[Array, ""], growth: float, length: int, size: int
) -> _Samples:
    """Find the sources of `size` pixels along one axis of an image of `length` pixels."""
    center, half = (start + stop) / 2, (stop - start) / 2 * growth
    start, stop = round_half_away(center - half), round_half_away(center + half)
    scale = size / jnp.maximum(stop - start, 1.0)
    first, last = jnp.clip(start, 0, length), jnp.clip(stop, 0, length)
    before = round_half_away((first - start) * scale)
    # The parts are rounded separately, so they may be a pixel longer than the whole.
    covered = jnp.minimum(round_half_away((last - first) * scale), size - before)
    number = jnp.arange(size, dtype=before.dtype) - before
    place = first - 0.5 + (number + 0.5) * (last - first) / jnp.maximum(covered, 1.0)
    # The clipped box's outermost pixels are repeated, not blended with those beyond it.
    place = jnp.clip(place, first, jnp.maximum(last - 1, first))
    low = jnp.clip(jnp.floor(place), 0, length - 1)
    high = jnp.minimum(low + 1, jnp.maximum(last - 1, 0))
    inside = (number >= 0) & (number < covered)
    return _Samples(low.astype(jnp.int32), high.astype(jnp.int32), place - low, inside)


def _blend(
    first: Float[Array, "rows columns channels"],
    second: Float[Array, "rows columns channels"],
    share: Float[Array, "_ _ 1"],
) -> Float[Array, "rows columns channels"]:
    return first * (1.0 - share) + second * share
