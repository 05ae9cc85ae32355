"""The shared parts of the detection systems: flags, `System`, and the chosen score threshold.

A system is a subclass of `System` and one line of `experiments.detect.SYSTEMS`; its own flags are a
group of `experiments.detect.Options`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from cnn_jax import files
from cnn_jax.data import BOX_FORMATS
from cnn_jax.data.augment.boxes import BoxAugmentation
from cnn_jax.data.batches import EvaluationBatches
from cnn_jax.data.single_class import SingleClass
from cnn_jax.data.source import Example, Source, Split, Transform
from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.data.transforms import BoxTransform
from cnn_jax.errors import UserError, nearest
from cnn_jax.ranges import COUNTED, Range
from cnn_jax.runs.folder import read_object
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, DetectionRule
from cnn_jax.training.step import Task

from .. import options as flags
from .. import states, trainer
from ..channels import pixels_in_words
from ..run import Run

THRESHOLD_FILE = "threshold.json"


@dataclass(frozen=True)
class DetectorOptions:
    """The system. `--data` is `shapes` or begins with `voc:`, `coco:`, `yolo:`, `tfds:` or
    `packed:`."""

    system: Literal["yolo", "fast_rcnn", "rcnn"] = "yolo"
    """yolo: a grid of cells in one pass (Redmon et al. 2016); fast_rcnn: proposals classified on
    the feature map of the image (Girshick 2015); rcnn: proposals cut out and classified one by one
    (Girshick et al. 2014)."""
    max_objects: int = flags.flag(50, minimum=1, maximum=10_000)
    """Largest number of objects of an image that are trained on; the command reports what is left
    out. All objects are evaluated."""
    single_class: str | None = flags.flag(None, metavar="NAME")
    """All objects are of one class of this name, whatever class the data gives them."""
    similar: tuple[str, ...] = flags.flag((), metavar="NAME,NAME")
    """Groups of similar classes: cat,dog,horse car,bus. The report counts confusions within a group
    apart from other mistakes."""

    def similar_labels(self, class_names: Sequence[str]) -> list[list[int]]:
        """Look up the labels of each group of similar classes.

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
    """The groups of options that every system has; its own groups stand beside them."""

    model: flags.ModelOptions
    data: flags.DataOptions
    detector: DetectorOptions
    augmentation: BoxAugmentation
    optimizer: flags.OptimizerOptions
    rule: DetectionRule
    run: flags.RunOptions


