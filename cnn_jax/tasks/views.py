"""Several views of each image at test time, mirrored and of several sizes, and their mean.

The three functions call a prediction for each view and make one prediction of all. Classes and
pixels get the mean of the probabilities. Detections of all views are joined, and suppressed class
by class as those of one view are, so that each object keeps its best box.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_jax.errors import check
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.nms import Detections, detect
from cnn_jax.tasks.detection.evaluation import DetectionRule
from cnn_jax.tasks.images import levels

Batch = dict[str, Any]

SMALLEST, LARGEST = 0.25, 4.0
"""The range of the sizes of views."""


@dataclass(frozen=True)
class Views:
    """The views of an image besides itself.

    Attributes:
        flip: whether each view is mirrored too.
        scales: sizes, as shares of the image's own.
    """

    flip: bool = False
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for scale in self.scales:
            legal = SMALLEST <= scale <= LARGEST
            check(legal, "tta", f"{scale:g}", f"from {SMALLEST} to {LARGEST}")

    @property
    def alone(self) -> bool:
        """Tell whether the image itself is the only view."""
        return len(list(self)) == 1

    def __iter__(self) -> Iterator[tuple[float, bool]]:
        """The scale of each view, and whether it is mirrored; the image itself comes first."""
        for scale in dict.fromkeys((1.0, *self.scales)):
            yield from ((scale, flip) for flip in ((False, True) if self.flip else (False,)))


def read_views(texts: tuple[str, ...]) -> Views:
    """The views that `flip` and numbers name.

    Raises:
        UserError: a text is something else.
    """
    scales = []
    for text in texts:
        if text != "flip":
            try:
                scales.append(float(text))
            except ValueError:
                check(False, "tta", text, "flip, or sizes as numbers: flip 0.75 1.25")
    return Views("flip" in texts, tuple(scales))


def average_classes(
    predict: Callable[[Batch], Float[Array, "batch classes"]], batch: Batch, views: Views
) -> Float[Array, "batch classes"]:
    """Log-probabilities of images, or of several crops of each, from the mean over their views.

    Args:
        predict: log-probabilities of a batch with images of any size.
        batch: `image`, uint8, uint16 or floats in 0..255.
        views: those to average.
    """
    if views.alone:
        return predict(batch)
    seen = [
        predict({**batch, "image": _mirrored(_resized(batch["image"], scale), flip)})
        for scale, flip in views
    ]
    return _mean(seen)


def average_pixels(
    predict: Callable[[Batch], Float[Array, "batch height width classes"]],
    batch: Batch,
    views: Views,
    margin: int,
) -> Float[Array, "batch height width classes"]:
    """Log-probabilities of every pixel from the mean over an image's views.

    Args:
        predict: log-probabilities of the pixels of images without their margins.
        batch: `image`, uint8, uint16 or floats in 0..255, with margins.
        views: those to average.
        margin: pixels on each side that are seen, and not predicted.
    """
    if views.alone:
        return predict(batch)
    size = tuple(length - 2 * margin for length in batch["image"].shape[1:3])
    seen = []
    for scale, flip in views:
        image = _with_margin(batch["image"], size, scale, margin)
        probabilities = jnp.exp(predict({**batch, "image": _mirrored(image, flip)}))
        shape = (len(probabilities), *size, probabilities.shape[-1])
        resized = jax.image.resize(_mirrored(probabilities, flip), shape, "linear")
        # Where rounding leaves nothing of a class, its logarithm stays finite.
        seen.append(jnp.log(jnp.maximum(resized, jnp.finfo(jnp.float32).tiny)))
    return _mean(seen)


def join_detections(
    predict: Callable[[Batch], Detections],
    batch: Batch,
    views: Views,
    *,
    rule: DetectionRule,
    num_classes: int,
    background: tuple[float, ...],
) -> Detections:
    """The detections of all views of each image, in pixels of the original image.

    The network's square keeps its size: a view smaller than it lies in its upper left corner.

    Args:
        predict: the detections of a batch.
        batch: `image` [batch, side, side, 3], `size`, and `proposals` where there are some.
        views: those to join, none larger than the image.
        rule: how detections are suppressed and how many are kept.
        num_classes: number of classes.
        background: the colour around a smaller view, in 0..1.

    Raises:
        UserError: a view is larger than the image.
    """
    if views.alone:
        return predict(batch)
    for scale in views.scales:
        check(scale <= 1, "tta", scale, "at most 1 for detect, whose input has one size")
    seen = []
    for scale, flip in views:
        found = predict(_square_view(batch, scale, flip, background))
        place = jax.vmap(partial(_in_original, scale=scale, flip=flip))
        seen.append(found._replace(boxes=place(found.boxes, batch["size"])))
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *seen)

    def one(found: Detections) -> Detections:
        own = found.labels[:, None] == jnp.arange(num_classes)[None]
        return detect(
            found.boxes,
            jnp.where(own, found.scores[:, None], -1.0),
            threshold=rule.nms_threshold,
            min_score=rule.min_score,
            max_per_class=min(rule.max_detections, len(found.scores)),
            max_detections=rule.max_detections,
            valid=found.valid,
        )

    return jax.vmap(one)(joined)


def _square_view(batch: Batch, scale: float, flip: bool, background: tuple[float, ...]) -> Batch:
    """The batch with images, and proposals, mirrored and then made smaller."""
    image = levels(_mirrored(batch["image"], flip))
    side = image.shape[2]
    view = dict(batch)
    if "proposals" in batch:
        boxes = batch["proposals"]
        view["proposals"] = (_mirrored_boxes(boxes, side) if flip else boxes) * scale
    if scale < 1:
        small = _resized(image, scale)
        colour = 255 * jnp.broadcast_to(jnp.array(background, jnp.float32), image.shape)
        image = colour.at[:, : small.shape[1], : small.shape[2]].set(small)
    return {**view, "image": image}


def _in_original(
    boxes: Float[Array, "boxes 4"], size: Float[Array, "2"], scale: float, flip: bool
) -> Float[Array, "boxes 4"]:
    """The boxes of a view of one image in the image itself."""
    boxes = box_ops.clip(boxes / scale, size)
    return _mirrored_boxes(boxes, size[1]) if flip else boxes


def _mirrored_boxes(boxes: Array, width: int | Array) -> Array:
    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    return jnp.stack([width - right, top, width - left, bottom], axis=-1)


def _mirrored(images: Array, flip: bool) -> Array:
    return images[..., ::-1, :] if flip else images


def _resized(images: Array, scale: float) -> Array:
    """Images whose sides are `scale` times as long."""
    if scale == 1:
        return images
    *batch, height, width, channels = images.shape
    shape = (*batch, *(max(round(scale * side), 1) for side in (height, width)), channels)
    return jax.image.resize(levels(images), shape, "linear")


def _with_margin(images: Array, size: tuple[int, int], scale: float, margin: int) -> Array:
    """Resized images that reach as far beyond what is predicted as the network sees."""
    if scale == 1:
        return images
    resized = _resized(images, scale)
    wanted = [max(round(scale * side), 1) + 2 * margin for side in size]
    for axis, side in enumerate(wanted, start=1):
        missing = side - resized.shape[axis]
        before = abs(missing) // 2
        if missing > 0:
            padding = [(0, 0)] * resized.ndim
            padding[axis] = (before, missing - before)
            resized = jnp.pad(resized, padding, mode="symmetric")
        else:
            resized = jax.lax.slice_in_dim(resized, before, before + side, axis=axis)
    return resized


def _mean(log_probabilities: list[Array]) -> Array:
    """The logarithm of the mean probability."""
    count = len(log_probabilities)
    return jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0) - jnp.log(float(count))
