"""What the detection systems share: their flags, examples, and what a system has to say of itself.

A system is a `System`, one line of `experiments.detect.SYSTEMS`; its own flags are a group of
`experiments.detect.Options`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import numpy as np

from cnn_jax import files
from cnn_jax.data import BOX_FORMATS
from cnn_jax.data.augment.boxes import BoxAugmentation
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.source import Example, Source, Split, Transform
from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.data.transforms import BoxTransform
from cnn_jax.errors import UserError
from cnn_jax.models.registry import nearest
from cnn_jax.runs.folder import read_object
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, DetectionRule
from cnn_jax.training import checkpoints
from cnn_jax.training.step import Task

from .. import options as flags
from .. import runs
from ..experiment import Experiment

THRESHOLD_FILE = "threshold.json"


@dataclass(frozen=True)
class DetectorOptions:
    """Which system. `--data` is `shapes` or has `voc:`, `coco:`, `yolo:` or `tfds:` before it."""

    system: Literal["yolo", "fast_rcnn", "rcnn"] = "yolo"
    """yolo: a grid of cells in one pass (Redmon et al. 2016); fast_rcnn: proposals classified on
    the image's map (Girshick 2015); rcnn: proposals cut out and classified one by one (Girshick et
    al. 2014)."""
    max_objects: int = 50
    """Objects of an image that are trained on; what is left out is said. All are evaluated."""
    similar: tuple[str, ...] = ()
    """Classes that are alike, with commas between: cat,dog,horse car,bus. The report counts
    detections that take one for another apart from other mistakes."""

    def __post_init__(self) -> None:
        if self.max_objects < 1:
            raise UserError(f"--max-objects {self.max_objects}: must be 1 or more")

    def similar_labels(self, class_names: Sequence[str]) -> list[list[int]]:
        """Which labels are alike.

        Raises:
            UserError: a name that no class has.
        """
        groups = [group.split(",") for group in self.similar]
        for name in (name for group in groups for name in group):
            if name not in class_names:
                raise UserError(
                    f"--similar: no class {name!r}{nearest(name, class_names)}; there are "
                    f"{', '.join(class_names)}"
                )
        return [[class_names.index(name) for name in group] for group in groups]


@runtime_checkable
class DetectionOptions(Protocol):
    """The groups of options that every system has."""

    model: flags.ModelOptions
    data: flags.DataOptions
    detector: DetectorOptions
    augmentation: BoxAugmentation
    optimizer: flags.OptimizerOptions
    rule: DetectionRule
    run: flags.RunOptions


@runtime_checkable
class DetectionTask(Task, Protocol):
    """A task whose predictions are, or have, `detections`, made by its `evaluation`."""

    evaluation: BoxEvaluation
    model: nn.Module


def _as_they_are(options: Any, source: Source, split: Split) -> Source:
    return source


def _nothing(options: Any, surveyed: BoxSurvey, sources: "Sources") -> tuple[Any, list[str]]:
    return options, []


def _at_once(experiment: Experiment, sources: "Sources") -> Path:
    return experiment.carry_out()


def box_transform(options: Any, image_size: int) -> Transform:
    """Images squashed to the network's square, with room for so many objects."""
    return BoxTransform(image_size, options.detector.max_objects)


def unlabelled(options: Any, image: np.ndarray) -> Example:
    """An image to predict for, as an example without objects."""
    none = np.zeros(0, bool)
    return {
        "image": image,
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int32),
        "difficult": none,
        "crowd": none,
        "area": np.zeros(0, np.float32),
    }


@dataclass(frozen=True)
class System:
    """What a system adds to the command.

    Attributes:
        build_task: (options, names of the classes, evaluation) -> the task.
        image_size: options -> pixels on a side of the network's square, where no flag says so.
        model_names: what `--model list` prints.
        prepare: (options, survey of the training boxes, the sources) -> options with what the
            training set decides, and lines to print before training.
        examples: (options, source, split) -> the source with what else the system reads, such as
            proposals.
        transform: (options, image size) -> what the host does to an example.
        unlabelled: (options, image) -> an example to predict for, before the transform.
        carry_out: (experiment, the sources) trains, or only evaluates; for a system in stages,
            something of its own.
    """

    build_task: Callable[[Any, Sequence[str], BoxEvaluation], DetectionTask]
    image_size: Callable[[Any], int]
    model_names: Callable[[], Sequence[str]]
    prepare: Callable[[Any, BoxSurvey, "Sources"], tuple[Any, list[str]]] = _nothing
    examples: Callable[[Any, Source, Split], Source] = _as_they_are
    transform: Callable[[Any, int], Transform] = box_transform
    unlabelled: Callable[[Any, np.ndarray], Example] = unlabelled
    carry_out: Callable[[Experiment, "Sources"], Path] = _at_once