@runtime_checkable
class DetectionTask(Task, Protocol):
    """A task whose predictions have `detections`.

    Attributes:
        evaluation: makes them.
        model: the network.
        mean: of the images, per channel, in 0..1.
    """

    evaluation: BoxEvaluation
    model: nn.Module
    mean: tuple[float, ...]

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one image, or one region of it, as a batch of one."""
        ...


class System:
    """A detection system with the options of a run. A subclass says in what it differs.

    Attributes:
        options: all options; a system reads its own groups besides those of `DetectionOptions`.
    """

    def __init__(self, options: Any) -> None:
        self.options = options

    @staticmethod
    def model_names() -> Sequence[str]:
        """The networks that `--model` may name."""
        raise NotImplementedError

    @property
    def default_size(self) -> int:
        """Pixels on a side of the network's square where no flag gives them."""
        raise NotImplementedError

    def build_task(
        self,
        class_names: Sequence[str],
        evaluation: BoxEvaluation,
        class_weights: tuple[float, ...] = (),
    ) -> DetectionTask:
        """The network, how it is trained, and how its detections are evaluated."""
        raise NotImplementedError

    def inputs(self, task: DetectionTask) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The arguments of the task's network for one example."""
        return (task.network_input,)

    def extended(self, source: Source, split: Split) -> Source:
        """The source with what else the system reads, such as proposals."""
        return source

    def transform(self, max_objects: int | None = None) -> Transform:
        """The host's preparation of an example, with room for the objects that are trained on."""
        room = max_objects or self.options.detector.max_objects
        return BoxTransform(self.image_size, room)

    def unlabelled(self, image: np.ndarray) -> Example:
        """An image to predict for, as an example without objects, before the transform."""
        none = np.zeros(0, bool)
        return {
            "image": image,
            "boxes": np.zeros((0, 4), np.float32),
            "labels": np.zeros(0, np.int32),
            "difficult": none,
            "crowd": none,
            "area": np.zeros(0, np.float32),
        }

    def preparation(self) -> str:
        """The preparation of an image to predict for, in words."""
        side, pixels = self.image_size, pixels_in_words(self.options.data.reading)
        return (
            f"image: {pixels}, the whole squashed to {side} x {side} pixels, bilinear, antialiased"
            "; size: height and width of the image before, in whose pixels the boxes are"
        )

    def decided_by(
        self, surveyed: BoxSurvey, training: Source, held_out: Source
    ) -> tuple[Any, list[str]]:
        """The options with what the training set decides, and lines to print before training."""
        return self.options, []

    def completed(self, run: Run, training: Source | None) -> Run:
        """The run with what only this system does."""
        return run

    @property
    def image_size(self) -> int:
        """Pixels on a side of the network's square."""
        return self.options.data.image_size or self.default_size

    @property
    def draft_size(self) -> int | None:
        """Pixels on a side that suffice of an image; None where all of them are needed."""
        return self.image_size

    def open(self, split: Split) -> Source:
        """One split of `--data`."""
        options = self.options
        source = trainer.open_source(
            options,
            split,
            image_size=self.image_size,
            formats=BOX_FORMATS,
            draft_size=self.draft_size,
        )
        if options.detector.single_class is not None:
            source = SingleClass(source, options.detector.single_class)
        # A wrong name ends the command before proposals are searched.
        options.detector.similar_labels(source.class_names)
        return self.extended(source, split)

    def evaluation_set(self, source: Source) -> EvaluationBatches:
        """Every held-out example once, with all of its objects."""
        room = max(self.options.detector.max_objects, box_survey.most_objects(source))
        return trainer.evaluation_batches(self.options, source, self.transform(room))

    def training_in_order(self, source: Source) -> EvaluationBatches:
        """Every training example once, with the objects that are trained on."""
        return trainer.evaluation_batches(self.options, source, self.transform())


def box_evaluation(
    options: DetectionOptions,
    class_names: Sequence[str],
    image_size: int,
    score_threshold: float | None = None,
) -> BoxEvaluation:
    """The rules by which detections are made and evaluated, as the flags give them."""
    return BoxEvaluation(
        num_classes=len(class_names),
        image_size=image_size,
        rule=options.rule,
        score_threshold=score_threshold,
    )


def write_threshold(run: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Keep the score that an evaluation of the split `eval` chose, and how well it counts.

    It lies beside the state that was evaluated: in the run's folder, in `best/`, or in both.
    """
    content = {
        "step": step,
        "score": metrics["score_threshold"],
        "count_mae": metrics["count_mae"],
    }
    for folder in states.folders_of(run, step):
        files.replace(folder / THRESHOLD_FILE, json.dumps(content, indent=2) + "\n")


def stored_threshold(state: states.Kept) -> float:
    """The score that the last evaluation of a state on the split `eval` chose.

    Raises:
        UserError: there is none, or it is of another state.
    """
    path = state.folder / THRESHOLD_FILE
    again = f"choose it with {state.evaluation}, or give --score-threshold"
    if not path.exists():
        raise UserError(f"{path}: no threshold chosen on evaluation data; {again}")
    content = read_object(path)
    try:
        step = flags.checked("step", COUNTED, content["step"])
        score = flags.checked("score", Annotated[float, Range(0, 1)], content["score"])
    except (KeyError, UserError):
        raise UserError(f"{path}: not what detect writes; {again}") from None
    if state.step not in (None, step):
        raise UserError(f"{path}: chosen for step {step}, not for the state {state}; {again}")
    return score
