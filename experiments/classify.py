"""Train and evaluate an image classifier.

python -m experiments.classify                                  # built-in data, minutes
python -m experiments.classify --data folder:DIR --model resnet50 --preset resnet50
python -m experiments.classify --out runs/NAME --resume         # continue
python -m experiments.classify --out runs/NAME --eval-only      # evaluate again
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from cnn_jax import models
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.packed import prepared
from cnn_jax.reports.classification import ClassificationReport
from cnn_jax.tasks.classification import Classification, LossName

from . import images, presets, trainer
from . import options as flags
from .trainer import Run


@dataclass(frozen=True)
class ClassificationLoss:
    """The loss that training minimises."""

    loss: LossName = "softmax"
    """Cross-entropy over the classes, or a logistic loss for each class."""
    label_smoothing: float = flags.flag(0.0, minimum=0, maximum=1)
    """Share of the target that is spread evenly over all classes."""


Classifier = flags.model_group("classifier")


@dataclass(frozen=True)
class Options(images.ImageOptions):
    """Train and evaluate an image classifier."""

    verb: ClassVar[str] = "classify"

    run: flags.RunOptions = field(default_factory=flags.RunOptions)
    data: flags.WholeImageOptions = field(default_factory=flags.WholeImageOptions)
    model: Classifier = field(default_factory=Classifier)
    loss: ClassificationLoss = field(default_factory=ClassificationLoss)
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[Augmentation, flags.AUGMENTATION] = field(default_factory=Augmentation)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and train or evaluate."""
    trainer.main(argv, *COMMAND)


def build(options: Options) -> Run:
    """The run that the options describe."""
    options = images.with_packed_sizes(options)
    sizes = options.sizes
    held_out = trainer.open_source(
        options, trainer.evaluated_split(options), image_size=sizes.resize
    )
    training = None
    if trainer.reads_training_set(options.run):
        training = trainer.open_source(options, "train", image_size=sizes.canvas)
    task = build_task(options, held_out.class_names)
    transform = options.evaluation_transform

    def training_set() -> tuple[TrainingBatches, int]:
        transform = options.training_transform
        return trainer.training_batches(options, training, transform, held_out), len(training)

    pictures = prepared(held_out, dataclasses.replace(transform, ten_crop=False))
    return Run(
        options=options,
        task=task,
        model=task.model,
        inputs=trainer.image_input(sizes.training, sizes.training),
        training_set=training_set,
        evaluation_set=trainer.evaluation_batches(options, held_out, transform),
        report=ClassificationReport(
            trainer.folder(options), held_out, pictures, trainer.predictions(options)
        ),
        recorded={"class_names": held_out.class_names},
        notices=images.noticed(options, training, held_out),
    )


def build_task(options: Options, class_names: Sequence[str]) -> Classification:
    """The network, its loss and its metrics."""
    spec, size = models.input_spec(options.model.model), options.sizes.training
    return Classification(
        model=images.build_model(options.model, len(class_names)),
        num_classes=len(class_names),
        image_size=size,
        mean=spec.mean,
        std=spec.std,
        augmentation=dataclasses.replace(options.augmentation, output_size=size),
        loss_name=options.loss.loss,
        label_smoothing=options.loss.label_smoothing,
    )


COMMAND = trainer.Command(Options, presets.CLASSIFICATION, build, lambda _: models.names())


if __name__ == "__main__":
    flags.entry(main)
