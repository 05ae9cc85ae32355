"""The page and pictures of a multi-label classification run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cnn_jax.data.decode import as_rgb
from cnn_jax.data.source import Source
from cnn_jax.metrics import annotation as metrics
from cnn_jax.metrics.annotation import PrecisionRecall
from cnn_jax.reports.curves import Chart, Curves, Line
from cnn_jax.reports.page import Section, Table
from cnn_jax.reports.pictures import Gallery, Guess, draw_guesses, save
from cnn_jax.reports.report import write_report
from cnn_jax.runs.folder import SAMPLES
from cnn_jax.runs.names import in_order, metric, show

DRAWN = 18
MAX_LABELS = 24
"""The largest number of charts, and of rows in a table of labels."""
PAIRS = 12

Truth = Bool[np.ndarray, "examples labels"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an evaluation of a whole set, as it is shown.

    Attributes:
        metrics: the figures.
        probabilities: the scores as people read them, in 0..1.
        predicted, truth: the labels given, and those that hold.
        curves: precision and recall of each label.
        average_precisions: the areas below them.
        thresholds: the probability that each label had to reach; empty for a fixed number.
        rule: the decision rule in words.
    """

    metrics: Mapping[str, float]
    probabilities: Float[np.ndarray, "examples labels"]
    predicted: Truth
    truth: Truth
    curves: PrecisionRecall
    average_precisions: Float[np.ndarray, " labels"]
    thresholds: Sequence[float]
    rule: str


@dataclass(frozen=True)
class Tagged(Guess):
    """A picture with its predicted labels.

    Attributes:
        labels: the true labels.
    """

    labels: frozenset[str] = frozenset()

    @property
    def right(self) -> bool:
        """True if the predicted labels are exactly the true ones."""
        return {name for name, _ in self.guesses} == self.labels

    def mark(self, rank: int) -> bool | None:
        """Return whether a predicted label is true."""
        return self.guesses[rank][0] in self.labels


def write(
    directory: Path,
    source: Source,
    transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    outcome: Outcome,
) -> None:
    """Write `report.html` and `samples/*.png` of an evaluation.

    Args:
        directory: the run's folder.
        source: the examples evaluated.
        transform: the preparation of an example for the network: one crop.
        outcome: the outcome of the evaluation.
    """
    names = source.class_names
    worst, sample = _pictures(source, transform, outcome)
    for name, guesses in (("worst", worst), ("random", sample)):
        save(directory / SAMPLES / f"{name}.png", draw_guesses(guesses))
    sections: list[Section] = [
        floors(outcome),
        Gallery("Worst", worst, "The lowest F1; among equals, the most confident first."),
        Gallery("Sample", sample, "Evenly spread over the set."),
        by_label(outcome, names),
        precision_recall_curves(outcome, names),
        confused(outcome, names),
        together(outcome.truth, names),
    ]
    write_report(directory, sections=sections)


def figures(outcome: Outcome) -> dict[str, np.ndarray]:
    """The figures of each label; 0/0 counts as 0."""
    counts = metrics.counts_by_label(outcome.predicted, outcome.truth)
    right, predicted, true = (np.asarray(count, np.float64) for count in counts)
    return {
        "precision": metrics.precision(counts),
        "recall": metrics.recall(counts),
        "f1": 2 * right / np.maximum(predicted + true, 1),
        "average_precision": outcome.average_precisions,
        "support": np.asarray(counts.true),
    }


def rows(outcome: Outcome, source: Source) -> Iterator[dict[str, Any]]:
    """Name, true labels, labels given, and the probability of every label, of each example."""
    names = np.array(source.class_names)
    for index, probabilities in enumerate(outcome.probabilities):
        yield {
            "name": source.describe(index),
            "truth": names[outcome.truth[index]].tolist(),
            "prediction": names[outcome.predicted[index]].tolist(),
            "probability": dict(zip(source.class_names, probabilities, strict=True)),
        }


def floors(outcome: Outcome, ks: Sequence[int] = ()) -> Table:
    """Compare the run's figures with a constant predictor and the best possible one.

    Args:
        outcome: the outcome of the evaluation.
        ks: the numbers of labels of those two predictors; by default the numbers next to the mean
            number of labels in an image, and the number predicted if it is constant.
    """
    truth, predicted = outcome.truth, outcome.predicted
    if not ks:
        mean = max(1, round(float(truth.sum(axis=1).mean())))
        given = set(predicted.sum(axis=1).tolist())
        ks = sorted({mean, min(mean + 1, truth.shape[1])} | (given if len(given) == 1 else set()))
        ks = [k for k in ks if k > 0]
    columns = {"this run": dict(outcome.metrics)}
    for k in ks:
        columns[f"constant, {k}"] = metrics.summarize(metrics.constant(truth, k), truth)
        columns[f"best, {k}"] = metrics.summarize(metrics.best_possible(truth, k), truth)
    keys = in_order(next(reversed(columns.values())))
    if "map" in outcome.metrics:
        keys = ["map", *keys]
    rows = [
        [metric(key).label, *(show(key, c[key]) if key in c else "" for c in columns.values())]
        for key in keys
    ]
    note = (
        f"Labels are predicted by {outcome.rule}. constant, k: the k most frequent labels for "
        "every image (a floor); best, k: an oracle that must predict exactly k labels (a ceiling "
        "for a fixed number). 0/0 counts as 0."
    )
    return Table("Between floor and ceiling", ["", *columns], rows, note)


