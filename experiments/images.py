"""What the entry points about whole images share: sizes, transforms, batches, and the network."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp

from cnn_jax import models
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.source import Source
from cnn_jax.data.transforms import EvaluationTransform, TrainingTransform
from cnn_jax.errors import UserError

from . import options as flags
from . import runs


@runtime_checkable
class ImageOptions(Protocol):
    """The groups of options that are asked for here."""

    model: flags.ModelOptions
    data: flags.WholeImageOptions
    augmentation: Augmentation
    run: flags.RunOptions


@dataclass(frozen=True)
class Sizes:
    """Pixels on a side of an image on its way to the network.

    Attributes:
        evaluation: what the network is fed at evaluation.
        resize: the shorter side before the evaluation's crop.
        training: what the network is fed while training.
        canvas: what the device augments.
    """

    evaluation: int
    resize: int
    training: int
    canvas: int

    @classmethod
    def of(cls, options: ImageOptions) -> "Sizes":
        """The flags' sizes, and for those not given the architecture's or what suits the others."""
        spec = models.input_spec(options.model.model)
        chosen = options.data
        evaluation = chosen.image_size or (32 if options.model.stem == "small" else spec.image_size)
        # Scenes are rendered at the size that is asked for: there is nothing to crop.
        scale = 1.0 if chosen.data == flags.BUILT_IN else spec.resize / spec.image_size
        training = options.augmentation.output_size or evaluation
        margin = {"resized": 8 / 7, "random": 8 / 7}.get(options.augmentation.crop, 1.0)
        return cls(
            evaluation=evaluation,
            resize=chosen.resize or round(evaluation * scale),
            training=training,
            canvas=chosen.canvas_size or round(training * margin),
        )


def model_options(chosen: flags.ModelOptions) -> dict[str, Any]:
    """The network's options: those that are given, and its dtype."""
    return {**flags.network_options(chosen), "dtype": jnp.dtype(chosen.dtype)}


def build_model(chosen: flags.ModelOptions, num_classes: int) -> nn.Module:
    """The classifier that the flags name."""
    return models.create(chosen.model, num_classes, **model_options(chosen))


def evaluation_transform(options: ImageOptions) -> EvaluationTransform:
    """What the host does to an image that is evaluated or predicted."""
    sizes = Sizes.of(options)
    return EvaluationTransform(sizes.resize, sizes.evaluation, options.data.ten_crop)


def evaluation_batches(options: ImageOptions, source: Source) -> EvaluationBatches:
    """Every example of a held-out set once."""
    return EvaluationBatches(
        source,
        evaluation_transform(options),
        batch_size=runs.evaluation_batch_size(options.data),
        **runs.readers(options.data),
    )


def training_batches(options: ImageOptions, source: Source, held_out: Source) -> TrainingBatches:
    """Training examples on the canvas that the device augments.

    Raises:
        UserError: they have other classes than the held-out examples.
    """
    if tuple(source.class_names) != tuple(held_out.class_names):
        raise UserError(f"--data {options.data.data}: training and evaluation classes differ")
    return TrainingBatches(
        source,
        # A resized crop wants the whole image; the others the undistorted middle of it.
        TrainingTransform(
            Sizes.of(options).canvas, keep_aspect=options.augmentation.crop != "resized"
        ),
        batch_size=options.data.batch_size,
        seed=options.run.seed,
        **runs.readers(options.data),
    )
