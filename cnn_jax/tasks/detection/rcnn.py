"""R-CNN: regions cut out of the image and classified one by one.

`FineTuning` trains a classifier of regions and detects by its softmax. `RCNN` detects with a linear
SVM and a box regression for each class, which `rcnn_fitting` fits on the network's features.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment import normalize
from cnn_jax.metrics.summary import Summary
from cnn_jax.models.backbones import by_resolution
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.pooling import adaptive_avg_pool
from cnn_jax.ops.warping import warp_crops
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.tasks.detection.fast_rcnn import Predictions
from cnn_jax.tasks.detection.regions import (
    BoxStatistics,
    RegionLoss,
    RegionSampling,
    evaluation_losses,
    loss_means,
    loss_sums,
    of_regions,
)
from cnn_jax.tasks.images import Batch, apply_training, floating, image_input, init

Sums = dict[str, Any]
Rows = dict[str, Any]

# Regions of an image that go through the network at a time; where all are padding, none do.
_AT_A_TIME = 32

# Rows and columns of the map that boxes are regressed from, at most: AlexNet's last one.
_BOX_MAP = 6


class RegionFeatures(NamedTuple):
    """The network's outputs for regions.

    Attributes:
        logits: one for the background, then one for each class.
        classes: the last hidden layer, for the SVMs.
        boxes: the last map, flattened, for the box regression.
    """

    logits: Float[Array, "*batch scores"]
    classes: Float[Array, "*batch features"]
    boxes: Float[Array, "*batch box_features"]


@dataclass(frozen=True)
class FineTuning:
    """A classifier of warped regions, trained on one list of the regions of all images.

    A training batch has a row for each region: the whole `image`, a `box` in it and its `label`, 0
    for the background. An evaluation batch is that of Fast R-CNN.

    Attributes:
        model: gives `(logits, features)`, one logit for the background and one for each class.
        evaluation: turns scored boxes into detections, and detections into figures.
        mean, std: of the network's input, per channel, for images in 0..1.
        crop_size: pixels on a side of a warped region.
        context: pixels of it on each side that lie around the region's box.
        flip: mirrors every second region.
        sampling: the choice of regions for the reported loss of an evaluation.
        class_weights: weights of the classes' regions in the loss; the background has 1.
    """

    model: nn.Module
    evaluation: BoxEvaluation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_size: int
    context: int = 16
    flip: bool = True
    sampling: RegionSampling = field(
        default_factory=lambda: RegionSampling(background_iou=(0.0, 0.5))
    )
    class_weights: tuple[float, ...] = ()

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one warped region, as a batch of one."""
        return image_input(self.crop_size, self.crop_size, len(self.mean))

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
        """Sum the cross-entropy over the regions."""
        mirrored = jax.vmap(jax.random.fold_in, (None, 0))(keys["augment"], batch["ordinal"])
        crops = jax.vmap(lambda image, box: self.crops(image, box[None])[0])(
            normalize(floating(batch["image"]), self.mean, self.std), batch["box"]
        )
        if self.flip:
            turn = jax.vmap(jax.random.bernoulli)(mirrored)[:, None, None, None]
            crops = jnp.where(turn, crops[:, :, ::-1], crops)
        (logits, features), model_state = apply_training(
            self.model, params, model_state, crops, keys["dropout"], axis_name
        )
        label = batch["label"]
        of_class = of_regions(logits, label, self.class_weights)
        for auxiliary in features.get("auxiliary_logits", {}).values():
            weight = self.model.auxiliary_weight
            of_class = of_class + weight * of_regions(auxiliary, label, self.class_weights)
        rows = RegionLoss(
            classes=of_class,
            boxes=jnp.zeros_like(of_class),
            right=(jnp.argmax(logits, axis=-1) == label).astype(jnp.int32),
            foreground=(label > 0).astype(jnp.int32),
            regions=jnp.ones_like(label),
        )
        sums = loss_sums(rows, batch["valid"])
        return sums["loss"], (model_state, sums)

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Predictions:
        """Detect by the softmax, where the proposals are; compute losses of known objects."""
        logits = self.features(params, model_state, batch).logits
        return self.detections(logits, jax.nn.softmax(logits)[..., 1:], batch["proposals"], batch)

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Sums, Rows]:
        """Sum the losses; rows are those of `BoxEvaluation.rows`."""
        assert predictions.losses is not None
        sums = loss_sums(predictions.losses, batch["valid"])
        return sums, self.evaluation.rows(predictions.detections, batch)

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Average the loss and the regions drawn; of an evaluation, add its figures."""
        means = loss_means(sums)
        del means["box_loss"], means["class_loss"]
        return self.evaluation.summarize(means, rows)

    def features(self, params: Any, model_state: Any, batch: Batch) -> RegionFeatures:
        """Apply the network to each proposal, a few at a time; 0 for most of the padding."""
        images = normalize(floating(batch["image"]), self.mean, self.std)
        boxes, filled = batch["proposals"], batch["proposal_valid"]
        count = boxes.shape[1]
        size = min(_AT_A_TIME, count)
        missing = (0, -count % size)
        padded = jnp.pad(boxes, ((0, 0), missing, (0, 0)))
        filled = jnp.pad(filled, ((0, 0), missing))

        def of_regions(image: Array, regions: Array) -> RegionFeatures:
            return self.apply(params, model_state, self.crops(image, regions))[0]

        def of_image(row: tuple[Array, Array, Array]) -> RegionFeatures:
            image, regions, filled = row

            def of_part(part: tuple[Array, Array]) -> RegionFeatures:
                shapes = jax.eval_shape(of_regions, image, part[0])
                zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
                whole = partial(of_regions, image)
                return lax.cond(jnp.any(part[1]), whole, lambda _: zeros, part[0])

            parts = lax.map(of_part, (regions.reshape(-1, size, 4), filled.reshape(-1, size)))
            return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[:count], parts)

        return lax.map(of_image, (images, padded, filled))

    def apply(
        self, params: Any, model_state: Any, crops: Float[Array, "batch crop crop channels"]
    ) -> tuple[RegionFeatures, dict[str, Any]]:
        """Apply the network to warped regions: what they are scored by, and its maps by name."""
        logits, features = self.model.apply({"params": params, **model_state}, crops, train=False)
        last = by_resolution(features)[-1]
        cells = tuple(min(side, _BOX_MAP) for side in last.shape[1:3])
        pooled = adaptive_avg_pool(last, cells).reshape(len(crops), -1)
        hidden = (x.astype(jnp.float32) for x in (features["pre_logits"], pooled))
        return RegionFeatures(logits, *hidden), features

    def detections(
        self,
        logits: Float[Array, "batch regions scores"],
        scores: Float[Array, "batch regions classes"],
        boxes: Float[Array, "batch regions 4"] | Float[Array, "batch regions classes 4"],
        batch: Batch,
    ) -> Predictions:
        """Turn scored boxes into detections, with the logits' losses where objects are known."""
        detections = self.evaluation.detect(boxes, scores, batch["size"], batch["proposal_valid"])
        if "index" not in batch:  # images of a user, not of a set
            return Predictions(detections, None)
        deltas = jnp.zeros((*scores.shape, 4))
        regions = evaluation_losses(
            logits, deltas, batch, self.sampling, BoxStatistics(), self.class_weights
        )
        return Predictions(detections, regions._replace(boxes=jnp.zeros_like(regions.boxes)))

    def crops(
        self, image: Float[Array, "height width channels"], boxes: Float[Array, "boxes 4"]
    ) -> Float[Array, "boxes crop crop channels"]:
        """Warp regions of a normalised image to squares; outside the image lies the mean, 0."""
        return warp_crops(image, boxes, self.crop_size, self.context)


