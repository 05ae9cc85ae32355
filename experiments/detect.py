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
from typing import Annotated, Any

import numpy as np

from cnn_jax.data.augment.boxes import BoxAugmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.proposals import Proposals
from cnn_jax.data.source import Source
from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.reports import detection as report
from cnn_jax.tasks.detection.evaluation import DetectionRule
from cnn_jax.tasks.detection.regions import RegionSampling

from . import options as flags
from . import presets, runs
from .detection.common import (
    DetectionTask,
    DetectorOptions,
    Examples,
    Sources,
    System,
    box_evaluation,
    stored_threshold,
    write_threshold,
)
from .detection.fast_rcnn import SYSTEM as FAST_RCNN
from .detection.fast_rcnn import FastRcnnOptions
from .detection.rcnn import SYSTEM as RCNN
from .detection.rcnn import RcnnOptions
from .detection.regions import RegionOptions
from .detection.yolo import SYSTEM as YOLO
from .detection.yolo import YoloOptions
from .experiment import Experiment

SYSTEMS: dict[str, System] = {"yolo": YOLO, "fast_rcnn": FAST_RCNN, "rcnn": RCNN}
"""The detection systems by name; each has its group of flags in `Options`."""


@dataclass(frozen=True)
class Options:
    """Train and evaluate a detector."""

    model: flags.Model = field(default_factory=flags.ModelOptions)
    data: flags.Data = field(default_factory=flags.DataOptions)
    detector: Annotated[DetectorOptions, flags.Flat] = field(default_factory=DetectorOptions)
    yolo: Annotated[YoloOptions, flags.Flat] = field(default_factory=YoloOptions)
    proposals: Annotated[Proposals, flags.Flat] = field(default_factory=Proposals)
    regions: Annotated[RegionOptions, flags.Flat] = field(default_factory=RegionOptions)
    sampling: Annotated[RegionSampling, flags.Flat] = field(default_factory=RegionSampling)
    fast_rcnn: Annotated[FastRcnnOptions, flags.Flat] = field(default_factory=FastRcnnOptions)
    rcnn: Annotated[RcnnOptions, flags.Flat] = field(default_factory=RcnnOptions)
    augmentation: Annotated[BoxAugmentation, flags.Flat] = field(default_factory=BoxAugmentation)
    optimizer: flags.Optimizer = field(default_factory=flags.OptimizerOptions)
    rule: Annotated[DetectionRule, flags.Flat] = field(default_factory=DetectionRule)
    run: flags.Run = field(default_factory=flags.RunOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run."""
    known = presets.DETECTION
    system = flags.parse_plain(Options, argv).detector.system
    if (built_in := f"{flags.BUILT_IN}_{system}") in known:
        known = {**known, flags.BUILT_IN: known[built_in]}
    options = flags.parse(Options, argv, known)
    if options.model.model == "list":
        print("\n".join(SYSTEMS[options.detector.system].model_names()))
    else:
        run(options)


def run(options: Options) -> Path:
    """Train, or only evaluate, as the options say; returns the run's folder."""
    runs.prepare_devices(options.run)
    runs.check_batch_sizes(options)
    out = runs.directory(options.run, "detect")
    system = SYSTEMS[options.detector.system]
    examples = Examples(system, options)
    split = options.run.split if options.run.eval_only else "eval"
    held_out = examples.open(split)
    training = None if options.run.eval_only else examples.open("train")
    sources = Sources(examples, held_out, training)
    notices: list[str] = []
    if training is not None:
        surveyed = box_survey.survey(training)
        options, lines = system.prepare(options, surveyed, sources)
        examples = Examples(system, options)
        sources = Sources(examples, held_out, training)
        notices = [
            *box_survey.notices(training, surveyed, options.detector.max_objects),
            *lines,
        ]
    threshold = None
    if split == "test" and options.rule.score_threshold is None:
        threshold = stored_threshold(out)
    size = examples.image_size
    names = held_out.class_names
    evaluation = box_evaluation(options, names, size, threshold)
    task = system.build_task(options, names, evaluation)

    def training_set() -> tuple[TrainingBatches, int]:
        source = examples.open("train") if training is None else training
        return examples.training(source, held_out), len(source)

    experiment = Experiment(
        verb="detect",
        options=options,
        out=out,
        task=task,
        evaluation_set=examples.evaluation(held_out),
        training_set=training_set,
        report=Report(out, held_out, task, split, options.detector.similar_labels(names)),
        input_shape=(1, size, size, 3),
        recorded={"class_names": names},
        notices=notices,
    )
    return system.carry_out(experiment, sources)


class Report:
    """Writes the page and the pictures and, of the split `eval`, the threshold chosen on it."""

    def __init__(
        self,
        out: Path,
        source: Source,
        task: DetectionTask,
        split: str,
        similar: Sequence[Sequence[int]],
    ) -> None:
        self._out, self._source, self._task, self._split = out, source, task, split
        self._similar = similar

    def select(self, batch: Mapping[str, np.ndarray], predictions: Any) -> None:
        """Do nothing: an evaluation's details hold the detections of the whole set."""

    def write(self, step: int, evaluation: Any) -> None:
        """Write what an evaluation found, after `step` updates."""
        if self._split == "eval" and self._task.evaluation.rule.score_threshold is None:
            write_threshold(self._out, step, evaluation.metrics)
        report.write(self._out, self._source, evaluation.details, self._similar)


def stored(run: Path) -> Options:
    """The options of a run."""
    return flags.stored(Options, run)


if __name__ == "__main__":
    flags.entry(main)
