"""Predictions of a classifier: the most probable classes of an image."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from cnn_jax.tasks.views import average_classes, read_views

from .. import classify
from .. import options as flags
from .predictor import Batch, Example, Found, ImagePredictor, Predict, Result, class_names


class ClassPredictor(ImagePredictor):
    """The `--top` most probable classes of each image."""

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        trained = flags.stored(classify.Options, run)
        self._names, self.channels = class_names(run), trained.data.channels
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
