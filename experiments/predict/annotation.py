"""Predictions of an annotator: the labels of an image, as the run's rule decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import annotate, states
from .. import options as flags
from .predictor import (
    Example,
    Found,
    ImagePredictor,
    Result,
    class_names,
    whole_image_preparation,
)


class TagPredictor(ImagePredictor):
    """The labels of each image with their probabilities."""

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        trained = flags.stored(annotate.Options, run)
        self._names, self.reading = class_names(run), trained.data.reading
        self._transform = trained.evaluation_transform
        self._alone = len(options.images) == 1
        self._thresholds = None
        if trained.rule.decision in ("tuned", "per-label"):
            kept = states.kept(run, options.state)
            self._thresholds = annotate.stored_thresholds(kept, self._names)
        self.task = annotate.build_task(trained, self._names)

    def examples(self, content: np.ndarray) -> list[Example]:
        """The image, prepared as for an evaluation."""
        return [{"image": self._transform({"image": content})["image"]}]

    def select(self, predictions: np.ndarray) -> np.ndarray:
        """The scores."""
        return predictions

    def outputs(self, selected: jax.Array) -> dict[str, jax.Array]:
        """The labels that the run's rule gives, and the scores and probabilities of all."""
        softmax = self.task.loss_name == "softmax"
        return {
            "tags": self.task.decided(selected, self._thresholds),
            "scores": selected,
            "probabilities": jnp.exp(selected) if softmax else jax.nn.sigmoid(selected),
        }

    def described(self) -> dict[str, Any]:
        """The preparation of an image, the rule, and the names of the labels."""
        return {
            "preparation": whole_image_preparation(self._transform, self.reading),
            "decision": self.task.decision.decision,
            "class_names": self._names,
        }

    def found(self, content: np.ndarray, predictions: Sequence[np.ndarray]) -> Found:
        """`tags`, best first, and `probabilities` by label."""
        scores = np.asarray(predictions, np.float32)
        (probabilities,), (given,) = (
            self.task.probability(scores),
            self.task.decide(scores, self._thresholds),
        )
        order = np.argsort(-probabilities, kind="stable")
        named = {self._names[i]: float(probabilities[i]) for i in order}
        return {"tags": [self._names[i] for i in order if given[i]], "probabilities": named}

    def result(self, name: str, content: np.ndarray, found: Found) -> Result:
        """`sea 0.95; sand 0.80`, best first; `no label` where the rule gives none."""
        tags, named = found["tags"], found["probabilities"]
        line = "; ".join(f"{tag} {named[tag]:.2f}" for tag in tags) or "no label"
        line = line if self._alone else f"{name}: {line}"
        return Result(line, [{"image": name, **found}])
