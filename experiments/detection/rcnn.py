"""R-CNN for `experiments.detect`: its flags, and its stages one after the other.

1. proposals; 2. fine-tuning of the network on warped regions; 3. features of the training regions;
4. a linear SVM and 5. a box regression for each class; 6. evaluation of it all. What a stage leaves
is on disk in the run's folder, and `--resume` goes on with the first stage that has not ended.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cnn_jax import files, models
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.source import Source, unchanged
from cnn_jax.data.windows import WindowOrder, Windows, WindowSource
from cnn_jax.errors import UserError
from cnn_jax.progress import PipeConsole, track
from cnn_jax.ranges import LARGEST_INT, LARGEST_SIDE
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, trained_objects
from cnn_jax.tasks.detection.rcnn import RCNN, FineTuning, paper_context
from cnn_jax.tasks.detection.rcnn_fitting import (
    ImageRegions,
    fit_boxes,
    fit_svms,
    overlaps_by_class,
)
from cnn_jax.training.backend import compile_inference
from cnn_jax.training.state import TrainState

from .. import images, trainer
from .. import options as flags
from ..channels import normalization
from ..run import Run
from .regions import RegionSystem

# What the stages leave in the run's folder, below the step of the network that they are made of.
_FEATURES, _SVMS, _REGRESSIONS = "features", "svms.safetensors", "box_regressions.safetensors"


@dataclass(frozen=True)
class RcnnOptions:
    """R-CNN."""

    classifier: Literal["svm", "softmax"] = flags.flag("svm", resumable=True)
    """Scores of regions: a linear SVM for each class on the features of the network, as in the
    paper, or the network's own softmax."""
    crop_size: int | None = flags.flag(None, minimum=8, maximum=LARGEST_SIDE)
    """Pixels on a side of a warped region. Default: the image size of the network."""
    context: int | None = flags.flag(None, minimum=0, maximum=LARGEST_SIDE)
    """Pixels around the region's box on each side of it. Default: the paper's share, 16 of 227."""
    fit_images: int | None = flags.flag(None, minimum=1, maximum=LARGEST_INT)
    """Number of training images that SVMs and box regressions are fitted on. Default: all."""


class RcnnSystem(RegionSystem):
    """R-CNN: proposals cut out of the image and classified one by one."""

    @property
    def default_size(self) -> int:
        """The shorter side in Fast R-CNN's paper: regions are cut out of the whole image."""
        return 600

    @property
    def crop_size(self) -> int:
        """Pixels on a side of a warped region."""
        spec = models.input_spec(self.options.model.model)
        small = self.options.model.stem == "small"
        return self.options.rcnn.crop_size or (32 if small else spec.image_size)

    def build_task(
        self,
        class_names: Sequence[str],
        evaluation: BoxEvaluation,
        class_weights: tuple[float, ...] = (),
    ) -> RCNN:
        """The whole detector; its network is what is trained.

        Raises:
            UserError: the network lacks an option, or there is more context than crop.
        """
        options, chosen, crop = self.options, self.options.rcnn, self.crop_size
        spec = models.input_spec(options.model.model)
        context = paper_context(crop) if chosen.context is None else chosen.context
        if 2 * context >= crop:
            raise UserError(f"--context {context}: nothing is left of --crop-size {crop}")
        network = FineTuning(
            # One more for the background.
            model=images.build_model(options.model, len(class_names) + 1),
            evaluation=evaluation,
            **normalization(spec, options.data.channels),
            crop_size=crop,
            context=context,
            flip=options.augmentation.flip,
            sampling=dataclasses.replace(options.sampling, background_iou=(0.0, 0.5)),
            class_weights=class_weights,
        )
        return RCNN(network, chosen.classifier, options.regions.regress_boxes)

    def completed(self, run: Run, training: Source | None) -> Run:
        """The run with its stages: fine-tuning trains the network, the rest is fitted on it.

        Raises:
            UserError: several processes.
        """
        task = run.task
        assert isinstance(task, RCNN)
        if jax.process_count() > 1:
            raise UserError("--system rcnn: its stages after fine-tuning run in one process alone")
        examples = None if training is None else self.training_in_order(training)
        return dataclasses.replace(
            run,
            trained=task.network,
            model=task.network.model,
            training_set=partial(self._regions, examples),
            finish=partial(self._fit, task, run.out / _FEATURES, examples),
        )

    def _regions(self, examples: EvaluationBatches) -> tuple[TrainingBatches, int]:
        """Stage 2: batches of regions, of objects and of background."""
        options = self.options
        windows = Windows.of(examples.iterate(), options.sampling.foreground_iou)
        objects = int(np.sum(windows.labels > 0))
        _say(f"stage 2 of 6: fine-tuning on {len(windows):,} regions, {objects:,} of objects")
        order = WindowOrder(
            windows.labels,
            options.data.batch_size,
            options.run.seed,
            options.sampling.foreground_fraction,
        )
        batches = trainer.training_batches(
            options,
            WindowSource(examples.rows, windows),
            unchanged,
            order=order,
            cache_bytes=0,  # images are kept, not windows
        )
        return batches, len(windows)

    def _fit(
        self, task: RCNN, folder: Path, examples: EvaluationBatches, state: TrainState
    ) -> TrainState:
        """Stages 3 to 5: the state of the whole detector."""
        options, classes = self.options, task.evaluation.num_classes
        images = len(examples.rows.source)
        folder = folder / str(int(state.step))
        stored = StoredRegions(folder, min(options.rcnn.fit_images or images, images))
        stored.fill(task, state, examples, trainer.evaluation_batch_size(options.data))
        _say("stage 4 of 6: a linear SVM for each class")
        svms = _fitted(folder / _SVMS, lambda: fit_svms(stored, classes, options.run.seed))
        _say("stage 5 of 6: a box regression for each class")
        boxes = _fitted(folder / _REGRESSIONS, lambda: fit_boxes(stored, classes))
        _say("stage 6 of 6: evaluating the detector")
        return state.replace(params={"network": state.params, "classes": svms, "boxes": boxes})


def _fitted(path: Path, fit: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Fit and keep the result in a file, or read the file where it exists already."""
    if not path.exists():
        files.replace(path, save({name: np.asarray(x, order="C") for name, x in fit().items()}))
    return _read(path)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the result of a stage from its file.

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
    PipeConsole(stderr=True).print(message, highlight=False, soft_wrap=True)
