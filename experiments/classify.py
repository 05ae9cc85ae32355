"""Train and evaluate an image classifier.

python -m experiments.classify                                  # built-in data, minutes
python -m experiments.classify --data folder:DIR                # a recipe that suits the data
python -m experiments.classify --data folder:DIR --model resnet50 --preset resnet50
python -m experiments.classify --out runs/NAME --resume         # continue
python -m experiments.classify --out runs/NAME --eval-only      # evaluate again
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import numpy as np

from cnn_jax import models
from cnn_jax.data.augment import Augmentation, normalize
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.packed import prepared
from cnn_jax.data.source import Source
from cnn_jax.errors import UserError
from cnn_jax.models import starts
from cnn_jax.ranges import LARGEST_INT
from cnn_jax.reports.classification import ClassificationReport
from cnn_jax.tasks.classification import PROXY_LOSSES, Classification, LossName
from cnn_jax.tasks.images import floating

from . import class_weights, images, presets, suited, trainer
from . import options as flags
from .balance import balanced
from .channels import fitting, normalization
from .run import Run, evaluated_split, predictions, reads_training_set


@dataclass(frozen=True)
class ClassificationLoss:
    """The loss that training minimises."""

    loss: LossName = "softmax"
    """softmax: cross-entropy over the classes; sigmoid: a logistic loss for each class; proxy and
    proxy_nca, for features that are searched: cross-entropy or Proxy-NCA of the cosines with a
    learnt proxy of each class."""
    label_smoothing: float = flags.flag(0.0, minimum=0, maximum=1)
    """Share of the target that is spread evenly over all classes."""
    logit_scale: float | None = flags.flag(None, above=0, maximum=1000)
    """Factor of the network's logits, in training and in prediction. Default: 1, and 20 for
    cosines."""

    @property
    def scale(self) -> float:
        """The factor that is given, or suits the loss (Zhai and Wu 2019: a temperature of .05)."""
        return self.logit_scale or (20.0 if self.loss in PROXY_LOSSES else 1.0)


@dataclass(frozen=True)
class StartOptions:
    """Parameters that do not start from random values."""

    whiten: int = flags.flag(0, minimum=0, maximum=LARGEST_INT, unless={"init_from": flags.GIVEN})
    """Number of training images whose patches the first convolution's filters whiten at the start;
    one half of the filters is the other half, negated. 0 for random filters."""
    identity_init: bool = flags.flag(False, unless={"init_from": flags.GIVEN})
    """Start every 3x3 convolution but the first as the identity, on as many channels as it has."""


Classifier = flags.model_group("classifier")


@dataclass(frozen=True)
class Options(images.ImageOptions):
    """Train and evaluate an image classifier."""

    verb: ClassVar[str] = "classify"

    run: flags.RunOptions = field(default_factory=flags.RunOptions)
    data: flags.WholeImageOptions = field(default_factory=flags.WholeImageOptions)
    model: Classifier = field(default_factory=Classifier)
    start: StartOptions = field(default_factory=StartOptions)
    loss: ClassificationLoss = field(default_factory=ClassificationLoss)
    balance: flags.BalanceOptions = field(default_factory=flags.BalanceOptions)
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[Augmentation, flags.AUGMENTATION] = field(default_factory=Augmentation)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and train or evaluate."""
    trainer.main(argv, COMMAND)


def build(options: Options) -> Run:
    """The run that the options describe."""
    options = images.with_packed_sizes(options)
    sizes = options.sizes
    held_out = trainer.open_source(options, evaluated_split(options), image_size=sizes.resize)
    if options.run.best == "top5" and len(held_out.class_names) <= 5:
        raise UserError("--best top5: measured of more than 5 classes, and the data has fewer")
    training = None
    if reads_training_set(options.run):
        training = trainer.open_source(options, "train", image_size=sizes.canvas)
    balance = balanced(options, training, held_out.class_names)
    task = build_task(options, held_out.class_names, balance.weights)
    transform = options.evaluation_transform

    def training_set() -> tuple[TrainingBatches, int]:
        batches = trainer.training_batches(
            options, training, options.training_transform, held_out, order=balance.order
        )
        return batches, len(training)

    pictures = prepared(held_out, dataclasses.replace(transform, ten_crop=False))
    return Run(
        options=options,
        task=task,
        model=task.model,
        inputs=(task.network_input,),
        training_set=training_set,
        evaluation_set=trainer.evaluation_batches(options, held_out, transform),
        report=ClassificationReport(
            trainer.folder(options), held_out, pictures, predictions(options)
        ),
        recorded={"class_names": held_out.class_names, class_weights.KEY: balance.weights},
        start=partial(first_parameters, options, task, training)
        if options.start.whiten or options.start.identity_init
        else None,
        notices=[*images.noticed(options, training, held_out), *balance.notices],
    )


def first_parameters(
    options: Options, task: Classification, source: Source, params: dict[str, Any]
) -> dict[str, Any]:
    """The parameters that training starts from, of those that are drawn."""
    start, image = options.start, task.network_input
    if start.identity_init:
        params = starts.with_identities(params, starts.convolutions(task.model, image))
    if start.whiten:
        images = first_images(options, task, source, start.whiten)
        params = starts.with_whitening(params, starts.convolutions(task.model, image), images)
    return params


def first_images(
    options: Options, task: Classification, source: Source, count: int
) -> Iterator[np.ndarray]:
    """The first images of the training stream, not augmented, as the network gets them.

    Every process reads all of them. They are at most those of one epoch.
    """
    batches = trainer.training_batches(
        options,
        source,
        options.training_transform,
        process_index=0,
        process_count=1,
        workers=0,
        cache_bytes=0,
    )
    count = min(count, len(source))
    with contextlib.closing(batches.iterate()) as read:
        for batch in itertools.islice(read, -(-count // options.data.batch_size)):
            images = batch["image"][:count]
            count -= len(images)
            yield from np.asarray(normalize(floating(jnp.asarray(images)), task.mean, task.std))


def build_task(
    options: Options, class_names: Sequence[str], weights: tuple[float, ...] = ()
) -> Classification:
    """The network, its loss and its metrics."""
    spec, size = models.input_spec(options.model.model), options.sizes.training
    return Classification(
        model=images.build_model(options.model, len(class_names)),
        num_classes=len(class_names),
        image_size=size,
        **normalization(spec, options.data.channels),
        augmentation=dataclasses.replace(
            fitting(options.augmentation, options.data), output_size=size
        ),
        loss_name=options.loss.loss,
        label_smoothing=options.loss.label_smoothing,
        class_weights=weights,
        logit_scale=options.loss.scale,
        views=options.data.views,
    )


def with_recipe(argv: Sequence[str]) -> Sequence[str]:
    """The command line with a recipe that suits its data, where it has none."""
    opened = partial(trainer.open_source, split="train", image_size=suited.TINY)
    return suited.suited(Options, argv, suited.by_images(opened, suited.classification))


COMMAND = trainer.Command(
    Options,
    presets.CLASSIFICATION,
    build,
    lambda _: models.names(),
    variant="model",
    suited=with_recipe,
)


if __name__ == "__main__":
    flags.entry(main)
