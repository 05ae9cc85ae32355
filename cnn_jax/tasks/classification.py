"""Image classification: one class per image, softmax, top-1 and top-5."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from cnn_jax import losses
from cnn_jax.data.augment import Augmentation, ViewKind, mix, normalize
from cnn_jax.losses import proxies
from cnn_jax.metrics import classification as metrics
from cnn_jax.metrics.summary import Summary
from cnn_jax.tasks.images import (
    Batch,
    apply_training,
    augmented,
    averaged_logits,
    embedded,
    floating,
    image_input,
    init,
)

CALIBRATION_BINS = 15

Sums = dict[str, Any]
Rows = dict[str, Any]
Loss = Callable[..., Float[Array, ""]]

LOSSES: dict[str, Loss] = {
    "softmax": losses.cross_entropy,
    "sigmoid": losses.classification.mean_sigmoid_cross_entropy,
    "proxy": losses.cross_entropy,
    "proxy_nca": proxies.proxy_nca,
}
"""The losses by name: from logits, a distribution over classes and `label_smoothing`."""

PROXY_LOSSES = ("proxy", "proxy_nca")
"""Losses of metric learning: the logits are the cosines with a proxy for each class."""

LossName = Literal[tuple(LOSSES)]


@dataclass(frozen=True)
class ClassificationDetails:
    """The results that an evaluation derives from a whole set.

    Attributes:
        log_probabilities: those of every example and class.
        labels: the true classes.
        areas_under_roc: of every class against all others; nan where it has all examples or none.
    """

    log_probabilities: Float[np.ndarray, "examples classes"]
    labels: Int[np.ndarray, " examples"]
    areas_under_roc: Float[np.ndarray, " classes"]


@dataclass(frozen=True)
class Classification:
    """A classifier: the network, its input, its loss and its metrics.

    Attributes:
        model: gives `(logits, features)` for normalised images.
        num_classes: number of classes.
        image_size: pixels on a side of the network's input.
        mean, std: of the network's input, per channel, for images in 0..1.
        augmentation: applied on the device, in training only.
        loss_name: softmax cross-entropy; a logistic loss per class against the one-hot label
            (Wightman et al. 2021, section 3); or of cosines with the classes' proxies, which are
            the columns of the last layer's kernel, `proxy`: softmax cross-entropy (Zhai and Wu
            2019), and `proxy_nca` (Movshovitz-Attias et al. 2017).
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
        class_weights: weights of the classes in the loss of training, which is still divided by the
            number of examples; none for 1 each.
        logit_scale: factor of the network's logits, or of the cosines, in training and in
            prediction.
        views: views of an image whose logits are averaged in prediction.
    """

    model: nn.Module
    num_classes: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss_name: LossName = "softmax"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    logit_scale: float = 1.0
    views: ViewKind = "one"

    @property
    def network_input(self) -> jax.ShapeDtypeStruct:
        """The network's input for one image, as a batch of one."""
        return image_input(self.image_size, self.image_size, len(self.mean))

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
        """Sum the training loss over the batch, auxiliary heads included at their weight."""
        images = augmented(batch, keys["augment"], self.augmentation)
        targets = jax.nn.one_hot(batch["label"], self.num_classes)
        images, targets = mix(keys["mix"], images, targets, self.augmentation, axis_name)
        (logits, features), model_state = apply_training(
            self.model,
            params,
            model_state,
            normalize(images, self.mean, self.std),
            keys["dropout"],
            axis_name,
        )
        logits = self._scored(params, logits, features)
        per_example = self._per_example(self.loss_name, self.logit_scale * logits, targets)
        # Auxiliary heads have layers of their own before them, and no proxies.
        has_proxies = self.loss_name in PROXY_LOSSES
        name, scale = ("softmax", 1.0) if has_proxies else (self.loss_name, self.logit_scale)
        for auxiliary in features.get("auxiliary_logits", {}).values():
            weight = self.model.auxiliary_weight
            per_example = per_example + weight * self._per_example(name, scale * auxiliary, targets)
        total = jnp.sum(per_example, where=batch["valid"])
        sums = {"loss": total, **self._correct(logits, batch)}
        return total, (model_state, sums)

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Float[Array, "batch classes"]:
        """Compute log-probabilities; of several crops of an image, of their mean probability.

        Of the views of a crop, logits are averaged.
        """
        images = normalize(floating(batch["image"]), self.mean, self.std)
        crops = images.reshape(-1, *images.shape[-3:])

        def network(images: Array) -> Array:
            return self.apply(params, model_state, images)[0]

        logits = averaged_logits(network, crops, self.views)
        log_probabilities = jax.nn.log_softmax(self.logit_scale * logits)
        if images.ndim == 4:
            return log_probabilities
        by_crop = log_probabilities.reshape(*images.shape[:2], self.num_classes)
        return jax.nn.logsumexp(by_crop, axis=1) - jnp.log(images.shape[1])

    def apply(
        self,
        params: Any,
        model_state: Any,
        images: Float[Array, "batch height width channels"],
    ) -> tuple[Float[Array, "batch classes"], dict[str, Any]]:
        """Apply the network to normalised images, without dropout.

        Returns:
            The logits, or the cosines with the classes' proxies; and the features by name.
        """
        variables = {"params": params, **model_state}
        logits, features = self.model.apply(variables, images, train=False)
        return self._scored(params, logits, features), features

    def probabilities(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[Array, "*batch classes"]:
        """Convert logits, or cosines with proxies, to the probabilities of the classes."""
        return jax.nn.softmax(self.logit_scale * logits)

    def embed(self, params: Any, model_state: Any, batch: Batch) -> Float[Array, "batch size"]:
        """Compute the images' directions before the last layer, as unit vectors.

        With a loss of proxies they are the vectors that the loss compares with the proxies.
        """
        images = normalize(floating(batch["image"]), self.mean, self.std)
        centered = self.loss_name in PROXY_LOSSES
        return embedded(self.model, params, model_state, images, centered)

    def measure(
        self, predictions: Float[Array, "batch classes"], batch: Batch
    ) -> tuple[Sums, Rows]:
        """Sum loss, top-1, top-5, confusion matrix and calibration bins.

        A row is the log-probabilities and the label of an example: areas below ROC curves need
        those of the whole set.
        """
        valid = batch["valid"]
        per_example = jax.vmap(losses.cross_entropy)(predictions, batch["label"])
        bins = jax.vmap(partial(metrics.calibration_bins, bins=CALIBRATION_BINS))(
            jnp.exp(predictions), batch["label"]
        )
        sums = {
            "loss": jnp.sum(per_example, where=valid),
            **self._correct(predictions, batch),
            "confusion": metrics.confusion_matrix(
                jnp.argmax(predictions, -1), batch["label"], valid, self.num_classes
            ),
            "calibration": jax.tree.map(lambda x: jnp.sum(x, axis=0, where=valid[:, None]), bins),
        }
        return sums, {"log_probabilities": predictions, "labels": batch["label"]}

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Average over the examples; of an evaluation, add the figures by class and calibration.

        Precision, recall, F1 and the area below the ROC curve of each class are averaged alike
        (macro) and by the number of its examples (weighted). The details of an evaluation are
        `ClassificationDetails`.
        """
        examples = float(sums["examples"])
        means = {k: float(sums[k]) / examples for k in ("loss", "top1", "top5") if k in sums}
        if "confusion" in sums:
            means["mean_class_accuracy"] = metrics.mean_class_accuracy(
                np.asarray(sums["confusion"])
            )
            means["expected_calibration_error"] = metrics.expected_calibration_error(
                sums["calibration"]
            )
        if not rows:
            return Summary(means)
        scores, labels = np.asarray(rows["log_probabilities"], np.float32), rows["labels"]
        figures = metrics.class_figures(np.asarray(sums["confusion"], np.int64))
        areas = metrics.areas_under_roc(scores, labels)
        columns = {"precision": figures.precision, "recall": figures.recall, "f1": figures.f1}
        for name, values in (*columns.items(), ("auroc", areas)):
            macro, weighted = metrics.averages(values, figures.support)
            means |= {f"macro_{name}": macro, f"weighted_{name}": weighted}
        return Summary(means, ClassificationDetails(scores, labels, areas))

    def _scored(self, params: Any, logits: Array, features: dict[str, Any]) -> Array:
        """The network's logits, or the cosines that take their place."""
        if self.loss_name not in PROXY_LOSSES:
            return logits
        of_classes = params[self.model.classifiers[0]]["kernel"]
        return jax.vmap(proxies.cosines, (0, None))(features["pre_logits"], of_classes)

    def _per_example(
        self,
        name: LossName,
        logits: Float[Array, "batch classes"],
        targets: Float[Array, "batch classes"],
    ) -> Float[Array, " batch"]:
        weights = jnp.array(self.class_weights, jnp.float32) if self.class_weights else None
        loss = partial(LOSSES[name], label_smoothing=self.label_smoothing, class_weights=weights)
        return jax.vmap(loss)(logits, targets)

    def _correct(self, logits: Float[Array, "batch classes"], batch: Batch) -> Sums:
        """Count the valid examples, and those right at the first and within five guesses."""
        ks = (1, 5) if self.num_classes > 5 else (1,)
        correct = {
            f"top{k}": jax.vmap(partial(metrics.top_k_correct, k=k))(logits, batch["label"])
            for k in ks
        }
        counts = {name: jnp.sum(c, where=batch["valid"]) for name, c in correct.items()}
        return {"examples": jnp.sum(batch["valid"]), **counts}
