"""R-CNN for `experiments.detect`: its flags, and its stages one after the other.

1. proposals; 2. fine-tuning of the network on warped regions; 3. features of the training regions;
4. a linear SVM and 5. a box regression for each class; 6. evaluation of it all. What a stage leaves
is on disk in the run's folder, and `--resume` goes on with the first stage that has not ended.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cnn_jax import files, models
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.data.windows import WindowOrder, Windows, WindowSource, same
from cnn_jax.errors import UserError
from cnn_jax.progress import track
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, trained_objects
from cnn_jax.tasks.detection.rcnn import RCNN, FineTuning, paper_context
from cnn_jax.tasks.detection.rcnn_fitting import (
    ImageRegions,
    fit_boxes,
    fit_svms,
    overlaps_by_class,
)
from cnn_jax.training import checkpoints
from cnn_jax.training.backend import compile_inference
from cnn_jax.training.state import TrainState

from .. import images, runs
from ..experiment import Experiment
from . import regions
from .common import Sources, System

# What the stages leave in the run's folder; features by the step of the network that gave them.
_FEATURES, _SVMS, _REGRESSIONS = "features", "svms.safetensors", "box_regressions.safetensors"


@dataclass(frozen=True)
class RcnnOptions:
    """R-CNN."""

    classifier: Literal["svm", "softmax"] = "svm"
    """What scores regions: a linear SVM for each class on the network's features, as in the paper,
    or the network's own softmax."""
    crop_size: int | None = None
    """Pixels on a side of a warped region; default: what the network is made for."""
    context: int | None = None
    """Pixels of it on each side that lie around the region's box; default: the paper's share, 16
    of 227."""
    fit_images: int | None = None
    """Fit the SVMs and box regressions on the first so many training images; default: on all."""

    def __post_init__(self) -> None:
        if self.crop_size is not None and self.crop_size < 8:
            raise UserError(f"--crop-size {self.crop_size}: must be 8 or more")
        if self.context is not None and self.context < 0:
            raise UserError(f"--context {self.context}: must be 0 or more")
        if self.fit_images is not None and self.fit_images < 1:
            raise UserError(f"--fit-images {self.fit_images}: must be 1 or more")


def image_size(options: Any) -> int:
    """The shorter side that Fast R-CNN's paper has: regions are cut out of the whole image."""
    return 600


def prepare(options: Any, surveyed: BoxSurvey, sources: Sources) -> tuple[Any, list[str]]:
    """What the proposals cover."""
    return options, regions.recall_lines(options, sources)


def build_task(options: Any, class_names: Sequence[str], evaluation: BoxEvaluation) -> RCNN:
    """The whole detector; its network is what is trained.

    Raises:
        UserError: options that the network does not have, or more context than crop.
    """
    chosen: RcnnOptions = options.rcnn
    spec = models.input_spec(options.model.model)
    crop = chosen.crop_size or (32 if options.model.stem == "small" else spec.image_size)
    context = paper_context(crop) if chosen.context is None else chosen.context
    if 2 * context >= crop:
        raise UserError(f"--context {context}: nothing is left of --crop-size {crop}")
    network = FineTuning(
        # One more for the background.
        model=images.build_model(options.model, len(class_names) + 1),
        evaluation=evaluation,
        mean=spec.mean,
        std=spec.std,
        crop_size=crop,
        context=context,
        flip=options.augmentation.flip,
        sampling=dataclasses.replace(options.sampling, background_iou=(0.0, 0.5)),
    )
    return RCNN(network, chosen.classifier, options.regions.regress_boxes)


def carry_out(experiment: Experiment, sources: Sources) -> Path:
    """All stages that have not ended yet; only the last with `--eval-only`.

    Raises:
        UserError: several processes, or what a stage complains of.
    """
    options, out, task = experiment.options, experiment.out, experiment.task
    assert isinstance(task, RCNN)
    if jax.process_count() > 1:
        raise UserError("--system rcnn: its stages after fine-tuning run in one process alone")
    if options.run.recalibrate:
        raise UserError("--recalibrate: not for rcnn, whose SVMs know the network as it was")
    ended = checkpoints.steps(out / runs.BEST)
    if options.run.eval_only and checkpoints.steps(out / runs.CHECKPOINTS) and not ended:
        raise UserError(f"{out}: its stages have not all ended; --resume goes on with them")
    if not options.run.eval_only:
        if not (options.run.resume and ended):
            assert sources.training is not None
            training = sources.examples.training_in_order(sources.training)
            steps = _fine_tuned(experiment, task, training)
            if steps is None:
                return out
            _fit(task, out, steps, options, training)
        _say("stage 6 of 6: evaluating the detector")
        run = dataclasses.replace(options.run, eval_only=True)
        options = dataclasses.replace(options, run=run)
    return dataclasses.replace(experiment, options=options).carry_out()


