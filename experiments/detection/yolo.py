"""YOLO for `experiments.detect`: its flags, its network, and the shapes of its base boxes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.data.surveys.boxes import BoxSurvey
from cnn_jax.errors import UserError
from cnn_jax.models import detection as networks
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.tasks.detection.yolo import Yolo

from .. import images
from .common import Sources, System


@dataclass(frozen=True)
class YoloOptions:
    """YOLO. The paper's form is `--classes sse --boxes free --boxes-per-cell 2`."""

    grid: int = 7
    """Cells on a side of the grid."""
    boxes_per_cell: int = 3
    """Boxes that each cell gives."""
    boxes: Literal["priors", "free"] = "priors"
    """priors: boxes of different shapes are refined, each for objects of its shape; free: any box
    may become any, and the one that fits best at present is trained."""
    priors: tuple[float, ...] = ()
    """Width and height of each base box in shares of the image's: W H W H ...; default: what the
    training boxes gather about."""
    classes: Literal["softmax", "sse"] = "softmax"
    """Softmax with cross-entropy, or squared errors."""
    coordinate_weight: float = 5.0
    """What coordinates count in the loss."""
    empty_weight: float = 0.5
    """What confidences count that should be 0."""
    batch_norm: bool = False
    """Batch normalisation in `yolo` and `fast_yolo`, as in the authors' later configurations."""

    def __post_init__(self) -> None:
        for name in ("grid", "boxes_per_cell"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)}: must be 1 or more")
        if self.priors and self.boxes == "free":
            raise UserError("--priors: for --boxes priors alone")
        if self.priors and len(self.priors) != 2 * self.boxes_per_cell:
            raise UserError(
                f"--priors: {len(self.priors)} numbers for --boxes-per-cell {self.boxes_per_cell}; "
                "give W H for each box"
            )
        if any(not 0 < side <= 1 for side in self.priors):
            raise UserError("--priors: shares of the image's sides, above 0 and at most 1")
        for name in ("coordinate_weight", "empty_weight"):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)}: must be 0 or more")


def image_size(options: Any) -> int:
    """What the network is made for."""
    return networks.image_size(options.model.model)


def prepare(options: Any, surveyed: BoxSurvey, sources: Sources) -> tuple[Any, list[str]]:
    """Shapes of base boxes where none are given; how many boxes the grid cannot hold."""
    chosen: YoloOptions = options.yolo
    lines = []
    lost, total = box_survey.lost_to_collisions(surveyed, chosen.grid)
    if total:
        lines.append(
            f"{lost:,} of {total:,} training boxes ({100 * lost / total:.1f} %){surveyed.sample()} "
            f"are lost to cells that hold another: --grid {chosen.grid}"
        )
    if chosen.boxes == "priors":
        if not chosen.priors:
            shapes = box_survey.prior_shapes(surveyed, chosen.boxes_per_cell, options.run.seed)
            flat = tuple(side for shape in shapes for side in shape)
            chosen = dataclasses.replace(chosen, priors=flat)
            options = dataclasses.replace(options, yolo=chosen)
        if total:
            overlap = box_survey.mean_overlap(surveyed, _pairs(chosen.priors))
            shown = ", ".join(f"{width:g} x {height:g}" for width, height in _pairs(chosen.priors))
            lines.append(f"base boxes {shown} of the image: mean best IoU {overlap:.2f}")
    return options, lines


def build_task(options: Any, class_names: Sequence[str], evaluation: BoxEvaluation) -> Yolo:
    """The network and how it is trained and evaluated.

    Raises:
        UserError: options that the network does not have, or no base boxes.
    """
    model, chosen = options.model, options.yolo
    if chosen.boxes == "priors" and not chosen.priors:
        raise UserError("--priors: what shapes have the base boxes? give them, or --boxes free")
    given = images.model_options(model)
    if chosen.batch_norm:
        given["batch_norm"] = True
    mean, std = networks.statistics(model.model)
    return Yolo(
        model=networks.create(
            model.model,
            len(class_names),
            grid=chosen.grid,
            boxes=chosen.boxes_per_cell,
            **given,
        ),
        evaluation=evaluation,
        mean=mean,
        std=std,
        num_boxes=chosen.boxes_per_cell,
        priors=_pairs(chosen.priors) if chosen.boxes == "priors" else (),
        softmax=chosen.classes == "softmax",
        coordinate_weight=chosen.coordinate_weight,
        empty_weight=chosen.empty_weight,
        augmentation=options.augmentation,
    )


def _pairs(sides: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(sides[::2], sides[1::2], strict=True))


SYSTEM = System(
    build_task=build_task, image_size=image_size, model_names=networks.names, prepare=prepare
)
