"""Fast R-CNN for `experiments.detect`: its flags, its network, what its proposals cover."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnn_jax import models
from cnn_jax.data.source import Source
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.errors import UserError
from cnn_jax.models import fast_rcnn as network
from cnn_jax.ranges import LARGEST_SIDE
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.tasks.detection.fast_rcnn import FastRCNN
from cnn_jax.tasks.detection.regions import BoxStatistics, Row, box_statistics
from cnn_jax.training.state import TrainState

from .. import images
from .. import options as flags
from ..channels import fitting, normalization
from ..run import Run
from .common import DetectionTask
from .regions import RegionSystem, first_images


@dataclass(frozen=True)
class FastRcnnOptions:
    """Fast R-CNN."""

    scales: tuple[int, ...] = flags.flag((), minimum=1, maximum=LARGEST_SIDE)
    """Several image sizes in pixels on a side. A training step draws one; a detection takes for
    each region the one that brings it closest to 224 pixels. The paper's are 480 576 688 864 1200.
    Default: --image-size."""
    multi_task: bool = True
    """Learn boxes together with classes."""
    box_statistics: Literal["fixed", "data"] = "fixed"
    """fixed: box targets are divided by 0.1, 0.1, 0.2, 0.2; data: they are normalised to zero mean
    and unit deviation for each class, as in the paper."""
    box_means: tuple[float, ...] = flags.flag((), minimum=-1000, maximum=1000)
    """Means of the targets, four for each class. Default: measured with --box-statistics data."""
    box_deviations: tuple[float, ...] = flags.flag((), above=0, maximum=1000)
    """Deviations of the targets, likewise."""
    svd: tuple[int, ...] = flags.flag(
        (), resumable=True, minimum=1, maximum=65_536, only={"eval_only": flags.GIVEN}
    )
    """Ranks that the matrices of the two hidden layers are truncated to, such as 1024 256 (section
    3.1 of the paper)."""

    def __post_init__(self) -> None:
        if len(self.svd) not in (0, 2):
            raise UserError(f"--svd: {len(self.svd)} numbers; give two, one for each hidden layer")
        if len(self.box_means) != len(self.box_deviations) or len(self.box_means) % 4:
            raise UserError("--box-means and --box-deviations: give four numbers for each class")

    @property
    def statistics(self) -> BoxStatistics:
        """The mean and deviation by which box targets are normalised."""
        if not self.box_means:
            return BoxStatistics()
        return BoxStatistics(_rows(self.box_means), _rows(self.box_deviations))


def _rows(numbers: Sequence[float]) -> tuple[Row, ...]:
    return tuple(tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4))


class FastRcnnSystem(RegionSystem):
    """Fast R-CNN: proposals classified on the image's feature map."""

    @property
    def default_size(self) -> int:
        """The size that the backbone is made for."""
        return models.input_spec(self.options.model.model).image_size

    def inputs(self, task: DetectionTask) -> tuple[jax.ShapeDtypeStruct, ...]:
        """An image, and the regions that are drawn in it."""
        drawn = (1, self.options.sampling.regions, 4)
        return (*super().inputs(task), jax.ShapeDtypeStruct(drawn, jnp.float32))

    def decided_by(
        self, surveyed: BoxSurvey, training: Source, held_out: Source
    ) -> tuple[Any, list[str]]:
        """Box statistics of the training set where asked for; what the proposals cover."""
        options, lines = super().decided_by(surveyed, training, held_out)
        chosen: FastRcnnOptions = options.fast_rcnn
        if chosen.box_statistics == "data" and not chosen.box_means:
            batches = first_images(self.training_in_order(training).iterate())
            measured = box_statistics(batches, len(training.class_names))
            # Six digits are enough, and are read back from a run's settings as they were.
            means, deviations = (
                tuple(round(x, 6) for row in table for x in row)
                for table in (measured.means, measured.deviations)
            )
            chosen = dataclasses.replace(chosen, box_means=means, box_deviations=deviations)
            options = dataclasses.replace(options, fast_rcnn=chosen)
        return options, lines

    def build_task(
        self,
        class_names: Sequence[str],
        evaluation: BoxEvaluation,
        class_weights: tuple[float, ...] = (),
    ) -> FastRCNN:
        """The network, how it is trained, and how its detections are evaluated.

        Raises:
            UserError: the network lacks an option.
        """
        options, chosen = self.options, self.options.fast_rcnn
        classes = len(class_names)
        if chosen.box_means and len(chosen.box_means) != 4 * classes:
            raise UserError(
                f"--box-means: {len(chosen.box_means)} numbers; {classes} classes need "
                f"{4 * classes}"
            )
        spec = models.input_spec(options.model.model)
        return FastRCNN(
            model=models.create(
                options.model.model,
                classes,
                "region_network",
                **images.model_options(options.model),
            ),
            evaluation=evaluation,
            **normalization(spec, options.data.channels),
            augmentation=fitting(options.augmentation, options.data),
            sampling=options.sampling,
            statistics=chosen.statistics,
            class_weights=class_weights,
            multi_task=chosen.multi_task,
            regress_boxes=options.regions.regress_boxes,
            sides=chosen.scales,
        )

    def completed(self, run: Run, training: Source | None) -> Run:
        """The run; where `--svd` asks for it, evaluated with truncated layers."""
        ranks = self.options.fast_rcnn.svd
        if not ranks:
            return run
        return dataclasses.replace(run, converted=partial(truncated, ranks=ranks))


def truncated(task: FastRCNN, state: TrainState, ranks: tuple[int, int]) -> tuple[Any, TrainState]:
    """The task and its state with the two hidden layers cut to these ranks."""
    short = dataclasses.replace(task, model=task.model.clone(ranks=ranks))
    return short, state.replace(params=network.truncated(state.params, ranks))
