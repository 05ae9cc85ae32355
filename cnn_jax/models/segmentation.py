"""The segmentation networks: `create(name, num_classes, **options)` makes any of them.

Besides those registered here, every classifier of `cnn_jax.models` is one, as the encoder of
`EncoderDecoder`. A network's `apply(variables, images, train=False)` returns logits for every
pixel [batch, height, width, classes] and its features; its `legal_size(size)` is the smallest legal
input that gives `size` rows (or columns) out, and `margin` the pixels on every side of the input
that the output lacks.
"""

from functools import partial
from typing import Any

import flax.linen as nn

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import fcn, segnet, unet
from cnn_jax.models.encoder_decoder import EncoderDecoder
from cnn_jax.models.registry import construct, nearest, option_fields

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What takes images in 0..1 to -1..1, and to 0..255.
_CENTERED: Statistics = ((0.5,) * 3, (0.5,) * 3)
_BYTES: Statistics = ((0.0,) * 3, (1 / 255,) * 3)

_NETWORKS: dict[str, tuple[partial[nn.Module], Statistics]] = {
    "segnet": (segnet.segnet, _IMAGENET),
    "segnet_basic": (segnet.segnet_basic, _BYTES),
    "unet": (unet.unet, _CENTERED),
    "unet_same": (unet.unet_same, _CENTERED),
    "fcn32s": (fcn.fcn32s, _IMAGENET),
    "fcn16s": (fcn.fcn16s, _IMAGENET),
    "fcn8s": (fcn.fcn8s, _IMAGENET),
}

# The options of an encoder-decoder that are its decoder's alone.
_DECODER_OPTIONS = ("upsampling", "output_stride")


def names() -> tuple[str, ...]:
    """The networks registered here, then the classifiers that may be an encoder."""
    return (*_NETWORKS, *models.names())


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
    """The segmentation network `name` for `num_classes` classes.

    Args:
        name: one of `names()`.
        num_classes: number of classes.
        **options: those of the network; of a classifier as encoder the classifier's own, and
            `upsampling` and `output_stride` of the decoder. `width` goes to both.

    Raises:
        UserError: for an unknown name or option, or a value that an option does not allow.
    """
    if name in _NETWORKS:
        return construct(name, _NETWORKS[name][0], num_classes, options)
    if name not in models.names():
        raise UserError(
            f"unknown model {name!r}{nearest(name, names())}; "
            "cnn_jax.models.segmentation.names() lists them all"
        )
    encoder = {k: v for k, v in options.items() if k not in _DECODER_OPTIONS}
    if "auxiliary" in models.options(name):
        # Their losses are the classifier's.
        encoder.setdefault("auxiliary", False)
    decoder = {k: v for k, v in options.items() if k in (*_DECODER_OPTIONS, "width", "dtype")}
    backbone = models.create(name, 1, **encoder)
    constructor = partial(EncoderDecoder, backbone=backbone, backbone_name=name)
    return construct(name, constructor, num_classes, decoder)


def options(name: str) -> tuple[str, ...]:
    """The options that `create(name, ...)` takes."""
    if name in _NETWORKS:
        return tuple(option_fields(_NETWORKS[name][0]))
    return (*models.options(name), *_DECODER_OPTIONS)


def statistics(name: str) -> Statistics:
    """The mean and standard deviation by which R, G and B of images in 0..1 are normalised."""
    if name in _NETWORKS:
        return _NETWORKS[name][1]
    spec = models.input_spec(name)
    return spec.mean, spec.std
