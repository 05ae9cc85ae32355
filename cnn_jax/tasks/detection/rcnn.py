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

from cnn_jax import losses
from cnn_jax.data.augment import normalize
from cnn_jax.models.backbones import by_resolution
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.pooling import adaptive_avg_pool
from cnn_jax.ops.warping import warp_crops
from cnn_jax.tasks.detection.evaluation import Judge
from cnn_jax.tasks.detection.fast_rcnn import Predictions
from cnn_jax.tasks.detection.regions import (
    BoxStatistics,
    RegionLoss,
    RegionSampling,
    evaluation_losses,
    loss_means,
    loss_sums,
)
from cnn_jax.tasks.images import Batch, apply_training, floating, init

Sums = dict[str, Any]

# Regions of an image that go through the network at a time; where all are padding, none do.
_AT_A_TIME = 32

# Rows and columns of the map that boxes are regressed from, at most: AlexNet's last one.
_BOX_MAP = 6


class RegionFeatures(NamedTuple):
    """What the network says of regions.

    Attributes:
        logits: the background's first.
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
    for the background. An evaluation batch is as Fast R-CNN's.

    Attributes:
        model: gives `(logits, features)`, one logit for the background and one for each class.
        judge: how detections are made and judged.
        mean, std: of the network's input, per channel, for images in 0..1.
        crop_size: pixels on a side of a warped region.
        context: pixels of it on each side that lie around the region's box.
        flip: whether every second region is mirrored.
        sampling: which regions the reported loss of an evaluation is of.
    """

    model: nn.Module
    judge: Judge
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_size: int
    context: int = 16
    flip: bool = True
    sampling: RegionSampling = field(
        default_factory=lambda: RegionSampling(background_iou=(0.0, 0.5))
    )

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Fresh (params, model_state)."""
        return init(self.model, self.crop_size, key)

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        """Cross-entropy of the regions, summed."""
        mirrored = jax.vmap(jax.random.fold_in, (None, 0))(keys["augment"], batch["ordinal"])
        crops = jax.vmap(lambda image, box: self._crops(image, box[None])[0])(
            normalize(floating(batch["image"]), self.mean, self.std), batch["box"]
        )
        if self.flip:
            turn = jax.vmap(jax.random.bernoulli)(mirrored)[:, None, None, None]
            crops = jnp.where(turn, crops[:, :, ::-1], crops)
        (logits, features), model_state = apply_training(
            self.model, params, model_state, crops, keys["dropout"], axis_name
        )
        label = batch["label"]
        of_class = jax.vmap(losses.cross_entropy)(logits, label)
        for auxiliary in features.get("auxiliary_logits", {}).values():
            weight = self.model.auxiliary_weight
            of_class = of_class + weight * jax.vmap(losses.cross_entropy)(auxiliary, label)
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
        """Detections by the softmax, where the proposals are; losses where objects are known."""
        found = self.features(params, model_state, batch)
        return self.detections(
            found.logits, jax.nn.softmax(found.logits)[..., 1:], batch["proposals"], batch
        )

    def measure(self, predictions: Predictions, batch: Batch) -> Sums:
        """The losses, and what the judge wants of the whole set."""
        assert predictions.losses is not None
        return {
            **loss_sums(predictions.losses, batch["valid"]),
            **self.judge.measure(predictions.detections, batch),
        }

    def summarize(self, sums: Sums) -> dict[str, float]:
        """The loss, what regions were drawn, and the judge's figures."""
        means = loss_means(sums)
        del means["box_loss"], means["class_loss"]
        return means | (self.judge.summarize(sums) if "detections" in sums else {})

    def features(self, params: Any, model_state: Any, batch: Batch) -> RegionFeatures:
        """What the network says of each proposal, some of them at a time; 0 for most padding."""
        images = normalize(floating(batch["image"]), self.mean, self.std)
        boxes, filled = batch["proposals"], batch["proposal_valid"]
        count = boxes.shape[1]
        size = min(_AT_A_TIME, count)
        missing = (0, -count % size)
        padded = jnp.pad(boxes, ((0, 0), missing, (0, 0)))
        filled = jnp.pad(filled, ((0, 0), missing))

        def of_regions(image: Array, regions: Array) -> RegionFeatures:
            logits, features = self.model.apply(
                {"params": params, **model_state}, self._crops(image, regions), train=False
            )
            last = by_resolution(features)[-1]
            cells = tuple(min(side, _BOX_MAP) for side in last.shape[1:3])
            pooled = adaptive_avg_pool(last, cells).reshape(len(regions), -1)
            return RegionFeatures(
                logits, *(x.astype(jnp.float32) for x in (features["pre_logits"], pooled))
            )

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

    def detections(
        self,
        logits: Float[Array, "batch regions scores"],
        scores: Float[Array, "batch regions classes"],
        boxes: Float[Array, "batch regions 4"] | Float[Array, "batch regions classes 4"],
        batch: Batch,
    ) -> Predictions:
        """Scored boxes as detections, with the logits' losses where objects are known."""
        found = self.judge.detect(boxes, scores, batch["size"], batch["proposal_valid"])
        if "index" not in batch:  # images of a user, not of a set
            return Predictions(found, None)
        deltas = jnp.zeros((*scores.shape, 4))
        paid = evaluation_losses(logits, deltas, batch, self.sampling, BoxStatistics())
        return Predictions(found, paid._replace(boxes=jnp.zeros_like(paid.boxes)))

    def _crops(
        self, image: Float[Array, "height width 3"], boxes: Float[Array, "boxes 4"]
    ) -> Float[Array, "boxes crop crop 3"]:
        """Warped regions of a normalised image; outside it lies the mean, 0."""
        return warp_crops(image, boxes, self.crop_size, self.context)


