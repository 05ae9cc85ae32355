"""Train and evaluate an image classifier.

python -m experiments.classify                                  # built-in data, minutes
python -m experiments.classify --data folder:DIR --model resnet50 --preset resnet50
python -m experiments.classify --out runs/NAME --resume         # continue
python -m experiments.classify --out runs/NAME --eval-only      # evaluate again
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp

from cnn_jax import models
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.transforms import EvaluationTransform, TrainingTransform
from cnn_jax.errors import UserError
from cnn_jax.reports.classification import ClassificationReport
from cnn_jax.reports.runs import CONFIG_FILE
from cnn_jax.tasks.classification import Classification
from cnn_jax.training import loop, parallel, prng, summary
from cnn_jax.training.logs import RunLog
from experiments import options as flags
from experiments import presets, runs


@dataclass(frozen=True)
class Options:
    """Train and evaluate an image classifier."""

    model: flags.Model = field(default_factory=flags.ModelOptions)
    data: flags.Data = field(default_factory=flags.DataOptions)
    augmentation: Annotated[Augmentation, flags.Flat] = field(default_factory=Augmentation)
    optimizer: flags.Optimizer = field(default_factory=flags.OptimizerOptions)
    run: flags.Run = field(default_factory=flags.RunOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run."""
    options = flags.parse(Options, argv, presets.CLASSIFICATION)
    if options.model.model == "list":
        print("\n".join(models.names()))
    else:
        run(options)


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
    def of(cls, options: Options) -> "Sizes":
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


def run(options: Options) -> Path:
    """Train, or only evaluate, as the options say; returns the run's folder."""
    runs.prepare_devices(options.run)
    if not options.run.eval_only:
        parallel.check_batch_size(options.data.batch_size, options.optimizer.accumulate)
    parallel.check_batch_size(runs.evaluation_batch_size(options.data), flag="--eval-batch-size")
    sizes = Sizes.of(options)
    out = runs.directory(options.run, "classify")
    held_out = runs.open_source(
        options.data,
        options.run.split if options.run.eval_only else "eval",
        seed=options.run.seed,
        image_size=sizes.resize,
    )
    task = build_task(options, held_out.class_names)
    evaluation_set = EvaluationBatches(
        held_out,
        evaluation_transform(options),
        batch_size=runs.evaluation_batch_size(options.data),
        **runs.readers(options.data),
    )
    report = ClassificationReport(out, held_out, evaluation_transform(options, ten_crop=False))
    if options.run.eval_only:
        evaluate_only(options, out, task, evaluation_set, report)
    else:
        train(options, out, task, evaluation_set, report)
    return out


def train(
    options: Options,
    out: Path,
    task: Classification,
    evaluation_set: EvaluationBatches,
    report: ClassificationReport,
) -> None:
    """Train from the first state, or the newest checkpoint, to the end."""
    sizes = Sizes.of(options)
    source = runs.open_source(options.data, "train", seed=options.run.seed, image_size=sizes.canvas)
    if source.class_names != report.source.class_names:
        raise UserError(f"--data {options.data.data}: training and evaluation classes differ")
    steps_per_epoch = len(source) / options.data.batch_size
    total = runs.total_steps(options.optimizer, steps_per_epoch)
    optimizer, learning_rate = runs.build_optimizer(options.optimizer, total, steps_per_epoch)
    state, notices = runs.starting_state(task, optimizer, out, options)
    batches = TrainingBatches(
        source,
        # A resized crop wants the whole image; the others the undistorted middle of it.
        TrainingTransform(sizes.canvas, keep_aspect=options.augmentation.crop != "resized"),
        batch_size=options.data.batch_size,
        seed=options.run.seed,
        **runs.readers(options.data),
    )
    with RunLog(
        out,
        total_steps=total,
        resumed_step=int(state.step) if options.run.resume else None,
        enabled=jax.process_index() == 0,
    ) as log:
        log.write_config(runs.config("classify", options, report.source.class_names))
        log.write_environment()
        for notice in notices:
            log.message(notice)
        if log.enabled:
            shape = (1, sizes.training, sizes.training, 3)
            counts = summary.summarize(
                task.model,
                jax.ShapeDtypeStruct(shape, jnp.float32),
                variables={"params": state.params, **state.model_state},
                optimizer=optimizer,
            )
            size = f"{sizes.training}x{sizes.training}x3"
            summary.print_summary(counts, log.console, f"{options.model.model}, {size}")
        loop.train(
            state,
            task,
            optimizer,
            batches,
            evaluation_set,
            runs.plan(options.optimizer, options.data, options.run, total),
            log,
            prng.root(options.run.seed),
            out / runs.CHECKPOINTS,
            learning_rate=learning_rate,
            watch=report.select if log.enabled else None,
            on_evaluation=report.write if log.enabled else None,
        )


def evaluate_only(
    options: Options,
    out: Path,
    task: Classification,
    evaluation_set: EvaluationBatches,
    report: ClassificationReport,
) -> None:
    """Evaluate the newest checkpoint, or `--init-from`; the row joins the run's others."""
    state, notices = runs.evaluated_state(task, out, options)
    evaluation = loop.evaluate(
        task,
        parallel.compile_evaluation_step(task),
        parallel.replicate(state),
        evaluation_set,
        watch=report.select,
    )
    step = int(state.step)
    with RunLog(out, total_steps=step, appended=True, enabled=jax.process_index() == 0) as log:
        if not (out / CONFIG_FILE).exists():
            log.write_config(runs.config("classify", options, report.source.class_names))
            log.write_environment()
        for notice in notices:
            log.message(notice)
        log.report(step, options.run.split, evaluation.metrics)
        if log.enabled:
            report.write(step, evaluation)


def build_task(options: Options, class_names: Sequence[str]) -> Classification:
    """The network and how it is trained and judged."""
    chosen = options.model
    given = {
        name: value
        for name in ("width", "stem", "dropout_rate", "auxiliary")
        if (value := getattr(chosen, name)) is not None
    }
    model = models.create(
        chosen.model,
        len(class_names),
        dtype=jnp.dtype(chosen.dtype),
        axis_name=parallel.AXIS,
        **given,
    )
    spec = models.input_spec(chosen.model)
    sizes = Sizes.of(options)
    return Classification(
        model=model,
        num_classes=len(class_names),
        image_size=sizes.training,
        mean=spec.mean,
        std=spec.std,
        augmentation=dataclasses.replace(options.augmentation, output_size=sizes.training),
        loss_name=options.optimizer.loss,
        label_smoothing=options.optimizer.label_smoothing,
    )


def evaluation_transform(options: Options, ten_crop: bool | None = None) -> EvaluationTransform:
    """What the host does to an image that is evaluated or predicted."""
    sizes = Sizes.of(options)
    crops = options.data.ten_crop if ten_crop is None else ten_crop
    return EvaluationTransform(sizes.resize, sizes.evaluation, crops)


if __name__ == "__main__":
    flags.entry(main)
