"""Segmentation: a class for every pixel."""

from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from cnn_jax import losses
from cnn_jax.data.augment import normalize
from cnn_jax.data.augment.masks import MaskAugmentation, augment_with_mask
from cnn_jax.metrics import cells
from cnn_jax.metrics import segmentation as metrics
from cnn_jax.metrics.classification import confusion_matrix
from cnn_jax.metrics.host import on_host
from cnn_jax.metrics.summary import Summary
from cnn_jax.models.layers import on_axis
from cnn_jax.tasks.images import Batch, floating, image_input, init

Sums = dict[str, Any]
Rows = dict[str, Any]
Size = tuple[int, int]

LossName = Literal["cross_entropy", "dice", "both"]


@dataclass(frozen=True)
class SegmentationDetails:
    """The results of each image of an evaluation.

    Attributes:
        pixels: the numbers of pixels by class.
        probability: the mean probability of the predicted classes over the pixels.
    """

    pixels: metrics.ClassPixels
    probability: Float[np.ndarray, " images"]


@dataclass(frozen=True)
class Segmentation:
    """A segmenter: the network, its input, its loss and its metrics.

    An image may reach `model.margin` pixels beyond its mask on every side: a network without
    padding needs to see the surroundings of what it predicts. Where a network accepts only certain
    sizes, images are mirrored at their borders up to the next of them, and its output is cropped.

    Attributes:
        model: gives `(logits, features)` for normalised images.
        num_classes: number of classes.
        size: rows and columns of the masks trained on.
        mean, std: of the network's input, per channel, for images in 0..1.
        augmentation: applied on the device, in training only.
        loss_name: cross-entropy per pixel; one minus the Dice coefficient; or their sum.
        class_weights: the weight of a pixel of each class in the cross-entropy; none for 1 each.
        cells: whether class 1 are cells and class 0 the rest, so that the errors of
            `cnn_jax.metrics.cells` are computed too.
    """

    model: nn.Module
    num_classes: int
    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: MaskAugmentation = field(default_factory=MaskAugmentation)
    loss_name: LossName = "cross_entropy"
    class_weights: tuple[float, ...] = ()
    cells: bool = False

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one image, as a batch of one."""
        return image_input(*map(self.model.legal_size, self.size), len(self.mean))

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
        """Sum the training loss over the batch: of each image the mean over its pixels."""

        def augment(ordinal: Array, image: Array, mask: Array, weights: Array | None) -> Any:
            key = jax.random.fold_in(keys["augment"], ordinal)
            return augment_with_mask(key, image, mask, weights, self.augmentation)

        images, masks, weights = jax.vmap(augment)(
            batch["ordinal"],
            floating(batch["image"]),
            batch["mask"].astype(jnp.int32),
            batch.get("weight"),
        )
        logits, model_state = self._logits(
            {"params": params, **model_state},
            normalize(images, self.mean, self.std),
            masks.shape[1:],
            axis_name,
            train=True,
            rngs={"dropout": keys["dropout"]},
            mutable=list(model_state),
        )
        per_example = jax.vmap(self._per_example)(logits, masks, weights)
        total = jnp.sum(per_example, where=batch["valid"])
        confusion = self._confusion(logits, masks, batch["valid"])
        sums = {"examples": jnp.sum(batch["valid"]), "loss": total, "confusion": confusion}
        return total, (model_state, sums)

    def predict(
        self, params: Any, model_state: Any, batch: Batch
    ) -> Float[Array, "batch height width classes"]:
        """Compute log-probabilities of every pixel of the masks (of images without, of all pixels).

        Args:
            params: the network's parameters.
            model_state: its batch statistics.
            batch: `image`, with the model's margin around what is predicted.
        """
        images = normalize(floating(batch["image"]), self.mean, self.std)
        margin = 2 * self.model.margin
        size = (images.shape[1] - margin, images.shape[2] - margin)
        logits = self._logits({"params": params, **model_state}, images, size, None, train=False)
        return jax.nn.log_softmax(logits)

    def measure(
        self, predictions: Float[Array, "batch height width classes"], batch: Batch
    ) -> tuple[Sums, Rows]:
        """Sum the confusion matrix of all pixels, the loss, and the F1 of boundaries.

        The loss is that of training with every pixel's weight that of its class. A row is the
        numbers of pixels of an image by class, and the mean probability of what is predicted; where
        there are cells, also the predicted and the true foreground, bool [height, width] each.
        """
        masks, valid = batch["mask"].astype(jnp.int32), batch["valid"]
        predicted = jnp.argmax(predictions, axis=-1)
        per_example = jax.vmap(self._per_example)(predictions, masks)
        boundary, has_class = jax.vmap(
            lambda prediction, mask: metrics.boundary_f1(prediction, mask, self.num_classes)
        )(predicted, masks)
        sums = {
            "examples": jnp.sum(valid),
            "loss": jnp.sum(per_example, where=valid),
            "confusion": self._confusion(predictions, masks, valid),
            "boundary_f1": jnp.sum(boundary, where=has_class & valid),
            "boundary_images": jnp.sum(has_class & valid),
        }
        pixels = jax.vmap(lambda one, mask: metrics.class_pixels(one, mask, self.num_classes))
        rows = {
            "pixels": pixels(predicted, masks)._asdict(),
            "probability": jnp.mean(jnp.exp(jnp.max(predictions, axis=-1)), axis=(1, 2)),
        }
        cell_maps = {"predicted": predicted == 1, "truth": masks == 1} if self.cells else {}
        return sums, {**rows, **cell_maps}

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Compute every metric; boundaries and cells only of an evaluation.

        The details of an evaluation are `SegmentationDetails`.
        """
        confusion = np.asarray(sums["confusion"], np.int64)
        means = {
            "loss": float(sums["loss"]) / float(sums["examples"]),
            "pixel_accuracy": metrics.pixel_accuracy(confusion),
            "class_accuracy": metrics.mean_class_accuracy(confusion),
            "mean_iou": metrics.mean_iou(confusion),
        }
        if "boundary_f1" in sums:
            images = float(sums["boundary_images"])
            means["boundary_f1"] = float(sums["boundary_f1"]) / images if images else float("nan")
        if not rows:
            return Summary(means)
        if self.cells:
            means |= cell_errors(rows["predicted"], rows["truth"])
        pixels = metrics.ClassPixels(**rows["pixels"])
        return Summary(means, SegmentationDetails(pixels, rows["probability"]))

    def padded(
        self, images: Float[Array, "batch height width channels"], size: Size
    ) -> tuple[Float[Array, "batch new_height new_width channels"], tuple[int, int]]:
        """Mirror images at their borders, up to a size that the network accepts.

        Args:
            images: with the model's margin around what is predicted.
            size: rows and columns of what is predicted.

        Returns:
            The images, and the rows above and the columns left of the old ones.
        """
        wanted = [self.model.legal_size(length) for length in size]
        missing = [w - have for w, have in zip(wanted, images.shape[1:3], strict=True)]
        top, left = (m // 2 for m in missing)
        rows, columns = ((b, m - b) for b, m in zip((top, left), missing, strict=True))
        return jnp.pad(images, ((0, 0), rows, columns, (0, 0)), mode="reflect"), (top, left)

    def _logits(
        self, variables: Any, images: Array, size: Size, axis_name: str | None, **options: Any
    ) -> Any:
        """Compute the network's output for the `size` pixels in the middle of the images."""
        images, (top, left) = self.padded(images, size)
        output = on_axis(self.model, axis_name).apply(variables, images, **options)
        (logits, _), state = output if "mutable" in options else (output, None)
        logits = logits[:, top : top + size[0], left : left + size[1]]
        return (logits, state) if "mutable" in options else logits

    def _per_example(
        self,
        logits: Float[Array, "height width classes"],
        mask: Array,
        weights: Float[Array, "height width"] | None = None,
    ) -> Float[Array, ""]:
        total = jnp.zeros(())
        if self.loss_name != "dice":
            of_classes = jnp.array(self.class_weights, jnp.float32) if self.class_weights else None
            total += losses.pixel_cross_entropy(logits, mask, of_classes, weights)
        if self.loss_name != "cross_entropy":
            total += losses.dice_loss(logits, mask)
        return total

    def _confusion(self, scores: Array, masks: Array, valid: Array) -> Array:
        counted = jnp.broadcast_to(valid[:, None, None], masks.shape)
        return confusion_matrix(jnp.argmax(scores, axis=-1), masks, counted, self.num_classes)


CELL_ERRORS = ("pixel_error", "rand_error", "warping_error")
"""The keys of what `cell_errors` computes."""


def cell_errors(
    predicted: Bool[np.ndarray, "images height width"],
    truth: Bool[np.ndarray, "images height width"],
) -> dict[str, float]:
    """Compute the three errors of `cnn_jax.metrics.cells` of a set of images.

    Pixel and warping errors are means over images. The Rand error is that of all images' pairs
    together, as the challenge computes it.

    Args:
        predicted, truth: true at pixels of cells.
    """
    # One image at a time: two of the three errors need steps that are no array operations.
    images = list(zip(predicted, truth, strict=True))
    pairs = sum(on_host(_rand_pairs, *map(cells.cells, pair)) for pair in images)
    errors = (
        np.mean([cells.pixel_error(*pair) for pair in images]),
        on_host(cells.error_of_pairs, pairs),
        np.mean([cells.warping_error(*pair) for pair in images]),
    )
    return dict(zip(CELL_ERRORS, map(float, errors), strict=True))


_rand_pairs = jax.jit(cells.rand_pairs)
