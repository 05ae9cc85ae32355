"""Train and evaluate an annotator: any number of labels an image.

python -m experiments.annotate                                    # built-in scenes, minutes
python -m experiments.annotate --data csv:labels.csv,images --model resnet18 --decision per-label
python -m experiments.annotate --data masks:DIR --patch-size 128  # satellite tiles
python -m experiments.annotate --out runs/NAME --eval-only --split test --decision topk --k 3
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from cnn_jax import files, models
from cnn_jax.data import TAG_FORMATS
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.packed import prepared
from cnn_jax.data.source import Source, Split
from cnn_jax.errors import UserError
from cnn_jax.ranges import COUNTED
from cnn_jax.reports import annotation as report
from cnn_jax.reports.per_class import write_per_class
from cnn_jax.reports.rows import RowsFile
from cnn_jax.runs.folder import read_object
from cnn_jax.tasks.annotation import Annotation, Decision, LossName, Thresholds

from . import images, presets, states, suited, trainer
from . import options as flags
from .channels import fitting, normalization
from .run import Run, chooses, evaluated_split, predictions, reads_training_set

THRESHOLDS_FILE = "thresholds.json"


@dataclass(frozen=True)
class TagOptions:
    """Labels and splits. `--data` is `shapes`, `csv:FILE,IMAGES`, `masks:DIR` or
    `packed:DIR`."""

    test_every: int | None = flags.flag(
        None, range=flags.DATA_RANGES["test_every"], unless={"data": ("shapes", "masks", "packed")}
    )
    """Rows N, 2N, 3N, ... of a table are its test split. The rest is for training and, if
    --holdout-fraction is above 0, for evaluation."""
    class_names: tuple[str, ...] = flags.flag(
        (), unless={"data": ("shapes", "csv", "packed")}, metavar="NAME"
    )
    """Names of the classes of a mask, in the order of their values."""
    label_values: tuple[int, ...] = flags.flag(
        (), minimum=0, maximum=65_535, unless={"data": ("shapes", "csv", "packed")}
    )
    """Values of the classes in the masks. Default: 0, 1, 2, ..."""
    ignore_labels: tuple[int, ...] = flags.flag(
        (), minimum=0, maximum=65_535, unless={"data": ("shapes", "csv", "packed")}
    )
    """Values, besides 255, of pixels that have no class."""
    label_colors: str | None = flags.flag(
        None, moves=True, unless={"data": ("shapes", "csv", "packed")}, metavar="FILE"
    )
    """Which colour is which class in coloured masks: a file with a name, red, green and blue in
    each line, or `voc`. Default: class_dict.csv beside images/, if it exists."""
    eval_folders: tuple[str, ...] = flags.flag(
        (), unless={"data": ("shapes", "csv", "packed")}, metavar="NAME"
    )
    """Folders of masked images that are evaluated during training."""
    test_folders: tuple[str, ...] = flags.flag(
        (), unless={"data": ("shapes", "csv", "packed")}, metavar="NAME"
    )
    """Folders of masked images that `--split test` evaluates."""
    patch_size: int = flags.flag(
        128, range=flags.DATA_RANGES["patch_size"], unless={"data": ("shapes", "csv", "packed")}
    )
    """Pixels on a side of the patches that masked images are cut into."""
    min_area: float = flags.flag(
        0.01, range=flags.DATA_RANGES["min_area"], unless={"data": ("shapes", "csv", "packed")}
    )
    """A class is a label of a patch if it covers more than this share of it."""


@dataclass(frozen=True)
class AnnotationLoss:
    """The loss that training minimises."""

    loss: LossName = "sigmoid"
    """Logistic loss for each label; softmax against the labels divided by their number; pairwise
    hinge ranking; or WARP (Gong et al. 2013)."""
    warp_ranks: Literal["exact", "sampled"] = flags.flag("exact", only={"loss": ("warp",)})
    """WARP's ranks: counted, or estimated from random draws as in the paper."""
    positive_weights: tuple[float, ...] = flags.flag(
        (), above=0, maximum=1e6, only={"loss": ("sigmoid",)}
    )
    """Weight, in the loss, of the labels that an image has: one number for all labels, or one for
    each."""
    focal_gamma: float = flags.flag(0.0, minimum=0, maximum=100, only={"loss": ("sigmoid",)})
    """Exponent of the focal loss (Lin et al. 2017); 0 stands for the plain logistic loss."""

    def __post_init__(self) -> None:
        if self.positive_weights and self.focal_gamma:
            raise UserError("--positive-weights and --focal-gamma: give one of them")