@dataclass(frozen=True)
class RCNN:
    """The whole detector. Its parameters are the network's and what is fitted on its features.

    `params["network"]`; `params["classes"]`, the SVMs: `weights` [features, classes] and `bias`
    [classes]; `params["boxes"]`, the box regressions: `weights` [classes, features, 4] and `bias`
    [classes, 4]; both with the `scale` that features are multiplied by.

    Attributes:
        network: the fine-tuned network.
        classifier: what scores the regions.
        regress_boxes: whether detections are moved by the box regression.
    """

    network: FineTuning
    classifier: Literal["svm", "softmax"] = "svm"
    regress_boxes: bool = True

    @property
    def model(self) -> nn.Module:
        """The network's module."""
        return self.network.model

    @property
    def judge(self) -> Judge:
        """How detections are made and judged."""
        return self.network.judge

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """A fresh network, and SVMs and regressions that say nothing."""
        params, model_state = self.network.init(key)
        side = self.judge.image_size
        batch = {
            "image": jnp.zeros((1, side, side, 3), jnp.uint8),
            "proposals": jnp.zeros((1, 1, 4)),
            "proposal_valid": jnp.ones((1, 1), bool),
        }
        found = jax.eval_shape(self.network.features, params, model_state, batch)
        classes = self.judge.num_classes
        svms = {
            "weights": jnp.zeros((found.classes.shape[-1], classes)),
            "bias": jnp.zeros(classes),
            "scale": jnp.ones(()),
        }
        boxes = {
            "weights": jnp.zeros((classes, found.boxes.shape[-1], 4)),
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
        """The network's: the rest is fitted, not trained."""
        return self.network.loss(params["network"], model_state, batch, keys, axis_name)

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Predictions:
        """Detections in pixels of the original images, and losses where objects are known.

        Scores are the softmax's probabilities, or the SVMs' margins as numbers in 0..1.
        """
        found = self.network.features(params["network"], model_state, batch)
        if self.classifier == "svm":
            scores = jax.nn.sigmoid(margins(params["classes"], found.classes))
        else:
            scores = jax.nn.softmax(found.logits)[..., 1:]
        boxes = batch["proposals"]
        if self.regress_boxes:
            deltas = regressed(params["boxes"], found.boxes)
            boxes = box_ops.decode(deltas, jnp.broadcast_to(boxes[:, :, None], deltas.shape))
        return self.network.detections(found.logits, scores, boxes, batch)

    def measure(self, predictions: Predictions, batch: Batch) -> Sums:
        """As the network's."""
        return self.network.measure(predictions, batch)

    def summarize(self, sums: Sums) -> dict[str, float]:
        """As the network's."""
        return self.network.summarize(sums)


def margins(
    svm: dict[str, Array], features: Float[Array, "*batch features"]
) -> Float[Array, "*batch classes"]:
    """How far regions lie on the side of each class."""
    scaled = features * svm["scale"]
    product = jnp.dot(scaled, svm["weights"], precision=lax.Precision.HIGHEST)
    return product + jnp.broadcast_to(svm["bias"], product.shape)


def regressed(
    regression: dict[str, Array], features: Float[Array, "*batch features"]
) -> Float[Array, "*batch classes 4"]:
    """Box targets of regions for each class."""
    scaled = features * regression["scale"]
    product = jnp.einsum(
        "...f,kft->...kt", scaled, regression["weights"], precision=lax.Precision.HIGHEST
    )
    return product + jnp.broadcast_to(regression["bias"], product.shape)


def paper_context(crop_size: int) -> int:
    """The paper's 16 pixels of 227, for crops of another size."""
    return math.floor(crop_size * 16 / 227 + 0.5)
