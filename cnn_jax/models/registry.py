"""The table of architectures: one line each.

An architecture is a flax module's constructor, mostly a `partial` of a class with its structure
bound, the images that it expects, and its kind. Every classifier is also a network of the other
kinds, as the backbone of one of `_ON_BACKBONES`. `cnn_jax.models.fields` says which of a module's
fields are options.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args, get_origin

import flax.linen as nn

from cnn_jax.errors import UserError, nearest
from cnn_jax.models import (
    airbench,
    alexnet,
    densenet,
    fcn,
    googlenet,
    inception_v3,
    resnet,
    segnet,
    unet,
    vgg,
    yolo,
)
from cnn_jax.models.encoder_decoder import EncoderDecoder
from cnn_jax.models.fast_rcnn import FastRCNN
from cnn_jax.models.fields import OptionField, legal_values, option_fields, value_type
from cnn_jax.models.yolo import GridDetector

Kind = Literal["classifier", "grid_detector", "region_network", "segmenter"]


class InputSpec(NamedTuple):
    """The images that an architecture expects.

    Attributes:
        image_size: rows and columns of the published recipe's images, in pixels; None for networks
            that take images in their own size.
        resize: length of the shorter side before the centre crop at evaluation, in pixels; None
            where images are not cropped.
        mean, std: normalisation of R, G and B, for images in 0..1.
        minimum_size: rows and columns of the smallest legal image.
    """

    image_size: int | None
    resize: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    minimum_size: int = 1


class Architecture(NamedTuple):
    """An entry of the table.

    Attributes:
        constructor: a `partial` of a flax module; it takes `num_classes` and the options.
        input_spec: the images that the network expects, without their minimum size.
        kind: a classifier, or a network that only detects or segments.
    """

    constructor: partial[nn.Module]
    input_spec: InputSpec
    kind: Kind = "classifier"


class Option(NamedTuple):
    """An option that a user may set.

    Attributes:
        name: name of the option and of the module's field.
        type: type of its values, such as `float` or a `Literal`, without range and None.
        annotation: the same with its range, as `cnn_jax.models.fields.legal_values` takes it.
        description: one sentence that says what it does.
        models: names of the architectures that have it.
        families: class names of these architectures' own modules, such as "ResNet".
        common: True for `dtype`, which is no option of a single model.
    """

    name: str
    type: Any
    annotation: Any
    description: str
    models: tuple[str, ...]
    families: tuple[str, ...]
    common: bool = False


_IMAGENET = InputSpec(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = InputSpec(32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# torchvision's `transform_input` turns ImageNet's normalisation into this one: -1..1.
_INCEPTION = _IMAGENET._replace(mean=(0.5,) * 3, std=(0.5,) * 3)
_YOLO = InputSpec(448, 448, (0.5,) * 3, (0.5,) * 3)
_OWN_SIZE = InputSpec(None, None, _IMAGENET.mean, _IMAGENET.std)
_UNET = _OWN_SIZE._replace(mean=(0.5,) * 3, std=(0.5,) * 3)
# Images in 0..255.
_BYTES = _OWN_SIZE._replace(mean=(0.0,) * 3, std=(1 / 255,) * 3)

ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": Architecture(alexnet.alexnet, _IMAGENET),
    "alexnet_paper": Architecture(alexnet.alexnet_paper, _IMAGENET._replace(image_size=227)),
    "vgg11": Architecture(vgg.vgg11, _IMAGENET),
    "vgg13": Architecture(vgg.vgg13, _IMAGENET),
    "vgg16": Architecture(vgg.vgg16, _IMAGENET),
    "vgg19": Architecture(vgg.vgg19, _IMAGENET),
    "vgg11_bn": Architecture(vgg.vgg11_bn, _IMAGENET),
    "vgg13_bn": Architecture(vgg.vgg13_bn, _IMAGENET),
    "vgg16_bn": Architecture(vgg.vgg16_bn, _IMAGENET),
    "vgg19_bn": Architecture(vgg.vgg19_bn, _IMAGENET),
    "googlenet": Architecture(googlenet.googlenet, _INCEPTION),
    "googlenet_paper": Architecture(googlenet.googlenet_paper, _IMAGENET),
    "inception_v3": Architecture(
        inception_v3.inception_v3, _INCEPTION._replace(image_size=299, resize=342)
    ),
    "resnet18": Architecture(resnet.resnet18, _IMAGENET),
    "resnet34": Architecture(resnet.resnet34, _IMAGENET),
    "resnet50": Architecture(resnet.resnet50, _IMAGENET),
    "resnet101": Architecture(resnet.resnet101, _IMAGENET),
    "resnet152": Architecture(resnet.resnet152, _IMAGENET),
    "resnext50_32x4d": Architecture(resnet.resnext50_32x4d, _IMAGENET),
    "resnext101_32x8d": Architecture(resnet.resnext101_32x8d, _IMAGENET),
    "resnext101_64x4d": Architecture(resnet.resnext101_64x4d, _IMAGENET),
    "wide_resnet50_2": Architecture(resnet.wide_resnet50_2, _IMAGENET),
    "wide_resnet101_2": Architecture(resnet.wide_resnet101_2, _IMAGENET),
    "resnet20": Architecture(resnet.resnet20, _CIFAR),
    "resnet32": Architecture(resnet.resnet32, _CIFAR),
    "resnet44": Architecture(resnet.resnet44, _CIFAR),
    "resnet56": Architecture(resnet.resnet56, _CIFAR),
    "resnet110": Architecture(resnet.resnet110, _CIFAR),
    "densenet121": Architecture(densenet.densenet121, _IMAGENET),
    "densenet161": Architecture(densenet.densenet161, _IMAGENET),
    "densenet169": Architecture(densenet.densenet169, _IMAGENET),
    "densenet201": Architecture(densenet.densenet201, _IMAGENET),
    "densenet_bc_40_12": Architecture(densenet.densenet_bc_40_12, _CIFAR),
    "densenet_bc_100_12": Architecture(densenet.densenet_bc_100_12, _CIFAR),
    "airbench94": Architecture(airbench.airbench94, _CIFAR),
    "airbench95": Architecture(airbench.airbench95, _CIFAR),
    "airbench96": Architecture(airbench.airbench96, _CIFAR),
    "yolo": Architecture(yolo.yolo, _YOLO, "grid_detector"),
    "fast_yolo": Architecture(yolo.fast_yolo, _YOLO, "grid_detector"),
    "segnet": Architecture(segnet.segnet, _OWN_SIZE, "segmenter"),
    "segnet_basic": Architecture(segnet.segnet_basic, _BYTES, "segmenter"),
    "unet": Architecture(unet.unet, _UNET, "segmenter"),
    "unet_same": Architecture(unet.unet_same, _UNET, "segmenter"),
    "fcn32s": Architecture(fcn.fcn32s, _OWN_SIZE, "segmenter"),
    "fcn16s": Architecture(fcn.fcn16s, _OWN_SIZE, "segmenter"),
    "fcn8s": Architecture(fcn.fcn8s, _OWN_SIZE, "segmenter"),
}

# The network of each kind that has a classifier as its backbone: its class, and its constructor.
_ON_BACKBONES: dict[Kind, tuple[type[nn.Module], Callable[..., nn.Module]]] = {
    "grid_detector": (GridDetector, GridDetector),
    "region_network": (FastRCNN, FastRCNN.on_backbone),
    "segmenter": (EncoderDecoder, EncoderDecoder.on_backbone),
}

# Of the options that a backbone and the network on it both have, these go to both.
_SHARED = ("width", "dtype")


def names(kind: Kind = "classifier") -> tuple[str, ...]:
    """The architectures of a kind: those made for it, then the classifiers as its backbones."""
    own = (name for name, entry in ARCHITECTURES.items() if entry.kind == kind)
    return tuple(own) if kind == "classifier" else (*own, *names())


def create(
    name: str, num_classes: int = 1000, kind: Kind = "classifier", **options: Any
) -> nn.Module:
    """Create a network; `apply(variables, images, train=False)` runs it on normalised images.

    `apply` returns a pair:

    - classifier: logits [batch, classes] and features (maps by name of their stage). With
      `num_classes=0` the network has no head, and None takes the logits' place.
    - grid detector: outputs [batch, grid, grid, boxes * 5 + classes] and features.
    - region network: scores and encoded boxes; it takes the regions as a third argument.
    - segmenter: logits [batch, height, width, classes] and features. Its `legal_size(size)` is the
      smallest legal input that gives `size` rows (or columns) out, and `margin` the number of
      pixels on every side of the input that the output lacks.

    Args:
        name: one of `names(kind)`.
        num_classes: number of classes; of a region network without the background.
        kind: the network's kind; a classifier can be any.
        **options: any of `options(name, kind)`. Of a classifier as a backbone they are the
            classifier's own and those of the network on it; `width` and `dtype` go to both.

    Raises:
        UserError: for an unknown name or option, or a value that an option does not allow.
    """
    entry = _entry(name, kind)
    fields = _option_fields(name, kind)
    for option, value in options.items():
        if option not in fields:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, fields)}; "
                f"its options are {', '.join(fields)}"
            )
        if legal := legal_values(fields[option].annotation, value):
            raise UserError(f"{name}: option {option} must be {legal}, not {value!r}")
    least = 0 if kind == "classifier" else 1
    if num_classes < least:
        raise UserError(f"{name}: num_classes must be at least {least}, not {num_classes}")
    if entry.kind == kind:
        return entry.constructor(num_classes=num_classes, **options)
    module, construct = _ON_BACKBONES[kind]
    outer = option_fields(module)
    inner = [o for o in _backbone_fields(entry.constructor) if o not in outer or o in _SHARED]
    backbone = entry.constructor(num_classes=0, **{k: v for k, v in options.items() if k in inner})
    return construct(
        backbone=backbone,
        backbone_name=name,
        num_classes=num_classes,
        **{k: v for k, v in options.items() if k in outer},
    )


def options(name: str, kind: Kind = "classifier") -> dict[str, Any]:
    """The options that `create(name, ..., kind, **options)` takes, with their defaults.

    Raises:
        UserError: for an unknown name.
    """
    return {option: field.default for option, field in _option_fields(name, kind).items()}


def input_spec(name: str, kind: Kind = "classifier") -> InputSpec:
    """The images that the architecture `name` expects with its default options.

    Raises:
        UserError: for an unknown name.
    """
    entry = _entry(name, kind)
    return entry.input_spec._replace(minimum_size=entry.constructor(num_classes=1).minimum_size)


def option_table(kind: Kind = "classifier") -> dict[str, Option]:
    """All options of a kind's architectures, by name, for a command line to make flags of.

    Raises:
        TypeError: architectures declare an option of the same name with different types.
    """
    table: dict[str, Option] = {}
    for name in names(kind):
        family = ARCHITECTURES[name].constructor.func.__name__
        for field in _option_fields(name, kind).values():
            option = Option(
                name=field.name,
                type=value_type(field.annotation),
                annotation=field.annotation,
                description=field.description,
                models=(name,),
                families=(family,),
                common=field.name == "dtype",
            )
            if known := table.get(field.name):
                option = known._replace(
                    type=_joint_type(known, option),
                    models=(*known.models, name),
                    families=tuple(dict.fromkeys((*known.families, family))),
                )
            table[field.name] = option
    return table


def _joint_type(one: Option, other: Option) -> Any:
    """The type of an option that two architectures share; two Literals make one of all values."""
    if one.type == other.type:
        return one.type
    if get_origin(one.type) is get_origin(other.type) is Literal:
        return Literal[tuple(dict.fromkeys((*get_args(one.type), *get_args(other.type))))]
    raise TypeError(
        f"option {one.name} is {one.type} in {one.models[0]} and {other.type} in {other.models[0]}"
    )


def _entry(name: str, kind: Kind) -> Architecture:
    legal = names(kind)
    if name in legal:
        return ARCHITECTURES[name]
    if name in ARCHITECTURES:
        wrong, right = (k.replace("_", " ") for k in (ARCHITECTURES[name].kind, kind))
        raise UserError(f"{name} is a {wrong}, not a {right}")
    listing = "" if kind == "classifier" else f'"{kind}"'
    raise UserError(
        f"unknown model {name!r}{nearest(name, legal)}; "
        f"cnn_jax.models.names({listing}) lists them all"
    )


def _option_fields(name: str, kind: Kind) -> dict[str, OptionField]:
    """The options of an architecture, by name."""
    entry = _entry(name, kind)
    if entry.kind == kind:
        return option_fields(entry.constructor)
    module, _ = _ON_BACKBONES[kind]
    return _backbone_fields(entry.constructor) | option_fields(module)


def _backbone_fields(constructor: partial[nn.Module]) -> dict[str, OptionField]:
    """The options that a classifier has without its head."""
    of_head = constructor.func.head_options
    return {name: f for name, f in option_fields(constructor).items() if name not in of_head}