def _fine_tuned(experiment: Experiment, task: RCNN, training: EvaluationBatches) -> int | None:
    """Trains the network to its end; the number of steps, or None where it was stopped before."""
    options = experiment.options
    data, seed = options.data, options.run.seed
    windows = Windows.of(training.iterate(), options.sampling.foreground_iou)
    total = runs.total_steps(options.optimizer, len(windows) / data.batch_size)
    if options.run.resume and total in checkpoints.steps(experiment.out / runs.CHECKPOINTS):
        return total
    objects = int(np.sum(windows.labels > 0))
    _say(f"stage 2 of 6: fine-tuning on {len(windows):,} regions, {objects:,} of objects")

    def training_set() -> tuple[TrainingBatches, int]:
        readers = {**runs.readers(data), "cache_bytes": 0}  # images are kept, not windows
        share = options.sampling.foreground_fraction
        order = WindowOrder(windows.labels, data.batch_size, seed, share)
        batches = TrainingBatches(
            WindowSource(training.rows, windows),
            same,
            batch_size=data.batch_size,
            seed=seed,
            order=order,
            **readers,
        )
        return batches, len(windows)

    crop = task.network.crop_size
    dataclasses.replace(
        experiment,
        task=task.network,
        training_set=training_set,
        input_shape=(1, crop, crop, 3),
        evaluate_last=False,  # the last stage does, with what is fitted in between
    ).carry_out()
    return total if total in checkpoints.steps(experiment.out / runs.CHECKPOINTS) else None


def _fit(task: RCNN, out: Path, steps: int, options: Any, training: EvaluationBatches) -> None:
    """Stages 3 to 5, and the whole detector as the state that is evaluated."""
    state, _ = runs.restored(task.network, out)
    classes = task.evaluation.num_classes
    images = len(training.rows.source)
    stored = StoredRegions(
        out / _FEATURES / str(steps), min(options.rcnn.fit_images or images, images)
    )
    stored.fill(task, state, training, runs.evaluation_batch_size(options.data))
    _say("stage 4 of 6: a linear SVM for each class")
    svms = _fitted(out / _SVMS, lambda: fit_svms(stored, classes, options.run.seed))
    _say("stage 5 of 6: a box regression for each class")
    boxes = _fitted(out / _REGRESSIONS, lambda: fit_boxes(stored, classes))
    params = {"network": state.params, "classes": svms, "boxes": boxes}
    checkpoints.save(out / runs.BEST, steps, state.replace(params=params), keep=1)


def _fitted(path: Path, fit: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What a stage fits, kept in a file: read where it is there already."""
    if not path.exists():
        files.replace(path, save({name: np.asarray(x, order="C") for name, x in fit().items()}))
    return _read(path)


def _read(path: Path) -> dict[str, np.ndarray]:
    """What a stage left in a file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it, and --resume makes it again"
        ) from None


class StoredRegions(Sequence[ImageRegions]):
    """The regions of a set of images, one file each."""

    def __init__(self, folder: Path, count: int):
        """Takes the folder and the number of images."""
        self._folder, self._count = folder, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> ImageRegions:
        if not 0 <= index < self._count:
            raise IndexError(index)
        # Read once for every class, and so in a format that opens fast.
        read = ImageRegions(**_read(self._path(index)))
        return read._replace(
            classes=read.classes.astype(np.float32), boxes=read.boxes.astype(np.float32)
        )

    def fill(
        self, task: RCNN, state: TrainState, batches: EvaluationBatches, batch_size: int
    ) -> None:
        """Stage 3: what the network says of every training region, where it is not known yet.

        Features are kept in half precision.
        """
        _say(f"stage 3 of 6: features of the regions of {self._count:,} training images")

        @compile_inference
        def extract(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            objects = trained_objects(dict(batch))
            every = jnp.concatenate([batch["boxes"], batch["proposals"]], axis=1)
            valid = jnp.concatenate([objects, batch["proposal_valid"]], axis=1)
            found = task.network.features(
                state.params,
                state.model_state,
                {**batch, "proposals": every, "proposal_valid": valid},
            )
            overlaps, targets = jax.vmap(
                lambda *one: overlaps_by_class(*one, task.evaluation.num_classes)
            )(every, batch["boxes"], batch["labels"], objects)
            return {
                "classes": found.classes.astype(jnp.float16),
                "boxes": found.boxes.astype(jnp.float16),
                "truth": jnp.where(objects, batch["labels"], -1),
                "overlaps": overlaps,
                "targets": targets,
                "valid": valid,
            }

        for number in track(range(-(-self._count // batch_size)), "Features"):
            rows = range(self._count)[number * batch_size :][:batch_size]
            if all(self._path(index).exists() for index in rows):
                continue
            batch = batches[number]
            found = jax.device_get(extract({k: jnp.asarray(v) for k, v in batch.items()}))
            for row, index in enumerate(batch["index"][batch["valid"]]):
                if index < self._count and not self._path(int(index)).exists():
                    self._write(int(index), {name: column[row] for name, column in found.items()})

    def _write(self, index: int, row: dict[str, np.ndarray]) -> None:
        valid = row.pop("valid")
        proposals = np.full(len(valid) - len(row["truth"]), -1, np.int32)
        row["truth"] = np.concatenate([row["truth"], proposals])
        files.replace(
            self._path(index), save({name: column[valid] for name, column in row.items()})
        )

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:07d}.safetensors"


def _say(message: str) -> None:
    Console(stderr=True).print(message, highlight=False, soft_wrap=True)


SYSTEM = System(
    build_task=build_task,
    image_size=image_size,
    model_names=models.names,
    prepare=prepare,
    examples=regions.with_proposals,
    transform=regions.transform,
    unlabelled=regions.unlabelled,
    carry_out=carry_out,
)
