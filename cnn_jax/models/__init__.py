"""The registered architectures: `create(name, num_classes, **options)` makes any of them.

An architecture is a constructor of a flax module, mostly a `partial` of a class with its structure
bound, and one line of `_ARCHITECTURES`. Its options are those fields of the module that have a
default.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn

from cnn_jax.errors import UserError
from cnn_jax.models import alexnet, densenet, googlenet, inception_v3, resnet, vgg
from cnn_jax.models.registry import construct, nearest, option_fields


class InputSpec(NamedTuple):
    """What an architecture expects of its images.

    Attributes:
        image_size: rows and columns of the published recipe's images, in pixels.
        resize: what the shorter side is resized to before the centre crop at evaluation.
        mean, std: by which the R, G and B of images in 0..1 are normalised.
        minimum_size: rows and columns of the smallest legal image.
    """

    image_size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    minimum_size: int = 1


_IMAGENET = InputSpec(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = InputSpec(32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# What torchvision's `transform_input` turns ImageNet's normalisation into.
_INCEPTION = _IMAGENET._replace(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_ARCHITECTURES: dict[str, tuple[partial[nn.Module], InputSpec]] = {
    "alexnet": (alexnet.alexnet, _IMAGENET),
    "alexnet_paper": (alexnet.alexnet_paper, _IMAGENET._replace(image_size=227)),
    "vgg11": (vgg.vgg11, _IMAGENET),
    "vgg13": (vgg.vgg13, _IMAGENET),
    "vgg16": (vgg.vgg16, _IMAGENET),
    "vgg19": (vgg.vgg19, _IMAGENET),
    "vgg11_bn": (vgg.vgg11_bn, _IMAGENET),
    "vgg13_bn": (vgg.vgg13_bn, _IMAGENET),
    "vgg16_bn": (vgg.vgg16_bn, _IMAGENET),
    "vgg19_bn": (vgg.vgg19_bn, _IMAGENET),
    "googlenet": (googlenet.googlenet, _INCEPTION),
    "googlenet_paper": (googlenet.googlenet_paper, _IMAGENET),
    "inception_v3": (
        inception_v3.inception_v3,
        _INCEPTION._replace(image_size=299, resize=342),
    ),
    "resnet18": (resnet.resnet18, _IMAGENET),
    "resnet34": (resnet.resnet34, _IMAGENET),
    "resnet50": (resnet.resnet50, _IMAGENET),
    "resnet101": (resnet.resnet101, _IMAGENET),
    "resnet152": (resnet.resnet152, _IMAGENET),
    "resnext50_32x4d": (resnet.resnext50_32x4d, _IMAGENET),
    "resnext101_32x8d": (resnet.resnext101_32x8d, _IMAGENET),
    "resnext101_64x4d": (resnet.resnext101_64x4d, _IMAGENET),
    "wide_resnet50_2": (resnet.wide_resnet50_2, _IMAGENET),
    "wide_resnet101_2": (resnet.wide_resnet101_2, _IMAGENET),
    "resnet20": (resnet.resnet20, _CIFAR),
    "resnet32": (resnet.resnet32, _CIFAR),
    "resnet44": (resnet.resnet44, _CIFAR),
    "resnet56": (resnet.resnet56, _CIFAR),
    "resnet110": (resnet.resnet110, _CIFAR),
    "densenet121": (densenet.densenet121, _IMAGENET),
    "densenet161": (densenet.densenet161, _IMAGENET),
    "densenet169": (densenet.densenet169, _IMAGENET),
    "densenet201": (densenet.densenet201, _IMAGENET),
    "densenet_bc_100_12": (densenet.densenet_bc_100_12, _CIFAR),
}


def names() -> tuple[str, ...]:
    """The registered architectures."""
    return tuple(_ARCHITECTURES)


def create(name: str, num_classes: int = 1000, **options: Any) -> nn.Module:
    """The architecture `name` with `num_classes` logits.

    Calling `apply(variables, images, train=False)` of what is returned, with normalised images
    [batch, height, width, channels], gives `(logits, features)`.

    Args:
        name: one of `names()`.
        num_classes: number of logits.
        **options: any of `options(name)`, such as `width`, `dtype`, `stem` or `dropout_rate`.

    Raises:
        UserError: for an unknown name or option, or a value that an option does not allow.
    """
    constructor, _ = _entry(name)
    return construct(name, constructor, num_classes, options)


def options(name: str) -> dict[str, Any]:
    """The options that `create(name, ...)` takes, with their defaults.

    Raises:
        UserError: for an unknown name.
    """
    constructor, _ = _entry(name)
    return {
        option: constructor.keywords.get(option, field.default)
        for option, field in option_fields(constructor).items()
    }


def input_spec(name: str) -> InputSpec:
    """The images that the architecture `name` expects with its default options.

    Raises:
        UserError: for an unknown name.
    """
    constructor, spec = _entry(name)
    return spec._replace(minimum_size=constructor(num_classes=1).minimum_size)


def _entry(name: str) -> tuple[partial[nn.Module], InputSpec]:
    if name not in _ARCHITECTURES:
        raise UserError(
            f"unknown model {name!r}{nearest(name, _ARCHITECTURES)}; "
            "cnn_jax.models.names() lists them all"
        )
    return _ARCHITECTURES[name]
