"""Train and evaluate a detector: which objects are where in an image.

python -m experiments.detect                                        # built-in scenes, minutes
python -m experiments.detect --data voc:DIR --preset small_boxes
python -m experiments.detect --data tfds:wider_face --preset faces
python -m experiments.detect --data coco:train.json,images --preset yolo --model resnet18
python -m experiments.detect --out runs/NAME --eval-only --split test
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from cnn_jax.data.augment.boxes import BoxAugmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.packed import original
from cnn_jax.data.proposals import Proposals
from cnn_jax.data.source import Source
from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.data.surveys import images as image_survey
from cnn_jax.reports import detection as report
from cnn_jax.reports.per_class import write_per_class
from cnn_jax.reports.rows import RowsFile
from cnn_jax.tasks.detection.evaluation import DetectionRule
from cnn_jax.tasks.detection.regions import RegionSampling

from . import class_weights, presets, states, suited, trainer
from . import options as flags
from .balance import balanced
from .detection.common import (
    DetectionTask,
    DetectorOptions,
    System,
    box_evaluation,
    stored_threshold,
    write_threshold,
)
from .detection.fast_rcnn import FastRcnnOptions, FastRcnnSystem
from .detection.rcnn import RcnnOptions, RcnnSystem
from .detection.regions import RegionOptions
from .detection.yolo import YoloOptions, YoloSystem
from .run import Run, chooses, evaluated_split, predictions, reads_training_set

SYSTEMS: dict[str, type[System]] = {
    "yolo": YoloSystem,
    "fast_rcnn": FastRcnnSystem,
    "rcnn": RcnnSystem,
}
"""The detection systems by name; each has its group of flags in `Options`."""

_KINDS = {"yolo": "grid_detector", "fast_rcnn": "region_network", "rcnn": "classifier"}

# The grid is the loss's too, which needs to know it: `YoloOptions` has these two.
Detector = flags.model_group(_KINDS, exclude=("grid", "boxes_per_cell"))

_OF_REGIONS = {"system": ("fast_rcnn", "rcnn")}
_WHOLE_IMAGES = flags.Declared(only={"system": ("yolo", "fast_rcnn")})


@dataclass(frozen=True)
class Options:
    """Train and evaluate a detector: which objects are where in an image."""

    verb: ClassVar[str] = "detect"

    run: Annotated[
        flags.RunOptions,
        flags.group(
            dict.fromkeys(
                # What is fitted after the training of the network belongs to its last state.
                ("recalibrate", "best", "patience", "state", "weights"),
                flags.Declared(unless={"system": ("rcnn",)}),
            )
        ),
    ] = field(default_factory=flags.RunOptions)
    data: flags.DataOptions = field(default_factory=flags.DataOptions)
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    balance: Annotated[
        flags.BalanceOptions,
        # R-CNN draws regions of all images, a fixed share of them objects.
        flags.group({"sampling": flags.Declared(unless={"system": ("rcnn",)})}),
    ] = field(default_factory=flags.BalanceOptions)
    model: Detector = field(default_factory=Detector)
    yolo: Annotated[YoloOptions, flags.group(only={"system": ("yolo",)})] = field(
        default_factory=YoloOptions
    )
    proposals: Annotated[
        Proposals,
        flags.group(
            {
                "proposal_size": flags.Declared(unless={"proposals": ("grid",)}),
                "grid_scales": flags.Declared(only={"proposals": ("grid",)}),
                "grid_ratios": flags.Declared(only={"proposals": ("grid",)}),
                "grid_step": flags.Declared(only={"proposals": ("grid",)}),
            },
            only=_OF_REGIONS,
        ),
    ] = field(default_factory=Proposals)
    regions: Annotated[RegionOptions, flags.group(only=_OF_REGIONS)] = field(
        default_factory=RegionOptions
    )
    sampling: Annotated[
        RegionSampling,
        flags.group(
            {"background_iou": flags.Declared(only={"system": ("fast_rcnn",)})}, only=_OF_REGIONS
        ),
    ] = field(default_factory=RegionSampling)
    fast_rcnn: Annotated[FastRcnnOptions, flags.group(only={"system": ("fast_rcnn",)})] = field(
        default_factory=FastRcnnOptions
    )
    rcnn: Annotated[RcnnOptions, flags.group(only={"system": ("rcnn",)})] = field(
        default_factory=RcnnOptions
    )
    rule: Annotated[DetectionRule, flags.group(resumable=True)] = field(
        default_factory=DetectionRule
    )
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[
        BoxAugmentation,
        flags.group(
            {
                "min_visible": flags.Declared(
                    only={**_WHOLE_IMAGES.only, "scale|translate": flags.GIVEN}
                ),
                **dict.fromkeys(("scale", "translate"), _WHOLE_IMAGES),
                **{
                    name: _WHOLE_IMAGES.merged(rgb)
                    for name, rgb in flags.rgb_only("hue", "saturation", "exposure").items()
                },
            }
        ),
    ] = field(default_factory=BoxAugmentation)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and train or evaluate."""
    trainer.main(argv, COMMAND)