@dataclass(frozen=True)
class RCNN:
    """The whole detector. Its parameters are the network's and those fitted on its features.

    `params["network"]`; `params["classes"]`, the SVMs: `weights` [features, classes] and `bias`
    [classes]; `params["boxes"]`, the box regressions: `weights` [classes, features, 4] and `bias`
    [classes, 4]; both with the `scale` that features are multiplied by.

    Attributes:
        network: the fine-tuned network.
        classifier: the part that scores the regions.
        regress_boxes: moves detections by the box regression.
    """

    network: FineTuning
    classifier: Literal["svm", "softmax"] = "svm"
    regress_boxes: bool = True

    @property
    def model(self) -> nn.Module:
        """The network's module."""
        return self.network.model

    @property
    def evaluation(self) -> BoxEvaluation:
        """The network's: it turns scored boxes into detections, and detections into figures."""
        return self.network.evaluation

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of the network's input, per channel, for images in 0..1."""
        return self.network.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The deviation of the network's input, likewise."""
        return self.network.std

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one warped region, as a batch of one."""
        return self.network.network_input

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Draw the first network, with SVMs and regressions of zeros."""
        params, model_state = self.network.init(key)
        side = self.evaluation.image_size
        batch = {
            "image": jnp.zeros((1, side, side, len(self.mean)), jnp.uint8),
            "proposals": jnp.zeros((1, 1, 4)),
            "proposal_valid": jnp.ones((1, 1), bool),
        }
        shapes = jax.eval_shape(self.network.features, params, model_state, batch)
        classes = self.evaluation.num_classes
        svms = {
            "weights": jnp.zeros((shapes.classes.shape[-1], classes)),
            "bias": jnp.zeros(classes),
            "scale": jnp.ones(()),
        }
        boxes = {
            "weights": jnp.zeros((classes, shapes.boxes.shape[-1], 4)),
            "bias": jnp.zeros((classes, 4)),
            "scale": jnp.ones(()),
        }
        return {"network": params, "classes": svms, "boxes": boxes}, model_state

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        """Compute the network's loss: the rest is fitted, not trained."""
        return self.network.loss(params["network"], model_state, batch, keys, axis_name)

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Predictions:
        """Detect objects, in pixels of the original images; compute losses where they are known.

        Scores are the softmax's probabilities, or the SVMs' margins as numbers in 0..1.
        """
        boxes, scores, features = self.scored(params, model_state, batch)
        return self.network.detections(features.logits, scores, boxes, batch)

    def scored(
        self, params: Any, model_state: Any, batch: Batch
    ) -> tuple[Array, Float[Array, "batch regions classes"], RegionFeatures]:
        """Compute the boxes (for each class, where they are moved) and scores of the proposals."""
        features = self.network.features(params["network"], model_state, batch)
        scores = self.probabilities(self.evidence(params, features))
        boxes = batch["proposals"]
        if self.regress_boxes:
            deltas = regressed(params["boxes"], features.boxes)
            boxes = box_ops.decode(deltas, jnp.broadcast_to(boxes[:, :, None], deltas.shape))
        return boxes, scores, features

    def evidence(self, params: Any, features: RegionFeatures) -> Float[Array, "*batch scores"]:
        """Compute the SVMs' margins of the classes, or the logits, the background's first."""
        if self.classifier == "svm":
            return margins(params["classes"], features.classes)
        return features.logits

    def probabilities(
        self, evidence: Float[Array, "*batch scores"]
    ) -> Float[Array, "*batch classes"]:
        """Turn the evidence for the classes into numbers in 0..1."""
        if self.classifier == "svm":
            return jax.nn.sigmoid(evidence)
        return jax.nn.softmax(evidence)[..., 1:]

    def measure(self, predictions: Predictions, batch: Batch) -> tuple[Sums, Rows]:
        """Measure as the network does."""
        return self.network.measure(predictions, batch)

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Summarize as the network does."""
        return self.network.summarize(sums, rows)


def margins(
    svm: dict[str, Array], features: Float[Array, "*batch features"]
) -> Float[Array, "*batch classes"]:
    """Compute the signed distance of regions from each class's hyperplane, in the SVM's units."""
    scaled = features * svm["scale"]
    product = jnp.dot(scaled, svm["weights"], precision=lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(svm["bias"], product.shape)


def regressed(
    regression: dict[str, Array], features: Float[Array, "*batch features"]
) -> Float[Array, "*batch classes 4"]:
    """Compute the box targets of regions for each class."""
    scaled = features * regression["scale"]
    product = jnp.einsum(
        "...f,kft->...kt", scaled, regression["weights"], precision=lax.Precision.HIGHEST
    )
    return product + jnp.broadcast_to(regression["bias"], product.shape)


def paper_context(crop_size: int) -> int:
    """Scale the paper's 16 pixels of 227 to crops of another size."""
    return math.floor(crop_size * 16 / 227 + 0.5)
