"""YOLO for `experiments.detect`: its flags, its network, and the shapes of its base boxes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnn_jax import models
from cnn_jax.data.source import Source
from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.errors import UserError
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.tasks.detection.yolo import Yolo

from .. import images
from .. import options as flags
from ..channels import fitting, normalization
from .common import System


@dataclass(frozen=True)
class YoloOptions:
    """YOLO. The paper's form is `--classes sse --boxes free --boxes-per-cell 2`."""

    grid: int = flags.flag(7, minimum=1, maximum=1024)
    """Cells on a side of the grid."""
    boxes_per_cell: int = flags.flag(3, minimum=1, maximum=100)
    """Number of boxes that each cell predicts."""
    boxes: Literal["priors", "free"] = "priors"
    """priors: each box refines a base box of its own shape; free: of the boxes of a cell, the one
    that fits an object best at present is trained."""
    priors: tuple[float, ...] = flags.flag((), above=0, maximum=1, only={"boxes": ("priors",)})
    """Width and height of each base box as shares of the image's: W H W H ... Default: clusters of
    the training boxes."""
    classes: Literal["softmax", "sse"] = "softmax"
    """Loss of the classes: softmax with cross-entropy, or squared errors."""
    coordinate_weight: float = flags.flag(5.0, minimum=0, maximum=1e6)
    """Weight of the coordinates in the loss."""
    empty_weight: float = flags.flag(0.5, minimum=0, maximum=1e6)
    """Weight of the confidences that should be 0."""

    def __post_init__(self) -> None:
        if self.boxes == "priors" and len(self.priors) not in (0, 2 * self.boxes_per_cell):
            raise UserError(
                f"--priors: {len(self.priors)} numbers for --boxes-per-cell {self.boxes_per_cell}; "
                "give W H for each box"
            )


class YoloSystem(System):
    """YOLO: a grid of cells, in one pass over the image."""

    @staticmethod
    def model_names() -> Sequence[str]:
        """The networks made for it, and the classifiers as backbones."""
        return models.names("grid_detector")

    @property
    def default_size(self) -> int:
        """The size that the network is made for."""
        return models.input_spec(self.options.model.model, "grid_detector").image_size

    def decided_by(
        self, surveyed: BoxSurvey, training: Source, held_out: Source
    ) -> tuple[Any, list[str]]:
        """Shapes of base boxes where none are given; how many boxes the grid cannot hold."""
        options, chosen = self.options, self.options.yolo
        lines = []
        lost, total = box_survey.lost_to_collisions(surveyed, chosen.grid)
        if total:
            lines.append(
                f"{lost:,} of {total:,} training boxes ({100 * lost / total:.1f} %)"
                f"{surveyed.sample()} are lost to cells that hold another: --grid {chosen.grid}"
            )
        if chosen.boxes == "priors":
            if not chosen.priors:
                shapes = box_survey.prior_shapes(surveyed, chosen.boxes_per_cell, options.run.seed)
                chosen = dataclasses.replace(
                    chosen, priors=tuple(s for pair in shapes for s in pair)
                )
                options = dataclasses.replace(options, yolo=chosen)
            if total:
                pairs = _pairs(chosen.priors)
                overlap = box_survey.mean_overlap(surveyed, pairs)
                shown = ", ".join(f"{width:g} x {height:g}" for width, height in pairs)
                lines.append(f"base boxes {shown} of the image: mean best IoU {overlap:.2f}")
        return options, lines

    def build_task(
        self,
        class_names: Sequence[str],
        evaluation: BoxEvaluation,
        class_weights: tuple[float, ...] = (),
    ) -> Yolo:
        """The network, how it is trained, and how its detections are evaluated.

        Raises:
            UserError: the network lacks an option, or there are no base boxes.
        """
        model, chosen = self.options.model, self.options.yolo
        if chosen.boxes == "priors" and not chosen.priors:
            raise UserError("--priors: give the shapes of the base boxes, or --boxes free")
        spec = models.input_spec(model.model, "grid_detector")
        return Yolo(
            model=models.create(
                model.model,
                len(class_names),
                "grid_detector",
                grid=chosen.grid,
                boxes_per_cell=chosen.boxes_per_cell,
                **images.model_options(model),
            ),
            evaluation=evaluation,
            **normalization(spec, self.options.data.channels),
            num_boxes=chosen.boxes_per_cell,
            priors=_pairs(chosen.priors) if chosen.boxes == "priors" else (),
            softmax=chosen.classes == "softmax",
            coordinate_weight=chosen.coordinate_weight,
            empty_weight=chosen.empty_weight,
            class_weights=class_weights,
            augmentation=fitting(self.options.augmentation, self.options.data),
        )


def _pairs(sides: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(sides[::2], sides[1::2], strict=True))
