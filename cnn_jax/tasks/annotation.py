"""Image annotation: multi-label classification, by scores of labels and a decision rule."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy import special

from cnn_jax import losses
from cnn_jax.data.augment import Augmentation, ViewKind, mix, normalize
from cnn_jax.errors import UserError
from cnn_jax.losses import ranking as ranking_losses
from cnn_jax.metrics import annotation as metrics
from cnn_jax.metrics.summary import Summary
from cnn_jax.ranges import Range, check_ranges
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

Sums = dict[str, Any]
Rows = dict[str, Any]

LossName = Literal["sigmoid", "softmax", "ranking", "warp"]


@dataclass(frozen=True)
class Decision:
    """The rule that turns scores into labels."""

    decision: Literal["topk", "threshold", "tuned", "per-label"] = "threshold"
    """topk: always --k labels; threshold: those whose probability reaches --threshold; tuned: the
    same with a threshold chosen on the evaluation data; per-label: one chosen for each label."""
    k: Annotated[int, Range(1, 65_536)] = 3
    """The number of labels that `--decision topk` gives."""
    threshold: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    """The least probability of a label."""
    f_beta: Annotated[float, Range(0, 1000, above=True)] = 2.0
    """Beta of the F measure, averaged over images, that thresholds are chosen for: 2 counts recall
    twice as much as precision, 1 as much."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of scores that were chosen on validation data.

    Attributes:
        one: the threshold for all labels alike.
        per_label: a threshold for each label.
    """

    one: float
    per_label: tuple[float, ...]


@dataclass(frozen=True)
class AnnotationDetails:
    """The results that an evaluation derives from a whole set.

    Attributes:
        scores: what labels are ordered by.
        predicted, truth: the labels given, and those that hold.
        thresholds: those chosen on these examples, or given before.
        curves: precision and recall of each label.
        average_precisions: the areas below them.
    """

    scores: Float[np.ndarray, "examples labels"]
    predicted: Bool[np.ndarray, "examples labels"]
    truth: Bool[np.ndarray, "examples labels"]
    thresholds: Thresholds
    curves: metrics.PrecisionRecall
    average_precisions: Float[np.ndarray, " labels"]


@dataclass(frozen=True)
class Annotation:
    """An annotator: the network, its input, its loss, its decision rule and its metrics.

    Scores order the labels within an image and the images within a label. They are logits, but
    log-probabilities for `loss_name="softmax"`.

    Attributes:
        model: gives `(logits, features)` for normalised images.
        num_labels: number of labels.
        image_size: pixels on a side of the network's input.
        mean, std: of the network's input, per channel, for images in 0..1.
        augmentation: applied on the device, in training only.
        loss_name: logistic cross-entropy, averaged over labels; softmax cross-entropy against the
            labels divided by their number; pairwise hinges; or WARP (Gong et al. 2013).
        warp_ranks: WARP's ranks, exact or estimated from draws.
        positive_weights: the weight of a label that holds in the logistic loss: one for each
            label, one for all, or none.
        focal_gamma: above 0, the logistic loss is focal (Lin et al. 2017).
        decision: the rule that turns scores into labels.
        thresholds: for the rules that need them; None chooses them on the data evaluated.
        views: views of an image whose logits are averaged in prediction.
    """

    model: nn.Module
    num_labels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss_name: LossName = "sigmoid"
    warp_ranks: Literal["exact", "sampled"] = "exact"
    positive_weights: tuple[float, ...] = ()
    focal_gamma: float = 0.0
    decision: Decision = field(default_factory=Decision)
    thresholds: Thresholds | None = None
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
        targets = batch["labels"].astype(jnp.float32)
        images, targets = mix(keys["mix"], images, targets, self.augmentation, axis_name)
        (logits, features), model_state = apply_training(
            self.model,
            params,
            model_state,
            normalize(images, self.mean, self.std),
            keys["dropout"],
            axis_name,
        )
        draws = None
        if self.loss_name == "warp" and self.warp_ranks == "sampled":
            # Ordinals stay below 2**31: this key is no example's augmentation's.
            root = jax.random.fold_in(keys["augment"], jnp.uint32(2**31))
            draws = jax.vmap(jax.random.fold_in, (None, 0))(root, batch["ordinal"])
        per_example = self._per_example(logits, targets, draws)
        for auxiliary in features.get("auxiliary_logits", {}).values():
            weight = self.model.auxiliary_weight
            per_example = per_example + weight * self._per_example(auxiliary, targets, draws)
        total = jnp.sum(per_example, where=batch["valid"])
        return total, (model_state, {"examples": jnp.sum(batch["valid"]), "loss": total})

    def predict(self, params: Any, model_state: Any, batch: Batch) -> Float[Array, "batch labels"]:
        """Compute scores; of several crops of an image, and of the views of each, their mean."""
        images = normalize(floating(batch["image"]), self.mean, self.std)
        crops = images.reshape(-1, *images.shape[-3:])

        def network(images: Array) -> Array:
            return self.model.apply({"params": params, **model_state}, images, train=False)[0]

        logits = averaged_logits(network, crops, self.views)
        scores = jax.nn.log_softmax(logits) if self.loss_name == "softmax" else logits
        if images.ndim == 4:
            return scores
        return jnp.mean(scores.reshape(*images.shape[:2], self.num_labels), axis=1)

    def probabilities(self, logits: Float[Array, "*batch labels"]) -> Float[Array, "*batch labels"]:
        """Convert the network's logits, not scores, to what `probability` makes of their scores."""
        return jax.nn.softmax(logits) if self.loss_name == "softmax" else jax.nn.sigmoid(logits)

    def embed(self, params: Any, model_state: Any, batch: Batch) -> Float[Array, "batch size"]:
        """Compute the images' directions before the last layer, as unit vectors."""
        images = normalize(floating(batch["image"]), self.mean, self.std)
        return embedded(self.model, params, model_state, images)

    def measure(self, predictions: Float[Array, "batch labels"], batch: Batch) -> tuple[Sums, Rows]:
        """Sum the loss (WARP's with exact ranks); a row is the scores and labels of an example.

        Average precision and chosen thresholds need the scores of the whole set.
        """
        valid, labels = batch["valid"], batch["labels"]
        per_example = self._per_example(predictions, labels.astype(jnp.float32))
        sums = {"examples": jnp.sum(valid), "loss": jnp.sum(per_example, where=valid)}
        return sums, {"scores": predictions, "labels": labels}

    def summarize(self, sums: Sums, rows: Rows | None = None) -> Summary:
        """Average the loss; of an evaluation, add every metric of `cnn_jax.metrics.annotation`.

        The details of an evaluation are `AnnotationDetails`.
        """
        means = {"loss": float(sums["loss"]) / float(sums["examples"])}
        if rows is None:
            return Summary(means)
        scores, truth = np.asarray(rows["scores"], np.float32), np.asarray(rows["labels"], bool)
        thresholds = self.thresholds or self.choose(scores, truth)
        predicted = self.decide(scores, thresholds)
        curves = metrics.curves(scores, truth)
        precisions = metrics.average_precisions(curves)
        figures = {**means, **metrics.summarize(predicted, truth), "map": float(precisions.mean())}
        details = AnnotationDetails(scores, predicted, truth, thresholds, curves, precisions)
        return Summary(figures, details)

    def decide(
        self, scores: Float[np.ndarray, "examples labels"], thresholds: Thresholds | None
    ) -> Bool[np.ndarray, "examples labels"]:
        """Apply the decision rule to scores.

        Raises:
            UserError: the rule needs thresholds, and there are none.
        """
        least = self._least_scores(thresholds)
        if least is None:
            return metrics.best_k(scores, self.decision.k)
        return metrics.above(scores, least)

    def decided(
        self, scores: Float[Array, "batch labels"], thresholds: Thresholds | None
    ) -> Bool[Array, "batch labels"]:
        """Apply the decision rule on the device: `decide` for a program that is compiled.

        Raises:
            UserError: the rule needs thresholds, and there are none.
        """
        least = self._least_scores(thresholds)
        if least is None:
            return jax.vmap(partial(metrics.top_k, k=self.decision.k))(scores)
        by_label = np.broadcast_to(np.asarray(least, np.float32), self.num_labels)
        return jax.vmap(lambda row: row >= by_label)(scores)

    def _least_scores(self, thresholds: Thresholds | None) -> float | np.ndarray | None:
        """Name the least score of a label that is given, of all or of each; None for `topk`."""
        rule = self.decision
        match rule.decision:
            case "topk":
                return None
            case "threshold":
                return self.score(rule.threshold)
        if thresholds is None:
            raise UserError(f"--decision {rule.decision}: no thresholds have been chosen yet")
        return thresholds.one if rule.decision == "tuned" else np.array(thresholds.per_label)

    def choose(
        self,
        scores: Float[np.ndarray, "examples labels"],
        truth: Bool[np.ndarray, "examples labels"],
    ) -> Thresholds:
        """Choose the thresholds of highest F on validation data."""
        beta = self.decision.f_beta
        return Thresholds(
            metrics.choose_threshold(scores, truth, beta),
            tuple(map(float, metrics.choose_thresholds(scores, truth, beta))),
        )

    def probability(self, scores: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Convert scores to numbers in 0..1.

        For the logistic loss and for softmax they are the probabilities that were trained; for the
        two ranking losses, which train none, the logistic function of the score.
        """
        probability = np.exp if self.loss_name == "softmax" else special.expit
        return np.asarray(probability(scores))  # of a single score, too

    def score(self, probability: float) -> float:
        """Convert a probability to the score that stands for it."""
        return float(
            np.log(probability) if self.loss_name == "softmax" else special.logit(probability)
        )

    def _per_example(
        self,
        logits: Float[Array, "batch labels"],
        targets: Float[Array, "batch labels"],
        draws: Key[Array, " batch"] | None = None,
    ) -> Float[Array, " batch"]:
        match self.loss_name:
            case "softmax":
                return jax.vmap(ranking_losses.label_softmax)(logits, targets)
            case "ranking":
                return jax.vmap(ranking_losses.pairwise_ranking)(logits, targets)
            case "warp" if draws is not None:
                return jax.vmap(ranking_losses.warp)(logits, targets, draws)
            case "warp":
                return jax.vmap(ranking_losses.warp)(logits, targets)
        if self.focal_gamma:
            one = partial(ranking_losses.focal, gamma=self.focal_gamma)
        elif self.positive_weights:
            weights = np.broadcast_to(np.array(self.positive_weights, np.float32), self.num_labels)
            one = partial(ranking_losses.weighted_sigmoid, positive_weights=jnp.array(weights))
        else:
            one = losses.sigmoid_cross_entropy
        return jnp.mean(jax.vmap(one)(logits, targets), axis=-1)
