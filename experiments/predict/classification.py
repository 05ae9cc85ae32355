"""Predictions of a classifier: the most probable classes of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.decode import decode

from .. import classify
from .. import options as flags
from .predictor import Example, Result, class_names, whole_image_preparation


class ClassPredictor:
    """The `--top` most probable classes of each image."""

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        trained = flags.stored(classify.Options, run)
        self._names = class_names(run)
        self._transform = trained.evaluation_transform
        self._top, self._alone = options.top, len(options.images) == 1
        self.task = classify.build_task(trained, self._names)

    def examples(self, name: str) -> list[Example]:
        """The image, prepared as for an evaluation."""
        return [{"image": self._transform({"image": decode(name)})["image"]}]

    def select(self, predictions: np.ndarray) -> np.ndarray:
        """The log-probabilities."""
        return predictions

    def outputs(self, selected: jax.Array) -> dict[str, jax.Array]:
        """The most probable class, and the probabilities of all."""
        return {
            "label": jnp.argmax(selected, axis=-1).astype(jnp.int32),
            "probabilities": jnp.exp(selected),
        }

    def described(self) -> dict[str, Any]:
        """The preparation of an image, and the names of the classes."""
        return {
            "preparation": whole_image_preparation(self._transform),
            "class_names": self._names,
        }

    def result(self, name: str, predictions: Sequence[np.ndarray]) -> Result:
        """`bicycle 0.60; people 0.30; ...`, best first."""
        (row,) = predictions
        best = np.argsort(-row, kind="stable")[: self._top]
        named = [{"label": self._names[i], "probability": float(np.exp(row[i]))} for i in best]
        line = "; ".join(f"{p['label']} {p['probability']:.2f}" for p in named)
        line = line if self._alone else f"{name}: {line}"
        return Result(line, [{"image": name, "predictions": named}])
