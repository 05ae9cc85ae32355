"""The options that `classify` and `annotate` share, and the image sizes that follow from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp

from cnn_jax import models
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.packed import folder_of, original
from cnn_jax.data.source import Source
from cnn_jax.data.surveys import images as survey
from cnn_jax.data.transforms import EvaluationTransform, TrainingTransform

from . import options as flags

T = TypeVar("T", bound="ImageOptions")

_CROPS = ("resized", "random")
"""The crops that leave a part of the image out."""
_MARGIN = 8 / 7
"""The side of an image by that of a crop, as most networks for ImageNet have it: 256 by 224."""


@dataclass(frozen=True)
class Sizes:
    """Pixels on a side of an image on its way to the network.

    Attributes:
        evaluation: the network's input at evaluation.
        resize: the shorter side before the evaluation's crop.
        training: the network's input while training.
        canvas: the image that the device augments.
    """

    evaluation: int
    resize: int
    training: int
    canvas: int


class ImageOptions:
    """The options of an entry point about whole images, and what follows from them.

    A subclass is a dataclass with the groups `model`, `data` and `augmentation`.
    """

    model: flags.ModelOptions
    data: flags.WholeImageOptions
    augmentation: Augmentation

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes that the flags give; others are the architecture's, or suit the rest."""
        spec = models.input_spec(self.model.model)
        evaluation = self.data.image_size or (32 if self.model.stem == "small" else spec.image_size)
        training = self.augmentation.output_size or evaluation
        own = spec.resize / spec.image_size
        if own == 1.0 and (self.augmentation.crop == "random" or self.data.ten_crop):
            own = _MARGIN
        margin = {"resized": _MARGIN, "random": own}.get(self.augmentation.crop, 1.0)
        resize = self.data.resize
        if resize is None:
            # An evaluation crops the middle of the image only where training crops, too: else its
            # objects would be larger than those that the network has learnt. Scenes are rendered
            # at the size that is asked for: there is nothing to crop.
            crops = self.augmentation.crop in _CROPS or self.data.ten_crop
            built_in = original(self.data.data) == flags.BUILT_IN
            resize = round(evaluation * (own if crops and not built_in else 1.0))
        return Sizes(
            evaluation=evaluation,
            resize=resize,
            training=training,
            canvas=self.data.canvas_size or round(training * margin),
        )

    @property
    def evaluation_transform(self) -> EvaluationTransform:
        """The host's preparation of an image that is evaluated or predicted."""
        return EvaluationTransform(self.sizes.resize, self.sizes.evaluation, self.data.ten_crop)

    @property
    def training_transform(self) -> TrainingTransform:
        """The host's preparation of an image that the device augments."""
        # A resized crop needs the whole image; other crops the undistorted middle of it.
        return TrainingTransform(self.sizes.canvas, keep_aspect=self.augmentation.crop != "resized")


def with_packed_sizes(options: T) -> T:
    """The options with the size that packed data decides, so that predictions need no data."""
    if folder_of(options.data.data) is None or options.data.resize is not None:
        return options
    return flags.replace(options, {"resize": options.sizes.resize})


def noticed(
    options: Any, training: Source | None, held_out: Source, unit: str = "image"
) -> list[str]:
    """Notices about the data before the first step; none about generated scenes."""
    if training is None or original(options.data.data) == flags.BUILT_IN:
        return []
    return survey.notices(training, held_out, unit, read_bits=options.data.bits)


def model_options(chosen: flags.ModelOptions) -> dict[str, Any]:
    """The network's options: those that are given, and its dtype."""
    return {**flags.network_options(chosen), "dtype": jnp.dtype(chosen.dtype)}


def build_model(chosen: flags.ModelOptions, num_classes: int) -> nn.Module:
    """The classifier that the flags name."""
    return models.create(chosen.model, num_classes, **model_options(chosen))
