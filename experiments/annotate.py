"""Train and evaluate an annotator: any number of labels an image.

python -m experiments.annotate                                    # built-in scenes, minutes
python -m experiments.annotate --data csv:labels.csv,images --model resnet18 --decision per-label
python -m experiments.annotate --data masks:DIR --patch-size 128  # satellite tiles
python -m experiments.annotate --out runs/NAME --eval-only --split test --decision topk --k 3
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from cnn_jax import files, models
from cnn_jax.data import TAG_FORMATS
from cnn_jax.data.augment import Augmentation
from cnn_jax.data.batches import TrainingBatches
from cnn_jax.data.decode import decode
from cnn_jax.data.source import Source
from cnn_jax.errors import UserError
from cnn_jax.reports import annotation as report
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.tasks.annotation import Annotation, Decision, LossName, Thresholds
from cnn_jax.training import checkpoints
from cnn_jax.training.backend import compile_inference

from . import images, presets, runs
from . import options as flags
from .experiment import Experiment

THRESHOLDS_FILE = "thresholds.json"


@dataclass(frozen=True)
class TagOptions:
    """Labels and splits. `--data` is `shapes`, `csv:FILE,IMAGES` or `masks:DIR`."""

    test_every: int | None = None
    """Rows N, 2N, 3N, ... of a csv table are its test split; the rest is for training and, with
    --holdout-fraction above 0, for evaluation."""
    class_names: tuple[str, ...] = ()
    """Names of a mask's classes, in the order of their values."""
    eval_folders: tuple[str, ...] = ()
    """Folders of masked images that are evaluated while training."""
    test_folders: tuple[str, ...] = ()
    """Folders of masked images that `--split test` evaluates."""
    patch_size: int = 128
    """Pixels on a side of the patches that masked images are cut into."""
    min_area: float = 0.01
    """The share of a patch that a class must exceed to be one of its labels."""


@dataclass(frozen=True)
class LossOptions:
    """What training minimises."""

    loss: LossName = "sigmoid"
    """Logistic loss per label; softmax against the labels divided by their number; pairwise hinge
    ranking; or WARP (Gong et al. 2013)."""
    warp_ranks: Literal["exact", "sampled"] = "exact"
    """WARP's ranks: counted, or estimated from random draws as in the paper."""
    positive_weights: tuple[float, ...] = ()
    """What a label that holds counts in the logistic loss: one number for all, or one each."""
    focal_gamma: float = 0.0
    """Above 0 the logistic loss is focal with this exponent (Lin et al. 2017)."""

    def __post_init__(self) -> None:
        if self.focal_gamma < 0:
            raise UserError(f"--focal-gamma {self.focal_gamma}: must be 0 or more")
        if any(not weight > 0 for weight in self.positive_weights):
            raise UserError("--positive-weights: must be above 0")
        if self.positive_weights and self.focal_gamma:
            raise UserError("--positive-weights and --focal-gamma: give one of them")
        if self.loss != "sigmoid" and (self.positive_weights or self.focal_gamma):
            raise UserError(f"--loss {self.loss}: takes no --positive-weights or --focal-gamma")
        if self.loss != "warp" and self.warp_ranks != "exact":
            raise UserError(f"--warp-ranks {self.warp_ranks}: for --loss warp alone")


@dataclass(frozen=True)
class Options:
    """Train and evaluate an annotator."""

    model: flags.Model = field(default_factory=flags.ModelOptions)
    data: flags.Data = field(default_factory=flags.DataOptions)
    tags: Annotated[TagOptions, flags.Flat] = field(default_factory=TagOptions)
    augmentation: Annotated[Augmentation, flags.Flat] = field(default_factory=Augmentation)
    optimizer: flags.Optimizer = field(default_factory=flags.OptimizerOptions)
    loss: Annotated[LossOptions, flags.Flat] = field(default_factory=LossOptions)
    rule: Annotated[Decision, flags.Flat] = field(default_factory=Decision)
    run: flags.Run = field(default_factory=flags.RunOptions)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and run."""
    options = flags.parse(Options, argv, presets.ANNOTATION)
    if options.model.model == "list":
        print("\n".join(models.names()))
    else:
        run(options)


def run(options: Options) -> Path:
    """Train, or only evaluate, as the options say; returns the run's folder."""
    runs.prepare_devices(options.run)
    runs.check_batch_sizes(options)
    out = runs.directory(options.run, "annotate")
    sizes = images.Sizes.of(options)
    open_split = partial(
        runs.open_source,
        options.data,
        seed=options.run.seed,
        formats=TAG_FORMATS,
        **dataclasses.asdict(options.tags),
    )
    split = options.run.split if options.run.eval_only else "eval"
    held_out = open_split(split, image_size=sizes.resize)
    thresholds = None
    if split == "test" and options.rule.decision in ("tuned", "per-label"):
        thresholds = stored_thresholds(out, held_out.class_names)
    task = build_task(options, held_out.class_names, thresholds)

    def training_set() -> tuple[TrainingBatches, int]:
        source = open_split("train", image_size=sizes.canvas)
        return images.training_batches(options, source, held_out), len(source)

    return Experiment(
        verb="annotate",
        options=options,
        out=out,
        task=task,
        evaluation_set=images.evaluation_batches(options, held_out),
        training_set=training_set,
        report=Report(out, held_out, options, task, split),
        input_shape=(1, sizes.training, sizes.training, 3),
        recorded={"class_names": held_out.class_names},
    ).carry_out()


