"""The training regions of R-CNN and Fast R-CNN, their targets and their losses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from cnn_jax import losses
from cnn_jax.errors import check
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.matching import match, sample_balanced
from cnn_jax.ranges import Range, check_ranges
from cnn_jax.tasks.detection.evaluation import trained_objects
from cnn_jax.tasks.images import Batch

Row = tuple[float, float, float, float]
Sums = dict[str, Any]


@dataclass(frozen=True)
class RegionSampling:
    """The choice of regions that a step trains on (Girshick 2015, section 2.3)."""

    regions: Annotated[int, Range(1, 100_000)] = 64
    """Regions of an image."""
    foreground_fraction: Annotated[float, Range(0, 1)] = 0.25
    """The largest share of regions that stand for objects."""
    foreground_iou: Annotated[float, Range(0, 1, above=True)] = 0.5
    """The least overlap with an object at which a region stands for it."""
    background_iou: Annotated[tuple[float, float], Range(0, 1)] = (0.1, 0.5)
    """A region stands for the background if its largest overlap with an object is at least the
    first number and below the second. The paper's 0.1 leaves out the easy ones; with 0, images
    without objects count too."""

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.background_iou
        check(low < high, "background_iou", self.background_iou, "two rising numbers")


@dataclass(frozen=True)
class BoxStatistics:
    """Means and deviations that normalise box targets: one row for all classes, or one for each.

    Attributes:
        means, deviations: of the four targets.
    """

    means: tuple[Row, ...] = ((0.0, 0.0, 0.0, 0.0),)
    deviations: tuple[Row, ...] = ((0.1, 0.1, 0.2, 0.2),)

    def normalize(
        self, deltas: Float[Array, "regions 4"], labels: Int[Array, " regions"]
    ) -> Float[Array, "regions 4"]:
        """Normalise the targets of regions with these labels for a network to learn."""
        means, deviations = (self._rows(table, labels) for table in (self.means, self.deviations))
        return (deltas - means) / deviations

    def restore(self, deltas: Float[Array, "*batch classes 4"]) -> Float[Array, "*batch classes 4"]:
        """Undo `normalize` for outputs of each class, as `cnn_jax.ops.boxes.decode` needs them."""
        shape = deltas.shape[-2:]
        means, deviations = (
            jnp.broadcast_to(jnp.broadcast_to(jnp.array(table), shape), deltas.shape)
            for table in (self.means, self.deviations)
        )
        return deltas * deviations + means

    @staticmethod
    def _rows(table: tuple[Row, ...], labels: Int[Array, " regions"]) -> Float[Array, "regions 4"]:
        return jnp.array(table)[labels if len(table) > 1 else jnp.zeros_like(labels)]


class Targets(NamedTuple):
    """The targets of regions.

    Attributes:
        labels: of the object, 0 in a region of background.
        deltas: normalised box targets, of use in the foreground.
        foreground: marks the regions that stand for an object.
        valid: marks the rows that are regions.
    """

    labels: Int[Array, " regions"]
    deltas: Float[Array, "regions 4"]
    foreground: Bool[Array, " regions"]
    valid: Bool[Array, " regions"]


def draw(
    key: Key[Array, ""],
    regions: Float[Array, "regions 4"],
    region_valid: Bool[Array, " regions"],
    objects: Float[Array, "objects 4"],
    labels: Int[Array, " objects"],
    object_valid: Bool[Array, " objects"],
    sampling: RegionSampling,
    statistics: BoxStatistics,
) -> tuple[Int[Array, " drawn"], Targets]:
    """Draw the regions of one image to train on, and compute their targets.

    Args:
        key: the example's own.
        regions, region_valid: proposals, and the objects' own boxes where they are wanted.
        objects, labels, object_valid: the objects in the image; crowds left out.
        sampling, statistics: the rules.

    Returns:
        Positions among the regions, `sampling.regions` of them, and their targets.
    """
    matches = match(
        box_ops.iou(regions, objects),
        object_valid,
        region_valid,
        foreground=sampling.foreground_iou,
        background=sampling.background_iou,
    )
    rows = sample_balanced(
        key,
        matches.foreground,
        matches.background,
        sampling.regions,
        sampling.foreground_fraction,
    )
    partner = matches.index[rows.index]
    # Where there is no object, all rows are background: its targets count nothing.
    classes = jnp.where(rows.foreground, labels[partner], 0)
    deltas = box_ops.encode(objects[partner], regions[rows.index])
    return rows.index, Targets(
        labels=classes,
        deltas=jnp.where(rows.foreground[:, None], statistics.normalize(deltas, classes), 0.0),
        foreground=rows.foreground,
        valid=rows.valid,
    )


class RegionLoss(NamedTuple):
    """Mean losses over the regions of one image, and their counts.

    Attributes:
        classes: cross-entropy over the classes and the background.
        boxes: smooth L1 of the four box targets, of the foreground; divided by all regions.
        right: regions whose highest score is the right one's.
        foreground, regions: numbers of foreground regions and of all.
    """

    classes: Float[Array, "*batch"]
    boxes: Float[Array, "*batch"]
    right: Int[Array, "*batch"]
    foreground: Int[Array, "*batch"]
    regions: Int[Array, "*batch"]


def region_loss(
    scores: Float[Array, "regions scores"],
    deltas: Float[Array, "regions classes 4"],
    targets: Targets,
    class_weights: tuple[float, ...] = (),
) -> RegionLoss:
    """Compute the two parts of the multi-task loss of one image (Girshick 2015, equation 1).

    Args:
        scores: logits, the background's first.
        deltas: normalised box outputs by class.
        targets: of the same regions.
        class_weights: see `of_regions`.
    """
    count = jnp.maximum(jnp.sum(targets.valid, dtype=jnp.float32), 1)
    truth = jnp.where(targets.foreground, targets.labels + 1, 0)
    of_class = of_regions(scores, truth, class_weights)
    own = jnp.take_along_axis(deltas, targets.labels[:, None, None], axis=1)[:, 0]
    of_box = jnp.sum(losses.smooth_l1(own, targets.deltas), axis=-1)
    right = (jnp.argmax(scores, axis=-1) == truth) & targets.valid
    return RegionLoss(
        classes=jnp.sum(of_class, where=targets.valid) / count,
        boxes=jnp.sum(of_box, where=targets.foreground) / count,
        right=jnp.sum(right, dtype=jnp.int32),
        foreground=jnp.sum(targets.foreground, dtype=jnp.int32),
        regions=jnp.sum(targets.valid, dtype=jnp.int32),
    )


def of_regions(
    scores: Float[Array, "regions scores"],
    truth: Int[Array, " regions"],
    class_weights: tuple[float, ...] = (),
) -> Float[Array, " regions"]:
    """Compute the cross-entropy of each region over the background and the classes.

    Args:
        scores: logits, the background's first.
        truth: 0 for the background, 1 + the class otherwise.
        class_weights: a factor of the losses of each class's regions; those of the background have
            1. None for 1 each.
    """
    per_region = jax.vmap(losses.cross_entropy)(scores, truth)
    return per_region * jnp.array([1.0, *class_weights])[truth] if class_weights else per_region


def evaluation_losses(
    scores: Float[Array, "batch regions scores"],
    deltas: Float[Array, "batch regions classes 4"],
    batch: Batch,
    sampling: RegionSampling,
    statistics: BoxStatistics,
    class_weights: tuple[float, ...] = (),
) -> RegionLoss:
    """Compute the losses of proposals drawn as in training, but always the same of an image.

    Args:
        scores, deltas: of all proposals.
        batch: with `proposals`, `boxes` and what goes with them.
        sampling, statistics, class_weights: as in training.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
    rows, targets = jax.vmap(partial(draw, sampling=sampling, statistics=statistics))(
        keys,
        batch["proposals"],
        batch["proposal_valid"],
        batch["boxes"],
        batch["labels"],
        trained_objects(batch),
    )
    drawn_scores = jnp.take_along_axis(scores, rows[..., None], axis=1)
    drawn_deltas = jnp.take_along_axis(deltas, rows[..., None, None], axis=1)
    loss = partial(region_loss, class_weights=class_weights)
    return jax.vmap(loss)(drawn_scores, drawn_deltas, targets)


