"""Augmentation of an image together with its boxes: functions of one example."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from cnn_jax.data.augment import color, geometry
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ranges import Range, check_ranges

# Every step's key is folded with its position in this list: append to it, never reorder it.
_STEPS = ("move", "flip", "hue", "saturation", "exposure")


@dataclasses.dataclass(frozen=True)
class BoxAugmentation:
    """Augmentation of training images and their boxes on the device; YOLO's by default.

    Redmon et al. 2016, section 2.2 (flips and the hue are from its code).
    """

    scale: Annotated[float, Range(0, 1, below=True)] = 0.2
    """The largest relative change of the size; 0 turns it off."""
    translate: Annotated[float, Range(0, 1, below=True)] = 0.2
    """The largest displacement, as a fraction of the side; 0 turns it off."""
    flip: bool = True
    """Mirror images left to right with probability 1/2."""
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    """The largest shift of the hue, as a fraction of the colour circle."""
    saturation: Annotated[float, Range(1, 100)] = 1.5
    """The largest factor of the saturation, or of its inverse; 1 turns it off."""
    exposure: Annotated[float, Range(1, 100)] = 1.5
    """The largest factor of the brightness, or of its inverse; 1 turns it off."""
    min_visible: Annotated[float, Range(0, 1)] = 0.2
    """The least fraction of a box that must remain in the image; other objects are dropped."""

    def __post_init__(self) -> None:
        check_ranges(self)


def augment_boxes(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    boxes: Float[Array, "objects 4"],
    valid: Bool[Array, " objects"],
    config: BoxAugmentation,
) -> tuple[
    Float[Array, "height width channels"], Float[Array, "objects 4"], Bool[Array, " objects"]
]:
    """Scale, move, mirror and tint one image, and its boxes with it.

    Args:
        key: the example's own random key.
        image: values in 0..1.
        boxes: the boxes in pixels of the image.
        valid: False for padding.
        config: the steps and their strengths.

    Returns:
        Image, boxes and validity in the same shapes. Boxes are clipped to the image; dropped
        objects are no longer valid.
    """
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(_STEPS)}
    if config.scale or config.translate:
        image, boxes, share = _move(keys["move"], image, boxes, config)
        valid &= (share >= config.min_visible) & box_ops.is_large(boxes)
    if config.flip:
        mirrored = jax.random.bernoulli(keys["flip"])
        image = jnp.where(mirrored, image[:, ::-1], image)
        boxes = jnp.where(mirrored, flip_boxes(boxes, image.shape[1]), boxes)
    if config.hue:
        image = color.adjust_hue(
            image, jax.random.uniform(keys["hue"], minval=-config.hue, maxval=config.hue)
        )
    if config.saturation > 1 or config.exposure > 1:
        image = color.adjust_hsv(
            image,
            _factor(keys["saturation"], config.saturation),
            _factor(keys["exposure"], config.exposure),
        )
    return image, boxes, valid


def flip_boxes(
    boxes: Float[Array, "objects 4"], width: int | Float[Array, ""]
) -> Float[Array, "objects 4"]:
    """Mirror boxes left to right, with their image."""
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    return jnp.stack([width - x2, y1, width - x1, y2], axis=-1)


def _move(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    boxes: Float[Array, "objects 4"],
    config: BoxAugmentation,
) -> tuple[
    Float[Array, "height width channels"], Float[Array, "objects 4"], Float[Array, " objects"]
]:
    """Scale the image about its centre and move it; return the visible fraction of each box too."""
    height, width, _ = image.shape
    size = jnp.array([width, height], image.dtype)
    scale_key, move_key = jax.random.split(key)
    scale = jax.random.uniform(scale_key, minval=1 - config.scale, maxval=1 + config.scale)
    share = jax.random.uniform(move_key, (2,), minval=-config.translate, maxval=config.translate)
    moved = share * size
    matrix = geometry.inverse_affine_matrix(0.0, moved, scale, jnp.zeros(2), size / 2)
    center, offset = jnp.tile(size / 2, 2)[None], jnp.tile(moved, 2)[None]
    placed = (boxes - center) * scale + center + offset
    clipped = box_ops.clip(placed, (height, width))
    left = box_ops.area(clipped) / jnp.maximum(box_ops.area(placed), 1e-6)
    # Grey beyond the border: the middle of the range.
    return geometry.affine(image, matrix, fill=0.5), clipped, left


def _factor(key: Key[Array, ""], largest: float) -> Float[Array, ""]:
    """Draw uniformly from 1 to `largest`, or the inverse of that, as darknet does."""
    amount_key, which_key = jax.random.split(key)
    factor = jax.random.uniform(amount_key, minval=1.0, maxval=largest)
    return jnp.where(jax.random.bernoulli(which_key), factor, 1.0 / factor)