Classifier = flags.model_group("classifier")

_RULE = flags.group(
    {
        "k": flags.Declared(only={"decision": ("topk",)}),
        "threshold": flags.Declared(only={"decision": ("threshold",)}),
    },
    resumable=True,
)


@dataclass(frozen=True)
class Options(images.ImageOptions):
    """Train and evaluate an annotator: any number of labels for an image."""

    verb: ClassVar[str] = "annotate"

    run: flags.RunOptions = field(default_factory=flags.RunOptions)
    data: flags.WholeImageOptions = field(default_factory=flags.WholeImageOptions)
    tags: TagOptions = field(default_factory=TagOptions)
    model: Classifier = field(default_factory=Classifier)
    loss: AnnotationLoss = field(default_factory=AnnotationLoss)
    rule: Annotated[Decision, _RULE] = field(default_factory=Decision)
    optimizer: flags.OptimizerOptions = field(default_factory=flags.OptimizerOptions)
    augmentation: Annotated[Augmentation, flags.AUGMENTATION] = field(default_factory=Augmentation)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and train or evaluate."""
    trainer.main(argv, COMMAND)


def open_split(options: Options, split: Split, image_size: int) -> Source:
    """One split of the data."""
    return trainer.open_source(
        options,
        split,
        image_size=image_size,
        formats=TAG_FORMATS,
        **dataclasses.asdict(options.tags),
    )


def build(options: Options) -> Run:
    """The run that the options describe."""
    options = images.with_packed_sizes(options)
    sizes, out = options.sizes, trainer.folder(options)
    split = evaluated_split(options)
    held_out = open_split(options, split, image_size=sizes.resize)
    training = None
    if reads_training_set(options.run):
        training = open_split(options, "train", image_size=sizes.canvas)
    thresholds = None
    if split != "eval" and options.rule.decision in ("tuned", "per-label"):
        kept = states.kept(out, options.run.state)
        thresholds = stored_thresholds(kept, held_out.class_names)
    task = build_task(options, held_out.class_names, thresholds)

    def training_set() -> tuple[TrainingBatches, int]:
        transform = options.training_transform
        return trainer.training_batches(options, training, transform, held_out), len(training)

    transform = options.evaluation_transform
    unit = "patch" if options.data.data.startswith("masks:") else "image"
    return Run(
        options=options,
        task=task,
        model=task.model,
        inputs=(task.network_input,),
        training_set=training_set,
        evaluation_set=trainer.evaluation_batches(options, held_out, transform),
        report=Report(out, held_out, options, task, predictions(options)),
        recorded={"class_names": held_out.class_names},
        notices=images.noticed(options, training, held_out, unit),
    )


def build_task(
    options: Options,
    class_names: Sequence[str],
    thresholds: Thresholds | None = None,
) -> Annotation:
    """The network, its loss and its decision rule.

    Raises:
        UserError: flags that do not fit the number of labels.
    """
    labels = len(class_names)
    if options.rule.decision == "topk" and options.rule.k > labels:
        raise UserError(f"--k {options.rule.k}: the data has only {labels} labels")
    weights = options.loss.positive_weights
    if len(weights) not in (0, 1, labels):
        raise UserError(
            f"--positive-weights: {len(weights)} numbers for {labels} labels ({class_names})"
        )
    spec, size = models.input_spec(options.model.model), options.sizes.training
    return Annotation(
        model=images.build_model(options.model, labels),
        num_labels=labels,
        image_size=size,
        **normalization(spec, options.data.channels),
        augmentation=dataclasses.replace(
            fitting(options.augmentation, options.data), output_size=size
        ),
        loss_name=options.loss.loss,
        warp_ranks=options.loss.warp_ranks,
        positive_weights=weights,
        focal_gamma=options.loss.focal_gamma,
        decision=options.rule,
        thresholds=thresholds,
        views=options.data.views,
    )


class Report:
    """Writes the page, the pictures, and the thresholds where the evaluation chooses them."""

    def __init__(
        self,
        out: Path,
        source: Source,
        options: Options,
        task: Annotation,
        predictions: RowsFile | None = None,
    ) -> None:
        self._out, self._source, self._task = out, source, task
        self._chooses = chooses(options)
        self._predictions = predictions
        transform = dataclasses.replace(options.evaluation_transform, ten_crop=False)
        self._transform = prepared(source, transform)

    def select(self, batch: Mapping[str, np.ndarray], predictions: Any) -> None:
        """Do nothing: an evaluation's details hold the scores of the whole set."""

    def write(self, step: int, evaluation: Any) -> None:
        """Write what an evaluation found, after `step` updates."""
        task, names = self._task, self._source.class_names
        details = evaluation.details
        thresholds = details.thresholds
        if self._chooses:
            content = _dumped(step, thresholds, task, names)
            for folder in states.folders_of(self._out, step):
                files.replace(folder / THRESHOLDS_FILE, content)
        needed, words = described(task, thresholds)
        if needed and task.thresholds is None:
            words += " chosen on these same images, so that figures are a little too good"
        outcome = report.Outcome(
            metrics=evaluation.metrics,
            probabilities=task.probability(details.scores),
            predicted=details.predicted,
            truth=details.truth,
            curves=details.curves,
            average_precisions=details.average_precisions,
            thresholds=_limits(task, thresholds),
            rule=words,
        )
        report.write(self._out, self._source, self._transform, outcome)
        write_per_class(self._out, step, names, report.figures(outcome))
        if self._predictions is not None:
            self._predictions.write(report.rows(outcome, self._source))


