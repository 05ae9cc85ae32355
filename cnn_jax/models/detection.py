"""The networks with a grid of detections: `create(name, num_classes, **options)` makes any of them.

Besides those registered here, every classifier of `cnn_jax.models` is one, as the backbone of
`GridDetector`. A network's `apply(variables, images, train=False)` returns the outputs of every
cell [batch, grid, grid, boxes * 5 + classes] and its features.
"""

from functools import partial
from typing import Any

import flax.linen as nn

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import yolo
from cnn_jax.models.registry import construct, nearest, option_fields

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# What takes images in 0..1 to -1..1.
_CENTERED: Statistics = ((0.5,) * 3, (0.5,) * 3)

_NETWORKS: dict[str, partial[nn.Module]] = {"yolo": yolo.yolo, "fast_yolo": yolo.fast_yolo}

# The pixels on a side of the images that the networks registered here are made for.
IMAGE_SIZE = 448

# The options of a detector that are its grid's alone, and those that the backbone has too.
_GRID_OPTIONS = ("grid", "boxes")
_SHARED_OPTIONS = ("width", "dropout_rate", "dtype")


def names() -> tuple[str, ...]:
    """The networks registered here, then the classifiers that may be a backbone."""
    return (*_NETWORKS, *models.names())


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
    """The network `name` for `num_classes` classes.

    Args:
        name: one of `names()`.
        num_classes: number of classes.
        **options: those of the network; of a classifier as backbone the classifier's own, and
            `grid` and `boxes`. `width` goes to both, `dropout_rate` to the grid's outputs.

    Raises:
        UserError: for an unknown name or option, or a value that an option does not allow.
    """
    for option in _GRID_OPTIONS:
        if options.get(option, 1) < 1:
            raise UserError(f"{name}: option {option} must be 1 or more, not {options[option]}")
    if name in _NETWORKS:
        return construct(name, _NETWORKS[name], num_classes, options)
    if name not in models.names():
        raise UserError(
            f"unknown model {name!r}{nearest(name, names())}; "
            "cnn_jax.models.detection.names() lists them all"
        )
    own = {k: v for k, v in options.items() if k not in (*_GRID_OPTIONS, "dropout_rate")}
    if "auxiliary" in models.options(name):
        # Their losses are the classifier's.
        own.setdefault("auxiliary", False)
    backbone = models.create(name, 1, **own)
    grid = {k: v for k, v in options.items() if k in (*_GRID_OPTIONS, *_SHARED_OPTIONS)}
    constructor = partial(yolo.GridDetector, backbone=backbone, backbone_name=name)
    return construct(name, constructor, num_classes, grid)


def options(name: str) -> tuple[str, ...]:
    """The options that `create(name, ...)` takes."""
    if name in _NETWORKS:
        return tuple(option_fields(_NETWORKS[name]))
    return (*models.options(name), *_GRID_OPTIONS)


def image_size(name: str) -> int:
    """Pixels on a side of the images that the network is made for."""
    return IMAGE_SIZE if name in _NETWORKS else models.input_spec(name).image_size


def statistics(name: str) -> Statistics:
    """The mean and standard deviation by which R, G and B of images in 0..1 are normalised."""
    if name in _NETWORKS:
        return _CENTERED
    spec = models.input_spec(name)
    return spec.mean, spec.std