def build(options: Options) -> Run:
    """The run that the options describe."""
    system = SYSTEMS[options.detector.system](options)
    split = evaluated_split(options)
    held_out = system.open(split)
    training = system.open("train") if reads_training_set(options.run) else None
    notices = [f"{split}: {line}" for line in getattr(held_out, "notices", ())]
    if training is not None and not options.run.eval_only:
        surveyed = box_survey.survey(training)
        options, lines = system.decided_by(surveyed, training, held_out)
        system = SYSTEMS[options.detector.system](options)
        noticed = box_survey.notices(training, surveyed, options.detector.max_objects)
        held_out_only = [line for line in notices if line.partition(": ")[2] not in noticed]
        drawn = original(options.data.data) == flags.BUILT_IN
        deep = image_survey.deep(training) if options.data.bits == 8 else []
        counted = [] if drawn else image_survey.summary(training, held_out)
        notices = [*noticed, *held_out_only, *deep, *counted, *lines]
    out = trainer.folder(options)
    threshold = None
    if split != "eval" and options.rule.score_threshold is None:
        threshold = stored_threshold(states.kept(out, options.run.state))
    names = held_out.class_names
    evaluation = box_evaluation(options, names, system.image_size, threshold)
    balance = balanced(options, training, names)
    task = system.build_task(names, evaluation, balance.weights)

    def training_set() -> tuple[TrainingBatches, int]:
        batches = trainer.training_batches(
            options, training, system.transform(), held_out, order=balance.order
        )
        return batches, len(training)

    run = Run(
        options=options,
        task=task,
        model=task.model,
        inputs=system.inputs(task),
        training_set=training_set,
        evaluation_set=system.evaluation_set(held_out),
        report=Report(
            out,
            held_out,
            task,
            chooses(options),
            options.detector.similar_labels(names),
            predictions(options),
        ),
        recorded={"class_names": names, class_weights.KEY: balance.weights},
        notices=[*notices, *balance.notices],
    )
    return system.completed(run, training)


class Report:
    """Writes the page, the pictures, and the threshold where the evaluation chooses it."""

    def __init__(
        self,
        out: Path,
        source: Source,
        task: DetectionTask,
        chooses: bool,
        similar: Sequence[Sequence[int]],
        predictions: RowsFile | None = None,
    ) -> None:
        self._out, self._source, self._task, self._chooses = out, source, task, chooses
        self._similar, self._predictions = similar, predictions

    def select(self, batch: Mapping[str, np.ndarray], predictions: Any) -> None:
        """Do nothing: an evaluation's details hold the detections of the whole set."""

    def write(self, step: int, evaluation: Any) -> None:
        """Write what an evaluation found, after `step` updates."""
        if self._chooses and self._task.evaluation.rule.score_threshold is None:
            write_threshold(self._out, step, evaluation.metrics)
        details = evaluation.details
        report.write(self._out, self._source, details, self._similar)
        write_per_class(self._out, step, self._source.class_names, report.figures(details))
        if self._predictions is not None:
            self._predictions.write(report.rows(details.whole, self._source))


# By system: the preset, and the images that its training sees; R-CNN's length is in regions.
_RECIPES = {
    "yolo": ("small_boxes", 24_600),
    "fast_rcnn": ("small_boxes_fast_rcnn", 12_300),
    "rcnn": ("small_boxes_rcnn", None),
}


def recipe(options: Options) -> suited.Recipe:
    """The recipe for a detector on the data that options name."""
    preset, seen = _RECIPES[options.detector.system]
    examples = len(YoloSystem(options).open("train"))  # without proposals
    chosen = ["--preset", preset]
    if seen is not None:
        chosen += ["--epochs", str(suited.passes(examples, seen, 10, 200))]
    return suited.Recipe(
        "a small network for some hundred images of small objects",
        tuple(chosen),
        f"there are {examples:,} training images",
    )


def with_recipe(argv: Sequence[str]) -> Sequence[str]:
    """The command line with a recipe that suits its data, where it has none."""
    return suited.suited(Options, argv, recipe, {"system"})


COMMAND = trainer.Command(
    Options,
    presets.DETECTION,
    build,
    lambda options: SYSTEMS[options.detector.system].model_names(),
    variant="system",
    suited=with_recipe,
)


if __name__ == "__main__":
    flags.entry(main)
