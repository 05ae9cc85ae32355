"""YOLO: detection by a grid of cells, in one pass over the image."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment import normalize
from cnn_jax.data.augment.boxes import BoxAugmentation, augment_boxes
from cnn_jax.losses.yolo import YoloLoss, yolo_loss
from cnn_jax.metrics.summary import Summary
from cnn_jax.ops.grid import scored_boxes
from cnn_jax.ops.nms import Detections
from cnn_jax.tasks.detection.evaluation import BoxEvaluation, trained_objects
from cnn_jax.tasks.images import Batch, apply_training, floating, image_input, init

Sums = dict[str, Any]
Rows = dict[str, Any]


class Predictions(NamedTuple):
    """The detections of a batch, and the network's outputs that they were made from."""

    detections: Detections
    outputs: Float[Array, "batch grid grid outputs"]


@dataclass(frozen=True)
class Yolo:
    """A detector with a grid of cells: the network, its input, its loss and its evaluation.

    Attributes:
        model: gives `(outputs, features)` for normalised images (a grid detector of
            `cnn_jax.models`).
        evaluation: turns its boxes into detections, and detections into figures.
        mean, std: of the network's input, per channel, for images in 0..1.
        num_boxes: boxes of a cell.
        priors: their base boxes, in shares of the image's sides; none for free boxes.
        softmax: trains classes with softmax and cross-entropy; otherwise with squared errors.
        coordinate_weight, empty_weight: see `cnn_jax.losses.yolo`.
        class_weights: weights of the objects' class losses; none for 1 each.
        augmentation: applied on the device, in training only.
    """

    model: nn.Module
    evaluation: BoxEvaluation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_boxes: int = 2
    priors: tuple[tuple[float, float], ...] = ()
    softmax: bool = True
    coordinate_weight: float = 5.0
    empty_weight: float = 0.5
    class_weights: tuple[float, ...] = ()
    augmentation: BoxAugmentation = field(default_factory=BoxAugmentation)

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one image, as a batch of one."""
        return image_input(self.evaluation.image_size, self.evaluation.image_size, len(self.mean))

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Draw the first (params, model_state)."""
        return init(self.model, self.network_input, key)

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        """Sum the training loss and its parts over the batch."""
        own = jax.vmap(jax.random.fold_in, (None, 0))(keys["augment"], batch["ordinal"])
        pairs = jax.vmap(jax.random.split)(own)
        augment_keys, shuffle_keys = pairs[:, 0], pairs[:, 1]
        augment = partial(augment_boxes, config=self.augmentation)
        images, boxes, valid = jax.vmap(augment)(
            augment_keys, floating(batch["image"]), batch["boxes"], trained_objects(batch)
        )
        (outputs, _), model_state = apply_training(
            self.model,
            params,
            model_state,
            normalize(images, self.mean, self.std),
            keys["dropout"],
            axis_name,
        )
        sums = self._sums(outputs, boxes, batch, valid, shuffle_keys)
        return sums["loss"], (model_state, sums)

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Predictions:
        """Detect objects, in pixels of the original images."""
        images = normalize(floating(batch["image"]), self.mean, self.std)
        outputs, _ = self.model.apply({"params": params, **model_state}, images, train=False)
        boxes, scores = jax.vmap(self.scored)(outputs)
        boxes = boxes * self.evaluation.image_size
        return Predictions(self.evaluation.detect(boxes, scores, batch["size"]), outputs)

    def scored(
        self, outputs: Float[Array, "grid grid outputs"]
    ) -> tuple[Float[Array, "boxes 4"], Float[Array, "boxes classes"]]:
        """Give all boxes of one image, in shares of its sides, and their scores by class."""
        return scored_boxes(outputs, self.num_boxes, self.priors, self.softmax)

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Sums, Rows]:
        """Sum the loss and its parts; rows are those of `BoxEvaluation.rows`.

        Of two objects in a cell, the first given counts in the loss.
        """
        sums = self._sums(predictions.outputs, batch["boxes"], batch, trained_objects(batch))
        return sums, self.evaluation.rows(predictions.detections, batch)

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Average the losses; of an evaluation, add the figures of `BoxEvaluation.summarize`."""
        names = "loss", "coordinate_loss", "confidence_loss", "class_loss"
        means = {name: float(sums[name]) / float(sums["examples"]) for name in names}
        return self.evaluation.summarize(means, rows)

    def _sums(
        self,
        outputs: Float[Array, "batch grid grid outputs"],
        boxes: Float[Array, "batch objects 4"],
        batch: Batch,
        valid: Array,
        keys: Key[Array, " batch"] | None = None,
    ) -> Sums:
        """Sum losses over the valid examples; boxes are in pixels of the network's square."""
        one = partial(
            yolo_loss,
            num_boxes=self.num_boxes,
            priors=self.priors,
            softmax=self.softmax,
            coordinate_weight=self.coordinate_weight,
            empty_weight=self.empty_weight,
            class_weights=jnp.array(self.class_weights) if self.class_weights else None,
        )
        shares = boxes / self.evaluation.image_size
        parts = jax.vmap(one)(outputs, shares, batch["labels"], valid, keys)
        parts = YoloLoss(*(jnp.sum(part, where=batch["valid"]) for part in parts))
        return {
            "examples": jnp.sum(batch["valid"]),
            "loss": sum(parts),
            "coordinate_loss": parts.coordinates,
            "confidence_loss": parts.confidence,
            "class_loss": parts.classes,
        }
