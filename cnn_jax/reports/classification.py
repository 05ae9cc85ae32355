"""The page and pictures of a classification run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.reports.calibration import ReliabilityDiagram
from cnn_jax.reports.confusion import ClassAccuracy, ConfusionMatrix
from cnn_jax.reports.page import Section
from cnn_jax.reports.pictures import Gallery, Picks, draw_guesses, save
from cnn_jax.reports.report import write_report

# Pictures in `samples/wrong.png` and `samples/right.png`. The page shows more of the mistakes.
DRAWN = 18
MISTAKES = 24


@runtime_checkable
class Source(Protocol):
    """What is asked of a data source here (see `cnn_jax.data.source.Source`)."""

    class_names: tuple[str, ...]

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def describe(self, index: int) -> str: ...


@runtime_checkable
class Evaluation(Protocol):
    """What is asked of an evaluation here (see `cnn_jax.training.loop.Evaluation`)."""

    metrics: Mapping[str, float]
    sums: Mapping[str, Any]


class ClassificationReport:
    """Writes `report.html` and `samples/*.png` after each evaluation.

    Args:
        directory: the run's folder.
        source: the examples evaluated.
        transform: what an example looks like to the network: one crop.
    """

    def __init__(
        self,
        directory: str | Path,
        source: Source,
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self.directory = Path(directory)
        self.source = source
        self.transform = transform
        self._picks = Picks(MISTAKES)

    def select(self, batch: Mapping[str, np.ndarray], log_probabilities: Any) -> None:
        """Look for pictures to show in a batch of an evaluation.

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
            step: number of updates made.
            evaluation: its metrics, and its `confusion` and `calibration` sums. Its pictures are
                those that `select` has chosen since the last call.
        """
        picks, self._picks = self._picks, Picks(MISTAKES)
        names = self.source.class_names
        wrong, right = picks.guesses(
            lambda index: self.transform(self.source[index])["image"],
            names,
            self.source.describe,
        )
        samples = self.directory / "samples"
        for name, guesses in (("wrong", wrong), ("right", right)):
            if guesses:
                save(samples / f"{name}.png", draw_guesses(guesses[:DRAWN]))
            else:
                (samples / f"{name}.png").unlink(missing_ok=True)
        confusion = np.asarray(evaluation.sums["confusion"])
        count, confidence, correct = map(np.asarray, evaluation.sums["calibration"])
        sections: list[Section] = [
            Gallery("Mistakes", wrong, "Those made with the greatest confidence come first."),
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