def build_task(
    options: Options,
    class_names: Sequence[str],
    thresholds: Thresholds | None = None,
) -> Annotation:
    """The network and how it is trained and judged.

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
    spec = models.input_spec(options.model.model)
    sizes = images.Sizes.of(options)
    return Annotation(
        model=images.build_model(options.model, labels),
        num_labels=labels,
        image_size=sizes.training,
        mean=spec.mean,
        std=spec.std,
        augmentation=dataclasses.replace(options.augmentation, output_size=sizes.training),
        loss_name=options.loss.loss,
        warp_ranks=options.loss.warp_ranks,
        positive_weights=weights,
        focal_gamma=options.loss.focal_gamma,
        decision=options.rule,
        thresholds=thresholds,
    )


class Report:
    """Writes the page and the pictures and, of the split `eval`, the thresholds chosen on it."""

    def __init__(
        self, out: Path, source: Source, options: Options, task: Annotation, split: str
    ) -> None:
        self._out, self._source, self._task, self._split = out, source, task, split
        self._transform = dataclasses.replace(images.evaluation_transform(options), ten_crop=False)

    def select(self, batch: Mapping[str, np.ndarray], predictions: Any) -> None:
        """Do nothing: an evaluation's details hold the scores of the whole set."""

    def write(self, step: int, evaluation: Any) -> None:
        """Write what an evaluation found, after `step` updates."""
        task, names = self._task, self._source.class_names
        details = evaluation.details
        thresholds = details.thresholds
        if self._split == "eval":
            files.replace(self._out / THRESHOLDS_FILE, _dumped(step, thresholds, task, names))
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


def described(task: Annotation, thresholds: Thresholds) -> tuple[bool, str]:
    """Whether the decision rule is of chosen thresholds, and the rule in words."""
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


def stored_thresholds(run: Path, class_names: Sequence[str]) -> Thresholds:
    """The thresholds that a run's last evaluation of the split `eval` chose.

    Raises:
        UserError: there are none, or they are of other labels or another checkpoint.
    """
    path = run / THRESHOLDS_FILE
    again = f"choose them with --eval-only --out {run}"
    if not path.exists():
        raise UserError(f"{path}: no thresholds chosen on evaluation data; {again}")
    content = read_object(path)
    try:
        names, step = tuple(content["per_label"]), content["step"]
        thresholds = Thresholds(
            float(content["one"]["score"]),
            tuple(float(entry["score"]) for entry in content["per_label"].values()),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: not what annotate writes; {again}") from None
    newest = max(checkpoints.steps(run / runs.CHECKPOINTS), default=step)
    if names != tuple(class_names) or step != newest:
        raise UserError(
            f"{path}: chosen for step {step} and {len(names)} labels, the newest checkpoint is of "
            f"step {newest}, the data has {len(class_names)}; {again}"
        )
    return thresholds


def predict(run: Path, options: flags.PredictOptions) -> None:
    """Print the labels of each image with their probabilities, as the run's rule decides."""
    trained = flags.stored(Options, run)
    class_names = read_object(run / CONFIG_FILE)["class_names"]
    thresholds = None
    if trained.rule.decision in ("tuned", "per-label"):
        thresholds = stored_thresholds(run, class_names)
    task = build_task(trained, class_names)
    state, notices = runs.restored(task, run)
    for notice in notices:
        flags.warn(notice)
    transform = images.evaluation_transform(trained)
    rows = runs.in_batches(
        compile_inference(lambda batch: task.predict(state.params, state.model_state, batch)),
        ({"image": transform({"image": decode(file)})["image"]} for file in options.images),
        min(options.batch_size, len(options.images)),
    )
    scores = np.stack([np.asarray(row, np.float32) for row in rows])
    results = []
    decided = zip(
        options.images, task.probability(scores), task.decide(scores, thresholds), strict=True
    )
    for image, probabilities, given in decided:
        order = np.argsort(-probabilities, kind="stable")
        named = {class_names[i]: float(probabilities[i]) for i in order}
        tags = [class_names[i] for i in order if given[i]]
        results.append({"image": image, "tags": tags, "probabilities": named})
        if not options.json:
            line = "; ".join(f"{tag} {named[tag]:.2f}" for tag in tags) or "no label"
            print(line if len(options.images) == 1 else f"{image}: {line}")
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    flags.entry(main)
