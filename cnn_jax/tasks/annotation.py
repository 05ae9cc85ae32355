"""Image annotation: any number of labels an image, by their scores and a decision rule."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy import special

from cnn_jax import losses
from cnn_jax.data.augment import Augmentation, mix, normalize
from cnn_jax.errors import UserError, check
from cnn_jax.losses import ranking as ranking_losses
from cnn_jax.metrics import annotation as metrics
from cnn_jax.metrics.tables import set_table
from cnn_jax.tasks.images import Batch, apply_training, augmented, floating, init

Sums = dict[str, Any]

LossName = Literal["sigmoid", "softmax", "ranking", "warp"]


@dataclass(frozen=True)
class Decision:
    """How scores become labels."""

    decision: Literal["topk", "threshold", "tuned", "per-label"] = "threshold"
    """topk: always --k labels; threshold: those whose probability reaches --threshold; tuned: the
    same with a threshold chosen on the evaluation data; per-label: one chosen for each label."""
    k: int = 3
    """How many labels `--decision topk` gives."""
    threshold: float = 0.5
    """A probability."""
    f_beta: float = 2.0
    """Thresholds are chosen for the highest F of this beta, averaged over images: 2 counts recall
    twice as much as precision, 1 the same."""

    def __post_init__(self) -> None:
        check(self.k >= 1, "k", self.k, "1 or more")
        check(0 < self.threshold < 1, "threshold", self.threshold, "between 0 and 1")
        check(self.f_beta > 0, "f_beta", self.f_beta, "above 0")


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of scores that were chosen on validation data.

    Attributes:
        one: for all labels alike.
        per_label: one for each.
    """

    one: float
    per_label: tuple[float, ...]


@dataclass(frozen=True)
class Annotation:
    """A model, what it is fed and how it is judged.

    Scores are logits, but for `loss_name="softmax"` log-probabilities: what orders the labels
    within an image and images within a label.

    Attributes:
        model: gives `(logits, features)` for normalised images.
        num_labels: number of labels.
        image_size: pixels on a side of what the model is fed.
        mean, std: of the model's input, per channel, for images in 0..1.
        augmentation: applied on the device, training only.
        loss_name: logistic cross-entropy, averaged over labels; softmax cross-entropy against the
            labels divided by their number; pairwise hinges; or WARP (Gong et al. 2013).
        warp_ranks: WARP's ranks, exact or estimated from draws.
        positive_weights: what a label that holds counts in the logistic loss: a weight for each
            label, one for all, or none.
        focal_gamma: above 0, the logistic loss is focal (Lin et al. 2017).
        decision: how scores become labels.
        thresholds: of the rules that need them; None chooses them on the data evaluated.
        num_evaluated: examples of the set that is evaluated.
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
    num_evaluated: int = 0

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Fresh (params, model_state)."""
        return init(self.model, self.image_size, key)

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        keys: dict[str, Key[Array, ""]],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], tuple[Any, Sums]]:
        """Training loss summed over the batch, auxiliary heads included at their weight."""
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
        """Scores; over several crops of an image, their mean."""
        images = normalize(floating(batch["image"]), self.mean, self.std)
        crops = images.reshape(-1, *images.shape[-3:])
        logits, _ = self.model.apply({"params": params, **model_state}, crops, train=False)
        scores = jax.nn.log_softmax(logits) if self.loss_name == "softmax" else logits
        if images.ndim == 4:
            return scores
        return jnp.mean(scores.reshape(*images.shape[:2], self.num_labels), axis=1)

    def measure(self, predictions: Float[Array, "batch labels"], batch: Batch) -> Sums:
        """The loss (WARP's with exact ranks), and tables with the batch's scores and labels.

        Average precision and chosen thresholds need the scores of the whole set. Each batch fills
        its own rows of a table of all of them, so that tables add up, over batches, devices and
        processes, to exactly what one pass on one device would gather.
        """
        valid, labels = batch["valid"], batch["labels"]
        table = partial(set_table, index=batch["index"], valid=valid, size=self.num_evaluated)
        per_example = self._per_example(predictions, labels.astype(jnp.float32))
        return {
            "examples": jnp.sum(valid),
            "loss": jnp.sum(per_example, where=valid),
            "scores": table(predictions),
            "labels": table(labels.astype(jnp.int32)),
        }

    def summarize(self, sums: Sums) -> dict[str, float]:
        """The mean loss; of an evaluation also every metric of `cnn_jax.metrics.annotation`."""
        means = {"loss": float(sums["loss"]) / float(sums["examples"])}
        if "scores" not in sums:
            return means
        scores, truth = tables(sums)
        predicted = self.decide(scores, self.thresholds or self.choose(scores, truth))
        average_precision = metrics.mean_average_precision(scores, truth)
        return {**means, **metrics.summarize(predicted, truth), "map": average_precision}

    def decide(
        self, scores: Float[np.ndarray, "examples labels"], thresholds: Thresholds | None
    ) -> Bool[np.ndarray, "examples labels"]:
        """Which labels are given.

        Raises:
            UserError: the rule needs thresholds, and there are none.
        """
        rule = self.decision
        match rule.decision:
            case "topk":
                return metrics.top_k(scores, rule.k)
            case "threshold":
                return metrics.above(scores, self.score(rule.threshold))
        if thresholds is None:
            raise UserError(f"--decision {rule.decision}: no thresholds have been chosen yet")
        if rule.decision == "tuned":
            return metrics.above(scores, thresholds.one)
        return metrics.above(scores, np.array(thresholds.per_label))

    def choose(
        self,
        scores: Float[np.ndarray, "examples labels"],
        truth: Bool[np.ndarray, "examples labels"],
    ) -> Thresholds:
        """The thresholds of highest F on validation data."""
        beta = self.decision.f_beta
        return Thresholds(
            metrics.choose_threshold(scores, truth, beta),
            tuple(map(float, metrics.choose_thresholds(scores, truth, beta))),
        )

    def probability(self, scores: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """What scores say as numbers in 0..1.

        Of a logistic loss and of softmax they are the probabilities that were trained; of the two
        ranking losses, which train none, the same function of the score, increasing like it.
        """
        probability = np.exp if self.loss_name == "softmax" else special.expit
        return np.asarray(probability(scores))  # of a single score, too

    def score(self, probability: float) -> float:
        """The score that stands for a probability."""
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


def tables(
    sums: Sums,
) -> tuple[Float[np.ndarray, "examples labels"], Bool[np.ndarray, "examples labels"]]:
    """Scores and true labels of a whole set, from an evaluation's sums."""
    return np.asarray(sums["scores"], np.float32), np.asarray(sums["labels"]) > 0