def by_label(outcome: Outcome, names: Sequence[str]) -> Table:
    """Tabulate the figures of each label, lowest average precision first."""
    counts = metrics.counts_by_label(outcome.predicted, outcome.truth)
    precision, recall = metrics.precision(counts), metrics.recall(counts)
    rows = []
    for i in _hardest_first(outcome):
        threshold = f"{outcome.thresholds[i]:.3f}" if len(outcome.thresholds) else ""
        figures = (
            show("class_precision", float(precision[i])),
            show("class_recall", float(recall[i])),
            show("map", float(outcome.average_precisions[i])),
        )
        rows.append([names[i], f"{int(counts.true[i]):,}", threshold, *figures])
    header = ["label", "images", "threshold", "precision", "recall", "average precision"]
    return Table("By label", header, rows)


def precision_recall_curves(outcome: Outcome, names: Sequence[str]) -> Curves:
    """Plot each label's highest precision at each recall or above, hardest labels first."""
    charts = []
    levels = np.linspace(0, 1, 101)
    for i in _hardest_first(outcome)[:MAX_LABELS]:
        if not outcome.truth[:, i].any():
            continue
        curve = PrecisionRecall(*(np.asarray(column[i]) for column in outcome.curves))
        precision, recall = (x[curve.is_threshold] for x in (curve.precision, curve.recall))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.minimum(np.searchsorted(recall, levels - 1e-12), len(best) - 1)
        line = Line("precision at full recall", (100 * levels).tolist(), best[at].tolist())
        label = f"{names[i]}: average precision {show('map', float(outcome.average_precisions[i]))}"
        charts.append(Chart("precision", [line], label))
    return Curves("Precision over recall (in %)", charts)


def confused(outcome: Outcome, names: Sequence[str]) -> Table:
    """List which label was missed and which was predicted instead, most frequent pair first."""
    counts = metrics.confusions(outcome.predicted, outcome.truth)
    missed = (outcome.truth & ~outcome.predicted).sum(axis=0)
    rows = [
        [names[i], names[k], f"{count:,}", f"{100 * count / missed[i]:.0f} %"]
        for i, k, count in _largest(counts)
    ]
    header = ["missed", "predicted instead", "images", "of the times missed"]
    return Table("Worst confusions", header, rows, "" if rows else "None.", left=2)


def together(truth: Truth, names: Sequence[str]) -> Table:
    """Tabulate how often labels occur together, in per cent of the row's images."""
    counts = metrics.cooccurrence(truth)
    if len(names) <= MAX_LABELS:
        rows = [
            [names[i], *(_share(count, row[i], i == k) for k, count in enumerate(row))]
            for i, row in enumerate(counts.tolist())
        ]
        note = "The share of the images with the row's label that also have the column's label."
        return Table("Labels together", ["", *names], rows, note)
    pairs = np.triu(counts, 1)
    rows = [[names[i], names[k], f"{count:,}"] for i, k, count in _largest(pairs)]
    return Table("Labels together", ["label", "and", "images"], rows, left=2)


def _share(count: int, images: int, diagonal: bool) -> str:
    if diagonal:
        return f"{images:,} images"
    return f"{100 * count / images:.0f} %" if images else ""


def _largest(counts: Int[np.ndarray, "labels labels"]) -> list[tuple[int, int, int]]:
    """Return the cells that are not 0, largest first."""
    order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [(i, k, int(counts[i, k])) for i, k in cells if counts[i, k]]


def _hardest_first(outcome: Outcome) -> list[int]:
    """The labels by average precision, lowest first."""
    return np.argsort(outcome.average_precisions, kind="stable").tolist()


def _pictures(
    source: Source, transform: Callable[..., Mapping[str, Any]], outcome: Outcome
) -> tuple[list[Tagged], list[Tagged]]:
    """Select the (worst, evenly spread) examples."""
    names, truth, predicted = source.class_names, outcome.truth, outcome.predicted
    correct = (truth & predicted).sum(axis=1)
    wrong = (truth ^ predicted).sum(axis=1)
    f1 = 2 * correct / np.maximum(truth.sum(axis=1) + predicted.sum(axis=1), 1)
    clearness = np.abs(outcome.probabilities - 0.5).mean(axis=1)
    order = np.lexsort((-clearness, f1))
    worst = [int(i) for i in order if wrong[i]][:DRAWN]
    spread = np.unique(np.linspace(0, len(truth) - 1, DRAWN).round().astype(int)).tolist()

    def tagged(index: int) -> Tagged:
        labels = [names[i] for i in np.flatnonzero(truth[index])]
        given = np.flatnonzero(predicted[index])
        given = given[np.argsort(-outcome.probabilities[index, given], kind="stable")]
        guesses = [(names[i], float(outcome.probabilities[index, i])) for i in given]
        return Tagged(
            image=as_rgb(transform(source[index])["image"]),
            truth=", ".join(labels) or "no label",
            guesses=guesses,
            where=source.describe(index),
            labels=frozenset(labels),
        )

    return [tagged(i) for i in worst], [tagged(i) for i in spread]
