"""Fast R-CNN: proposals of an image classified and moved, trained end to end."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment import BoxAugmentation, augment_boxes, normalize
from cnn_jax.metrics.summary import Summary
from cnn_jax.models.layers import on_axis
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.nms import Detections
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, trained_objects
from cnn_jax.tasks.detection.regions import (
    BoxStatistics,
    RegionLoss,
    RegionSampling,
    draw,
    evaluation_losses,
    loss_means,
    loss_sums,
    region_loss,
)
from cnn_jax.tasks.images import Batch, floating, image_input

Sums = dict[str, Any]
Rows = dict[str, Any]

FLIP_ONLY = BoxAugmentation(
    scale=0.0, translate=0.0, flip=True, hue=0.0, saturation=1.0, exposure=1.0
)
"""The paper's augmentation: every second image is mirrored."""


class Predictions(NamedTuple):
    """The detections of a batch, and the losses of its regions where the objects are known."""

    detections: Detections
    losses: RegionLoss | None


@dataclass(frozen=True)
class FastRCNN:
    """A detector of proposed regions: the network, its input, its loss and its evaluation.

    A batch has `image`, `size`, `proposals` and `proposal_valid`, and for training and evaluation
    the objects as `cnn_jax.data.transforms.BoxTransform` gives them.

    Attributes:
        model: a `cnn_jax.models.fast_rcnn.FastRCNN`.
        evaluation: turns scored boxes into detections, and detections into figures.
        mean, std: of the network's input, per channel, for images in 0..1.
        augmentation: applied on the device, in training only.
        sampling: the choice of regions to train on.
        statistics: the means and deviations that box targets are normalised by.
        class_weights: weights of the classes' regions in the class loss; the background has 1.
        multi_task: learns boxes with the classes; without, detections are the proposals
            themselves.
        regress_boxes: moves detections to the boxes that were learnt.
        sides: pixels of the squares that images are scaled to; none: as they come. Of several, a
            training step draws one for all its images, and a detection takes for each region the
            one that suits it (Girshick 2015, section 2.4).
    """

    model: nn.Module
    evaluation: BoxEvaluation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: BoxAugmentation = FLIP_ONLY
    sampling: RegionSampling = field(default_factory=RegionSampling)
    statistics: BoxStatistics = field(default_factory=BoxStatistics)
    class_weights: tuple[float, ...] = ()
    multi_task: bool = True
    regress_boxes: bool = True
    sides: tuple[int, ...] = ()

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one image, as a batch of one; proposals are another."""
        return image_input(*(self.evaluation.image_size,) * 2, len(self.mean))

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Draw the first (params, model_state)."""
        params_key, dropout_key = jax.random.split(key)
        images, boxes = jnp.zeros(self.network_input.shape), jnp.zeros((1, 1, 4))
        initialize = jax.jit(partial(self.model.init, train=True))
        variables = dict(initialize({"params": params_key, "dropout": dropout_key}, images, boxes))
        return variables.pop("params"), variables

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        """Sum the multi-task loss over the images: of each image the mean over its regions."""
        root = keys["augment"]
        prepare = partial(_prepared, root, config=self.augmentation)
        images, objects, proposals, batch = jax.vmap(prepare)(batch)
        # Ordinals stay below 2**31: these keys are no example's augmentation's.
        root = jax.random.fold_in(root, jnp.uint32(2**31))
        keys_of_images = jax.vmap(jax.random.fold_in, (None, 0))(root, batch["ordinal"])
        # The objects' own boxes are proposals too.
        regions = jnp.concatenate([proposals, objects], axis=1)
        filled = jnp.concatenate([batch["proposal_valid"], batch["object_valid"]], axis=1)
        one = partial(draw, sampling=self.sampling, statistics=self.statistics)
        rows, targets = jax.vmap(one)(
            keys_of_images, regions, filled, objects, batch["labels"], batch["object_valid"]
        )
        drawn = jnp.take_along_axis(regions, rows[..., None], axis=1)

        def apply(images: Array, drawn: Array, sides: tuple[int, ...] = ()) -> tuple[Any, Any]:
            return on_axis(self.model, axis_name).apply(
                {"params": params, **model_state},
                images,
                drawn,
                train=True,
                sides=sides,
                rngs={"dropout": keys["dropout"]},
                mutable=list(model_state),
            )

        normalized = normalize(images, self.mean, self.std)
        if self.sides:
            # Every device draws the same one, so that all take the same branch.
            which = jax.random.randint(keys["mix"], (), 0, len(self.sides))
            branches = [partial(apply, sides=(side,)) for side in self.sides]
            (scores, deltas), model_state = jax.lax.switch(which, branches, normalized, drawn)
        else:
            (scores, deltas), model_state = apply(normalized, drawn)
        of_image = partial(region_loss, class_weights=self.class_weights)
        losses = jax.vmap(of_image)(scores, deltas, targets)
        sums = loss_sums(losses, batch["valid"], float(self.multi_task))
        return sums["loss"], (model_state, sums)

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Predictions:
        """Detect objects, in pixels of the original images; compute losses where they are known.

        Losses are of regions drawn as in training, but always the same ones of an image.
        """
        proposals, filled = batch["proposals"], batch["proposal_valid"]
        scores, deltas = self.model.apply(
            {"params": params, **model_state},
            normalize(floating(batch["image"]), self.mean, self.std),
            proposals,
            train=False,
            sides=self.sides,
        )
        boxes = self.boxes(deltas, proposals)
        probabilities = jax.nn.softmax(scores)[..., 1:]
        detections = self.evaluation.detect(boxes, probabilities, batch["size"], filled)
        if "index" not in batch:  # images of a user, not of a set
            return Predictions(detections, None)
        losses = evaluation_losses(
            scores, deltas, batch, self.sampling, self.statistics, self.class_weights
        )
        return Predictions(detections, losses)

    def boxes(
        self,
        deltas: Float[Array, "batch regions classes 4"],
        proposals: Float[Array, "batch regions 4"],
    ) -> Float[Array, "batch regions classes 4"] | Float[Array, "batch regions 4"]:
        """Move proposals by the network's output, for each class; or leave them as they are."""
        if not (self.multi_task and self.regress_boxes):
            return proposals
        regions = jnp.broadcast_to(proposals[:, :, None], deltas.shape)
        return box_ops.decode(self.statistics.restore(deltas), regions)

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Sums, Rows]:
        """Sum the losses; rows are those of `BoxEvaluation.rows`."""
        assert predictions.losses is not None
        sums = loss_sums(predictions.losses, batch["valid"], float(self.multi_task))
        return sums, self.evaluation.rows(predictions.detections, batch)

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Average the losses and the regions drawn; of an evaluation, add its figures."""
        return self.evaluation.summarize(loss_means(sums), rows)


def _prepared(
    root: Key[Array, ""], example: Batch, config: BoxAugmentation
) -> tuple[Float[Array, "height width channels"], Array, Array, Batch]:
    """Augment one example's image, objects to train on and proposals together."""
    key = jax.random.fold_in(root, example["ordinal"])
    objects, proposals = example["boxes"], example["proposals"]
    valid = jnp.concatenate([trained_objects(example), example["proposal_valid"]])
    image, boxes, valid = augment_boxes(
        key, floating(example["image"]), jnp.concatenate([objects, proposals]), valid, config
    )
    count = len(objects)
    kept = {**example, "object_valid": valid[:count], "proposal_valid": valid[count:]}
    return image, boxes[:count], boxes[count:], kept
