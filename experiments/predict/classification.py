"""Predictions of a classifier: the most probable classes of an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.tasks.views import average_classes, read_views

from .. import classify
from .. import options as flags
from .predictor import (
    Batch,
    Example,
    Found,
    ImagePredictor,
    Predict,
    Result,
    class_names,
    whole_image_preparation,
)


class ClassPredictor(ImagePredictor):
    """The `--top` most probable classes of each image."""

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        trained = flags.stored(classify.Options, run)
        self._names, self.reading = class_names(run), trained.data.reading
        self._transform = trained.evaluation_transform
        self._views = read_views(options.tta)
        self._top, self._alone = options.top, len(options.images) == 1
        self.task = classify.build_task(trained, self._names)

    def examples(self, content: np.ndarray) -> list[Example]:
        """The image, prepared as for an evaluation."""
        return [{"image": self._transform({"image": content})["image"]}]

    def averaged(self, predict: Predict, batch: Batch) -> jax.Array:
        """The log-probabilities, from the mean over the views of `--tta`."""
        return average_classes(predict, batch, self._views)

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
            "preparation": whole_image_preparation(self._transform, self.reading),
            "class_names": self._names,
        }

    def found(self, content: np.ndarray, predictions: Sequence[np.ndarray]) -> Found:
        """`predictions`, best first, and `probabilities` of all classes."""
        (row,) = predictions
        best = np.argsort(-row, kind="stable")[: self._top]
        probabilities = np.exp(row)
        named = [{"label": self._names[i], "probability": float(probabilities[i])} for i in best]
        return {"predictions": named, "probabilities": probabilities}

    def result(self, name: str, content: np.ndarray, found: Found) -> Result:
        """`bicycle 0.60; people 0.30; ...`, best first."""
        named = found["predictions"]
        line = "; ".join(f"{p['label']} {p['probability']:.2f}" for p in named)
        line = line if self._alone else f"{name}: {line}"
        return Result(line, [{"image": name, "predictions": named}])
