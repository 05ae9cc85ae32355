"""The page and pictures of a segmentation run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.conventions import IGNORED
from cnn_jax.data.decode import as_rgb
from cnn_jax.data.source import Source
from cnn_jax.metrics import segmentation as metrics
from cnn_jax.metrics.classification import class_figures
from cnn_jax.reports import masks
from cnn_jax.reports.confusion import ConfusionMatrix
from cnn_jax.reports.html import Html, join, tag
from cnn_jax.reports.page import Section, Table
from cnn_jax.reports.per_class import write_per_class
from cnn_jax.reports.pictures import data_uri, save
from cnn_jax.reports.report import Evaluation, write_report
from cnn_jax.reports.rows import RowsFile
from cnn_jax.runs.folder import SAMPLES
from cnn_jax.runs.names import show

DRAWN = 8
"""The number of images in each section."""
PAGE_WIDTH = 1000
"""The width of the four views in the page, in pixels."""


@dataclass(frozen=True)
class Shown:
    """An image with the truth and the prediction.

    Attributes:
        index: the position in the source.
        accuracy: the share of right pixels among those not ignored.
        image: the image, RGB.
        truth, predicted: the masks.
    """

    index: int
    accuracy: float
    image: masks.Picture
    truth: masks.Mask
    predicted: masks.Mask

    def views(self, num_classes: int) -> masks.Picture:
        """Draw the four views."""
        return masks.side_by_side(self.image, self.truth, self.predicted, num_classes)


@dataclass(frozen=True)
class Panels:
    """A section of images in four views.

    Attributes:
        title: the heading.
        shown: the images, in order.
        source: the examples' source, which names their origin.
        note: the line above them.
    """

    title: str
    shown: Sequence[Shown]
    source: Source
    note: str = ""

    def html(self) -> Html:
        names = self.source.class_names
        parts = [tag("p", self.note, class_="note"), legend(names)]
        for item in self.shown:
            picture = tag(
                "img",
                src=data_uri(item.views(len(names)), PAGE_WIDTH),
                alt=", ".join(masks.VIEWS),
                style="width:100%",
            )
            accuracy = show("pixel_accuracy", item.accuracy)
            caption = f"{self.source.describe(item.index)}: {accuracy} of the pixels right"
            image = Html(picture.removesuffix("</img>"))
            parts.append(tag("figure", image, tag("figcaption", caption)))
        return join(parts)


def legend(class_names: Sequence[str]) -> Html:
    """Explain the colours of the classes and the views."""
    views = f"From left to right: {', '.join(masks.VIEWS)} (red). Black pixels are ignored."
    return join([masks.key(class_names), tag("p", views, class_="note")])


@runtime_checkable
class Details(Protocol):
    """The details of an evaluation (see `cnn_jax.tasks.segmentation.SegmentationDetails`)."""

    pixels: metrics.ClassPixels
    probability: np.ndarray


class SegmentationReport:
    """A writer of `report.html` and `samples/*.png` after each evaluation.

    Args:
        directory: the run's folder.
        source: the evaluated examples.
        predictions: the file of a row for each example, if there is to be one.
    """

    def __init__(
        self, directory: str | Path, source: Source, predictions: RowsFile | None = None
    ) -> None:
        self.directory = Path(directory)
        self.predictions = predictions
        self.source = source
        spread = np.linspace(0, len(source) - 1, min(DRAWN, len(source)))
        self._spread = set(spread.round().astype(int).tolist())
        self._restart()

    def _restart(self) -> None:
        self._worst: list[Shown] = []
        self._sample: list[Shown] = []

    def select(self, batch: Mapping[str, np.ndarray], log_probabilities: Any) -> None:
        """Select pictures from a batch of an evaluation.

        Args:
            batch: `index`, `image`, `mask` and `valid` of its examples.
            log_probabilities: floats [batch, height, width, classes].
        """
        predicted = np.asarray(log_probabilities).argmax(-1).astype(np.uint8)
        for row in np.flatnonzero(np.asarray(batch["valid"])):
            truth = np.asarray(batch["mask"][row])
            counted = truth != IGNORED
            right = (truth == predicted[row]) & counted
            index = int(batch["index"][row])
            accuracy = float(right.sum() / counted.sum()) if counted.any() else 1.0
            worst = len(self._worst) < DRAWN or accuracy < self._worst[-1].accuracy
            if not worst and index not in self._spread:
                continue
            image = _middle(as_rgb(np.asarray(batch["image"][row])), truth.shape)
            item = Shown(index, accuracy, image, truth.copy(), predicted[row].copy())
            if index in self._spread:
                self._sample.append(item)
            if worst:
                self._worst.append(item)
                self._worst.sort(key=lambda shown: (shown.accuracy, shown.index))
                del self._worst[DRAWN:]

    def write(self, step: int, evaluation: Evaluation) -> None:
        """Write the page and the pictures of an evaluation.

        Args:
            step: the number of updates made.
            evaluation: its metrics and its `confusion`. The pictures are those that `select` has
                chosen since the last call.
        """
        names = self.source.class_names
        worst, sample = self._worst, sorted(self._sample, key=lambda shown: shown.index)
        self._restart()
        for name, items in (("worst", worst), ("some", sample)):
            rows = [item.views(len(names)) for item in items]
            save(self.directory / SAMPLES / f"{name}.png", masks.sheet(rows, names))
        confusion = np.asarray(evaluation.sums["confusion"])
        sections: list[Section] = [
            Panels("Sample", sample, self.source, "Evenly spread over the set."),
            Panels("Worst", worst, self.source, "The fewest pixels right."),
            by_class(confusion, names),
            ConfusionMatrix("Confusion matrix (pixels)", confusion, names),
        ]
        write_report(self.directory, sections=sections)
        figures = class_figures(confusion)._asdict()
        union = metrics.intersection_over_union(confusion)
        write_per_class(self.directory, step, names, {**figures, "iou": union})
        if self.predictions is not None:
            self.predictions.write(self._rows(evaluation.details))

    def _rows(self, details: Details) -> Iterator[dict[str, Any]]:
        """Name, true and predicted shares, mean probability, accuracy and IoU of each image."""
        names = self.source.class_names

        def by_name(part: np.ndarray, whole: np.ndarray) -> dict[str, float | None]:
            shares = np.divide(part, whole, out=np.full(len(names), np.nan), where=whole > 0)
            return dict(zip(names, shares, strict=True))

        counts = zip(*details.pixels, details.probability, strict=True)
        for index, (right, predicted, true, probability) in enumerate(counts):
            pixels = np.full(len(names), true.sum())
            yield {
                "name": self.source.describe(index),
                "truth": by_name(true, pixels),
                "prediction": by_name(predicted, pixels),
                "probability": probability,
                "pixel_accuracy": right.sum() / max(true.sum(), 1),
                "iou": by_name(right, predicted + true - right),
            }


def by_class(confusion: np.ndarray, names: Sequence[str]) -> Table:
    """Tabulate IoU and accuracy of each class, lowest IoU first; absent classes come last."""
    union = metrics.intersection_over_union(confusion)
    accuracy = metrics.per_class_accuracy(confusion)
    pixels = confusion.sum(axis=1)
    rows = [
        [
            names[i],
            f"{100 * pixels[i] / max(pixels.sum(), 1):.2f} %",
            show("pixel_accuracy", float(accuracy[i])),
            show("mean_iou", float(union[i])),
        ]
        for i in np.argsort(union, kind="stable")
    ]
    note = "The means exclude classes that are neither in a mask nor predicted."
    return Table("By class", ["class", "of the pixels", "accuracy", "IoU"], rows, note)


def _middle(image: np.ndarray, size: tuple[int, ...]) -> masks.Picture:
    """Cut out the part of an image that its mask covers."""
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]].copy()