def loss_sums(losses: RegionLoss, valid: Bool[Array, " batch"], box_weight: float = 1.0) -> Sums:
    """Sum a batch's losses: `loss` is that of the classes and of the boxes together."""
    columns = {
        "loss": losses.classes + box_weight * losses.boxes,
        "class_loss": losses.classes,
        "box_loss": losses.boxes,
        "right": losses.right,
        "foreground": losses.foreground,
        "regions": losses.regions,
    }
    sums = {name: jnp.sum(column, where=valid) for name, column in columns.items()}
    return {"examples": jnp.sum(valid), **sums}


def loss_means(sums: Sums) -> dict[str, float]:
    """Average losses over examples, and compute the shares of right and of foreground regions."""
    examples, regions = float(sums["examples"]), max(float(sums["regions"]), 1.0)
    losses = {name: float(sums[name]) / examples for name in ("loss", "class_loss", "box_loss")}
    shares = {"region_accuracy": "right", "foreground_share": "foreground"}
    return losses | {name: float(sums[count]) / regions for name, count in shares.items()}


def box_statistics(
    batches: Iterable[Mapping[str, np.ndarray]],
    num_classes: int,
    minimum_iou: float = 0.5,
) -> BoxStatistics:
    """Measure means and deviations of the box targets of a set, by class.

    Measured over all proposals, and the objects' own boxes, of enough overlap with an object: the
    paper's way. A class without examples gets the mean of 0 and the deviations of the others' mean
    row, or the fixed ones where there is none at all.

    Args:
        batches: with `proposals`, `boxes` and what goes with them.
        num_classes: number of classes.
        minimum_iou: the least overlap of a region with its object.
    """
    one = partial(_target_sums, num_classes=num_classes, minimum_iou=minimum_iou)
    add_up = jax.jit(lambda batch: jax.tree.map(lambda x: x.sum(axis=0), jax.vmap(one)(batch)))
    total = np.zeros((num_classes, 9))
    names = (
        *("proposals", "proposal_valid", "boxes", "labels"),
        *("object_valid", "difficult", "crowd", "valid"),
    )
    for batch in batches:
        total += np.asarray(add_up({name: jnp.asarray(batch[name]) for name in names}), np.float64)
    counts = total[:, :1]
    measured = counts[:, 0] > 1
    means = total[:, 1:5] / np.maximum(counts, 1)
    variances = total[:, 5:] / np.maximum(counts, 1) - means**2
    deviations = np.sqrt(np.maximum(variances, 1e-8))
    fixed = np.array(BoxStatistics().deviations[0])
    means[~measured] = 0.0
    deviations[~measured] = deviations[measured].mean(axis=0) if measured.any() else fixed

    def rows(table: np.ndarray) -> tuple[Row, ...]:
        return tuple(tuple(map(float, row)) for row in table)

    return BoxStatistics(rows(means), rows(deviations))


def _target_sums(
    batch: Mapping[str, Array], num_classes: int, minimum_iou: float
) -> Float[Array, "{num_classes} 9"]:
    """Count the targets of one image by class, and sum them and their squares."""
    regions = jnp.concatenate([batch["proposals"], batch["boxes"]])
    objects = trained_objects(dict(batch))
    matches = match(
        box_ops.iou(regions, batch["boxes"]),
        objects,
        jnp.concatenate([batch["proposal_valid"], objects]),
        foreground=minimum_iou,
    )
    counted = matches.foreground & batch["valid"]
    deltas = box_ops.encode(batch["boxes"][matches.index], regions)
    one = jnp.ones((len(regions), 1))
    columns = jnp.concatenate([one, deltas, deltas**2], axis=1)
    labels = jnp.where(counted, batch["labels"][matches.index], num_classes)
    return jnp.zeros((num_classes, 9)).at[labels].add(columns, mode="drop")
