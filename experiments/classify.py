"""Train and evaluate an image classifier.

python -m experiments.classify                                  # built-in data, minutes
python -m experiments.classify --data folder:DIR --model resnet50 --preset resnet50
python -m experiments.classify --out runs/NAME --resume         # continue
python -m experiments.classify --out runs/NAME --eval-only      # evaluate again
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np

from cnn_jax import models
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.decode import decode
from cnn_jax.reports.classification import ClassificationReport
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.tasks.classification import Classification
from cnn_jax.training.backend import compile_inference

from . import images, presets, runs
from . import options as flags
from .experiment import Experiment


@dataclass(frozen=True)
class ClassificationLoss:
    """What training minimises."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy over the classes, or a logistic loss for each class."""
    label_smoothing: float = flags.flag(0.0, minimum=0, maximum=1)
    """Share of the target that is spread evenly over all classes."""


Classifier = flags.model_group("classifier")


@dataclass(frozen=True)
class Options:
    """Train and evaluate an image classifier."""

    verb: ClassVar[str] = "classify"

    run: flags.RunOptions = field(default_factory=flags.RunOptions)
    data: flags.WholeImageOptions = field(default_factory=flags.WholeImageOptions)
    model: Classifier = field(default_factory=Classifier)
    loss: ClassificationLoss = field(default_factory=ClassificationLoss)
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[Augmentation, flags.AUGMENTATION] = field(default_factory=Augmentation)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run."""
    options = flags.parse(Options, argv, presets.CLASSIFICATION)
    if options.model.model == "list":
        print("\n".join(models.names()))
    else:
        run(options)


def run(options: Options) -> Path:
    """Train, or only evaluate, as the options say; returns the run's folder."""
    runs.prepare_devices(options.run)
    runs.check_batch_sizes(options)
    out = runs.directory(options.run, "classify")
    sizes = images.Sizes.of(options)
    held_out = runs.open_source(
        options.data,
        options.run.split if options.run.eval_only else "eval",
        seed=options.run.seed,
        image_size=sizes.resize,
    )
    transform = images.evaluation_transform(options)

    def training_set() -> tuple[TrainingBatches, int]:
        source = runs.open_source(
            options.data, "train", seed=options.run.seed, image_size=sizes.canvas
        )
        return images.training_batches(options, source, held_out), len(source)

    return Experiment(
        verb="classify",
        options=options,
        out=out,
        task=build_task(options, held_out.class_names),
        evaluation_set=images.evaluation_batches(options, held_out),
        training_set=training_set,
        report=ClassificationReport(out, held_out, dataclasses.replace(transform, ten_crop=False)),
        input_shape=(1, sizes.training, sizes.training, 3),
        recorded={"class_names": held_out.class_names},
    ).carry_out()


def build_task(options: Options, class_names: Sequence[str]) -> Classification:
    """The network and how it is trained and judged."""
    spec = models.input_spec(options.model.model)
    sizes = images.Sizes.of(options)
    return Classification(
        model=images.build_model(options.model, len(class_names)),
        num_classes=len(class_names),
        image_size=sizes.training,
        mean=spec.mean,
        std=spec.std,
        augmentation=dataclasses.replace(options.augmentation, output_size=sizes.training),
        loss_name=options.loss.loss,
        label_smoothing=options.loss.label_smoothing,
    )


def predict(run: Path, options: flags.PredictOptions) -> None:
    """Print the most probable classes of each image."""
    trained = flags.stored(Options, run)
    class_names = read_object(run / CONFIG_FILE)["class_names"]
    task = build_task(trained, class_names)
    state, notices = runs.restored(task, run)
    for notice in notices:
        flags.warn(notice)
    transform = images.evaluation_transform(trained)
    log_probabilities = runs.in_batches(
        compile_inference(lambda batch: task.predict(state.params, state.model_state, batch)),
        ({"image": transform({"image": decode(file)})["image"]} for file in options.images),
        min(options.batch_size, len(options.images)),
    )
    results = []
    for image, row in zip(options.images, log_probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: options.top]
        named = [{"label": class_names[i], "probability": float(np.exp(row[i]))} for i in best]
        results.append({"image": image, "predictions": named})
        if not options.json:
            line = "; ".join(f"{p['label']} {p['probability']:.2f}" for p in named)
            print(line if len(options.images) == 1 else f"{image}: {line}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    flags.entry(main)
