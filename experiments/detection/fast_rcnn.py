"""Fast R-CNN for `experiments.detect`: its flags, its network, what its proposals cover."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnn_jax import models
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.errors import UserError
from cnn_jax.models import fast_rcnn as network
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.tasks.detection.fast_rcnn import FastRCNN
from cnn_jax.tasks.detection.regions import BoxStatistics, Row, box_statistics
from cnn_jax.training.state import TrainState

from .. import images
from ..experiment import Experiment
from . import regions
from .common import Sources, System


@dataclass(frozen=True)
class FastRcnnOptions:
    """Fast R-CNN."""

    stage: str | None = None
    """The backbone's map that regions are pooled from; default: the last with a stride of at most
    16 pixels."""
    pooling: Literal["max", "align"] = "max"
    """max: the paper's RoI pooling; align: RoIAlign (He et al. 2017)."""
    pool_size: int = 7
    """Rows and columns of a region's map."""
    units: int | None = None
    """Units of the two hidden layers; default: VGG's own 4096, else 1024, times --width."""
    scales: tuple[int, ...] = ()
    """Pixels on a side that images are scaled to, several: a training step draws one, a detection
    takes for each region the one that brings it closest to 224 pixels (the paper's are 480 576 688
    864 1200); default: --image-size alone."""
    multi_task: bool = True
    """Learn boxes together with classes."""
    box_statistics: Literal["fixed", "data"] = "fixed"
    """Box targets are divided by 0.1, 0.1, 0.2, 0.2; or normalised to zero mean and unit deviation
    of each class, as in the paper."""
    box_means: tuple[float, ...] = ()
    """The means of the targets of each class, four each; default: measured, if asked for."""
    box_deviations: tuple[float, ...] = ()
    """The same for the deviations."""
    svd: tuple[int, ...] = ()
    """With --eval-only: the ranks that the matrices of the two hidden layers are cut to, such as
    1024 256 (section 3.1 of the paper)."""

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise UserError(f"--pool-size {self.pool_size}: must be 1 or more")
        if self.units is not None and self.units < 1:
            raise UserError(f"--units {self.units}: must be 1 or more")
        if any(side < 1 for side in self.scales):
            raise UserError(f"--scales {' '.join(map(str, self.scales))}: must be 1 or more")
        if len(self.svd) not in (0, 2):
            raise UserError(f"--svd: {len(self.svd)} numbers; give two, one for each hidden layer")
        if len(self.box_means) != len(self.box_deviations) or len(self.box_means) % 4:
            raise UserError("--box-means and --box-deviations: give four numbers for each class")
        if any(not deviation > 0 for deviation in self.box_deviations):
            raise UserError("--box-deviations: must be above 0")

    @property
    def statistics(self) -> BoxStatistics:
        """By what box targets are normalised."""
        if not self.box_means:
            return BoxStatistics()
        return BoxStatistics(_rows(self.box_means), _rows(self.box_deviations))


def _rows(numbers: Sequence[float]) -> tuple[Row, ...]:
    return tuple(tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4))


def image_size(options: Any) -> int:
    """What the backbone is made for."""
    return models.input_spec(options.model.model).image_size


def prepare(options: Any, surveyed: BoxSurvey, sources: Sources) -> tuple[Any, list[str]]:
    """Box statistics of the training set where they are asked for; what the proposals cover."""
    chosen: FastRcnnOptions = options.fast_rcnn
    lines = regions.recall_lines(options, sources)
    if chosen.box_statistics == "data" and not chosen.box_means:
        assert sources.training is not None
        batches = regions.some(sources.examples.training_in_order(sources.training).iterate())
        found = box_statistics(batches, len(sources.training.class_names))
        # Six digits are enough, and are read back from a run's settings as they were.
        means, deviations = (
            tuple(round(x, 6) for row in table for x in row)
            for table in (found.means, found.deviations)
        )
        chosen = dataclasses.replace(chosen, box_means=means, box_deviations=deviations)
        options = dataclasses.replace(options, fast_rcnn=chosen)
    return options, lines


def build_task(options: Any, class_names: Sequence[str], evaluation: BoxEvaluation) -> FastRCNN:
    """The network and how it is trained and evaluated.

    Raises:
        UserError: options that the network does not have.
    """
    model, chosen = options.model, options.fast_rcnn
    classes = len(class_names)
    if chosen.box_means and len(chosen.box_means) != 4 * classes:
        raise UserError(
            f"--box-means: {len(chosen.box_means)} numbers; {classes} classes need {4 * classes}"
        )
    given = images.model_options(model)
    spec = models.input_spec(model.model)
    return FastRCNN(
        model=network.create(
            model.model,
            classes,
            stage=chosen.stage,
            pooling=chosen.pooling,
            pool_size=chosen.pool_size,
            units=chosen.units,
            **given,
        ),
        evaluation=evaluation,
        mean=spec.mean,
        std=spec.std,
        augmentation=options.augmentation,
        sampling=options.sampling,
        statistics=chosen.statistics,
        multi_task=chosen.multi_task,
        regress_boxes=options.regions.regress_boxes,
        sides=chosen.scales,
    )


def truncated(task: FastRCNN, state: TrainState, ranks: tuple[int, int]) -> tuple[Any, TrainState]:
    """The task and its state with the two hidden layers cut to these ranks."""
    short = dataclasses.replace(task, model=task.model.clone(ranks=ranks))
    return short, state.replace(params=network.truncated(state.params, ranks))


def carry_out(experiment: Experiment, sources: Sources) -> Path:
    """Train, or only evaluate, the short form where `--svd` asks for it.

    Raises:
        UserError: `--svd` while training.
    """
    options = experiment.options
    run, ranks = options.run, options.fast_rcnn.svd
    drawn = (1, options.sampling.regions, 4)
    inputs = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (experiment.input_shape, drawn))
    experiment = dataclasses.replace(experiment, inputs=tuple(inputs))
    if ranks:
        if not run.eval_only:
            raise UserError("--svd: for --eval-only alone; training keeps the whole layers")
        experiment = dataclasses.replace(
            experiment, converted=lambda task, state: truncated(task, state, ranks)
        )
    return experiment.carry_out()


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