@dataclass(frozen=True)
class Examples:
    """The examples of a run, as its system wants them.

    Attributes:
        system: whose.
        options: the run's.
    """

    system: System
    options: DetectionOptions

    @property
    def image_size(self) -> int:
        """Pixels on a side of the network's square."""
        return self.options.data.image_size or self.system.image_size(self.options)

    def open(self, split: Split) -> Source:
        """One split of `--data`."""
        options = self.options
        source = runs.open_source(
            options.data,
            split,
            seed=options.run.seed,
            image_size=self.image_size,
            formats=BOX_FORMATS,
        )
        options.detector.similar_labels(source.class_names)  # wrong names are told before a search
        return self.system.examples(options, source, split)

    @property
    def transform(self) -> Transform:
        """What the host does to an example."""
        return self.system.transform(self.options, self.image_size)

    def evaluation(self, source: Source) -> EvaluationBatches:
        """Every example of a held-out set once, with all of its objects."""
        detector = self.options.detector
        room = max(detector.max_objects, box_survey.most_objects(source))
        detector = dataclasses.replace(detector, max_objects=room)
        options = dataclasses.replace(self.options, detector=detector)
        return self._in_order(source, self.system.transform(options, self.image_size))

    def training_in_order(self, source: Source) -> EvaluationBatches:
        """Every training example once, with the objects that are trained on."""
        return self._in_order(source, self.transform)

    def _in_order(self, source: Source, transform: Transform) -> EvaluationBatches:
        data = self.options.data
        return EvaluationBatches(
            source,
            transform,
            batch_size=runs.evaluation_batch_size(data),
            **runs.readers(data),
        )

    def training(self, source: Source, held_out: Source) -> TrainingBatches:
        """Training examples for the device to augment.

        Raises:
            UserError: they have other classes than the held-out examples.
        """
        data = self.options.data
        if tuple(source.class_names) != tuple(held_out.class_names):
            raise UserError(f"--data {data.data}: training and evaluation classes differ")
        return TrainingBatches(
            source,
            self.transform,
            batch_size=data.batch_size,
            seed=self.options.run.seed,
            **runs.readers(data),
        )


@dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
        examples: opens and prepares.
        held_out: what is evaluated.
        training: what is trained on; None where nothing is trained.
    """

    examples: Examples
    held_out: Source
    training: Source | None


def box_evaluation(
    options: DetectionOptions,
    class_names: Sequence[str],
    image_size: int,
    score_threshold: float | None = None,
) -> BoxEvaluation:
    """Make the rules by which detections are made and evaluated from the flags."""
    return BoxEvaluation(
        num_classes=len(class_names),
        image_size=image_size,
        rule=options.rule,
        score_threshold=score_threshold,
    )


def write_threshold(run: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Keep the score that an evaluation of the split `eval` chose, and how well it counts."""
    content = {
        "step": step,
        "score": metrics["score_threshold"],
        "count_mae": metrics["count_mae"],
    }
    files.replace(run / THRESHOLD_FILE, json.dumps(content, indent=2) + "\n")


def stored_threshold(run: Path) -> float:
    """The score that a run's last evaluation of the split `eval` chose.

    Raises:
        UserError: there is none, or it is of another checkpoint.
    """
    path = run / THRESHOLD_FILE
    again = f"choose it with --eval-only --out {run}, or give --score-threshold"
    if not path.exists():
        raise UserError(f"{path}: no threshold chosen on evaluation data; {again}")
    content = read_object(path)
    try:
        step, score = int(content["step"]), float(content["score"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not what detect writes; {again}") from None
    newest = max(checkpoints.steps(run / runs.CHECKPOINTS), default=step)
    if step != newest:
        raise UserError(
            f"{path}: chosen for step {step}, the newest checkpoint is of step {newest}; {again}"
        )
    return score
