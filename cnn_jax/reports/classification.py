"""The page and pictures of a classification run."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.data.decode import as_rgb
from cnn_jax.data.source import Source
from cnn_jax.metrics import classification as metrics
from cnn_jax.reports.calibration import ReliabilityDiagram
from cnn_jax.reports.confusion import ClassAccuracy, ConfusionMatrix
from cnn_jax.reports.page import Section
from cnn_jax.reports.per_class import write_per_class
from cnn_jax.reports.pictures import Gallery, Picks, draw_guesses, save
from cnn_jax.reports.report import Evaluation, write_report
from cnn_jax.reports.rows import RowsFile
from cnn_jax.runs.folder import SAMPLES

# Pictures in `samples/wrong.png` and `samples/right.png`. The page shows more mistakes.
DRAWN = 18
MISTAKES = 24


@runtime_checkable
class Details(Protocol):
    """The details of an evaluation (see `cnn_jax.tasks.classification.ClassificationDetails`)."""

    log_probabilities: np.ndarray
    labels: np.ndarray
    areas_under_roc: np.ndarray


class ClassificationReport:
    """A writer of `report.html` and `samples/*.png` after each evaluation.

    Args:
        directory: the run's folder.
        source: the evaluated examples.
        transform: the preparation of an example for the network: one crop.
        predictions: the file of a row for each example, if there is to be one.
    """

    def __init__(
        self,
        directory: str | Path,
        source: Source,
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        predictions: RowsFile | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.source = source
        self.transform = transform
        self.predictions = predictions
        self._picks = Picks(MISTAKES)

    def select(self, batch: Mapping[str, np.ndarray], log_probabilities: Any) -> None:
        """Select pictures from a batch of an evaluation.

        Args:
            batch: `index`, `label` and `valid` of its examples.
            log_probabilities: floats [batch, classes].
        """
        self._picks.add(
            np.asarray(batch["index"]),
            np.asarray(batch["label"]),
            np.exp(np.asarray(log_probabilities, np.float32)),
            np.asarray(batch["valid"]),
        )

    def write(self, step: int, evaluation: Evaluation) -> None:
        """Write the page and the pictures of an evaluation.

        Args:
            step: the number of updates made.
            evaluation: its metrics, its `confusion` and `calibration` sums, and its details. The
                pictures are those that `select` has chosen since the last call.
        """
        picks, self._picks = self._picks, Picks(MISTAKES)
        names = self.source.class_names
        wrong, right = picks.guesses(
            lambda index: as_rgb(self.transform(self.source[index])["image"]),
            names,
            self.source.describe,
        )
        samples = self.directory / SAMPLES
        for name, guesses in (("wrong", wrong), ("right", right)):
            if guesses:
                save(samples / f"{name}.png", draw_guesses(guesses[:DRAWN]))
            else:
                (samples / f"{name}.png").unlink(missing_ok=True)
        confusion = np.asarray(evaluation.sums["confusion"])
        details = evaluation.details
        figures = metrics.class_figures(confusion)._asdict()
        columns = {**figures, "auroc": details.areas_under_roc}
        write_per_class(self.directory, step, names, columns)
        if self.predictions is not None:
            self.predictions.write(self._rows(details))
        count, confidence, correct = map(np.asarray, evaluation.sums["calibration"])
        sections: list[Section] = [
            Gallery("Mistakes", wrong, "The most confident mistakes come first."),
            Gallery("Right answers", right[:DRAWN], "A random choice."),
            ConfusionMatrix("Confusion matrix", confusion, names),
            ClassAccuracy("Accuracy by class", confusion, names),
            ReliabilityDiagram(
                "Calibration",
                count,
                confidence,
                correct,
                float(evaluation.metrics["expected_calibration_error"]),
            ),
        ]
        shown = [part for part in sections if not isinstance(part, Gallery) or part.guesses]
        write_report(self.directory, sections=shown)

    def _rows(self, details: Details) -> Iterator[dict[str, Any]]:
        """Name, truth, prediction and its probability of each example."""
        names = self.source.class_names
        for index, (scores, label) in enumerate(
            zip(details.log_probabilities, details.labels, strict=True)
        ):
            guess = int(scores.argmax())
            yield {
                "name": self.source.describe(index),
                "truth": names[label],
                "prediction": names[guess],
                "probability": np.exp(scores[guess]),
            }