def described(task: Annotation, thresholds: Thresholds) -> tuple[bool, str]:
    """Tell whether the decision rule has chosen thresholds, and describe it in words."""
    match task.decision.decision:
        case "topk":
            return False, f"the {task.decision.k} highest scores"
        case "threshold":
            return False, f"a threshold of {task.decision.threshold:g}"
        case "tuned":
            return True, f"a threshold of {float(task.probability(np.array(thresholds.one))):.3f}"
        case _:
            return True, "a threshold for each label"


def _limits(task: Annotation, thresholds: Thresholds) -> tuple[float, ...]:
    """The probability that each label must reach; empty where the number is fixed."""
    match task.decision.decision:
        case "topk":
            return ()
        case "threshold":
            return (task.decision.threshold,) * task.num_labels
        case "tuned":
            limits = np.full(task.num_labels, thresholds.one)
        case _:
            limits = np.array(thresholds.per_label)
    return tuple(map(float, task.probability(limits)))


def _dumped(step: int, thresholds: Thresholds, task: Annotation, names: Sequence[str]) -> str:
    """`thresholds.json`: scores to decide by, exactly, and probabilities to read."""
    probability = task.probability(np.array([thresholds.one, *thresholds.per_label]))
    content = {
        "step": step,
        "f_beta": task.decision.f_beta,
        "one": {"score": thresholds.one, "probability": float(probability[0])},
        "per_label": {
            name: {"score": score, "probability": float(p)}
            for name, score, p in zip(names, thresholds.per_label, probability[1:], strict=True)
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def stored_thresholds(state: states.Kept, class_names: Sequence[str]) -> Thresholds:
    """The thresholds that the last evaluation of a state on the split `eval` chose.

    Raises:
        UserError: there are none, or they are of other labels or another state.
    """
    path = state.folder / THRESHOLDS_FILE
    again = f"choose them with {state.evaluation}"
    if not path.exists():
        raise UserError(f"{path}: no thresholds chosen on evaluation data; {again}")
    content = read_object(path)
    try:
        step = flags.checked("step", COUNTED, content["step"])
        names = flags.checked("per_label", tuple[str, ...], tuple(content["per_label"]))
        thresholds = Thresholds(
            _score(content["one"]),
            tuple(_score(entry) for entry in content["per_label"].values()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, UserError):
        raise UserError(f"{path}: not what annotate writes; {again}") from None
    if names != tuple(class_names) or state.step not in (None, step):
        raise UserError(
            f"{path}: chosen for step {step} and {len(names)} labels, not for the state {state} "
            f"and the {len(class_names)} labels of the data; {again}"
        )
    return thresholds


def _score(entry: Mapping[str, Any]) -> float:
    """A threshold of a score; infinity where a label is given never."""
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score):
        raise ValueError(score)
    return float(score)


def with_recipe(argv: Sequence[str]) -> Sequence[str]:
    """The command line with a recipe that suits its data, where it has none."""

    def opened(options: Options) -> Source:
        return open_split(options, "train", image_size=suited.TINY)

    beside = {field.name for field in dataclasses.fields(TagOptions)}
    choose = suited.by_images(opened, suited.annotation)
    return suited.suited(Options, argv, choose, beside)


COMMAND = trainer.Command(
    Options,
    presets.ANNOTATION,
    build,
    lambda _: models.names(),
    variant="model",
    suited=with_recipe,
)


if __name__ == "__main__":
    flags.entry(main)
