"""The page and pictures of a detection run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.data.source import Source
from cnn_jax.metrics.detection import counts as metrics
from cnn_jax.metrics.detection.coco import evaluate_coco
from cnn_jax.metrics.detection.errors import KINDS, error_kinds
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.metrics.detection.voc import VocResult, voc_matches
from cnn_jax.reports.boxes import MISSED, TRUTH, Mark, Scene, Scenes, draw_boxes, sheet
from cnn_jax.reports.confusion import ConfusionMatrix
from cnn_jax.reports.curves import Chart, Curves, Line
from cnn_jax.reports.page import Section, Table
from cnn_jax.reports.pictures import RIGHT, WRONG, save
from cnn_jax.reports.report import write_report
from cnn_jax.runs.names import show

DRAWN = 12
MAX_CHARTS = 24
"""The largest number of charts; the hardest classes are shown."""

_LEGEND = (
    "Green: right (IoU above 0.5, the right class, the first on its object); red: wrong; orange: "
    "a missed object; grey: an ignored object, whose detection is optional."
)


@runtime_checkable
class Decided(Protocol):
    """The counts for a set at one score threshold."""

    matches: metrics.MatchCounts
    count_errors: metrics.CountErrors
    confusion: Any


@runtime_checkable
class DetectedSet(Protocol):
    """The detections and objects of a set (see `cnn_jax.tasks.detection.evaluation`)."""

    detections: DetectionRows
    objects: ObjectRows
    objects_for_coco: ObjectRows

    def __len__(self) -> int: ...

    def voc(self, num_classes: int) -> VocResult: ...

    def decide(self, threshold: float, num_classes: int) -> Decided: ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of an evaluation.

    Attributes:
        whole: the detections and objects of the set.
        threshold: the least score of a counted detection.
        chosen_here: whether that score was chosen on this set.
        similar: groups of labels of similar classes.
    """

    whole: DetectedSet
    threshold: float
    chosen_here: bool
    similar: Sequence[Sequence[int]] = ()

    @cached_property
    def kept(self) -> DetectionRows:
        """The counted detections."""
        detections = self.whole.detections
        return detections[detections.scores >= np.float32(self.threshold)]

    def rule(self) -> str:
        """Describe the threshold in words."""
        chosen = " (chosen on the same images for the least count error)"
        return f"a score of {self.threshold:g} or more{chosen if self.chosen_here else ''}"


def write(directory: Path, source: Source, outcome: Outcome) -> None:
    """Write `report.html` and `samples/*.png` of an evaluation.

    Args:
        directory: the run's folder.
        source: the evaluated examples, with boxes in pixels of the original images.
        outcome: the outcome of the evaluation.
    """
    names = source.class_names
    voc = outcome.whole.voc(len(names))
    decided = outcome.whole.decide(outcome.threshold, len(names))
    worst, sample = scenes(source, outcome)
    for name, drawn in (("worst", worst), ("some", sample)):
        save(directory / "samples" / f"{name}.png", sheet(drawn))
    sections: list[Section] = [
        Scenes("Worst", worst, f"The most mistakes. {_LEGEND}"),
        Scenes("Sample", sample, "Evenly spread over the set."),
        by_class(outcome, voc, decided, names),
        counting(outcome, decided, names),
        precision_recall_curves(voc, names),
        ConfusionMatrix(
            "Confusion, background included (overlap above 0.45)",
            np.asarray(decided.confusion),
            (*names, "background"),
        ),
        kinds(outcome, names),
    ]
    write_report(directory, sections=sections)


def by_class(outcome: Outcome, voc: VocResult, decided: Decided, names: Sequence[str]) -> Table:
    """Tabulate the figures of each class, lowest average precision first."""
    coco = evaluate_coco(outcome.whole.detections, outcome.whole.objects_for_coco, len(names))
    columns = {
        "AP at IoU 0.5": voc.by_class(),
        "11 points": voc.by_class("11point"),
        "COCO AP": coco.by_class(),
        **dict(
            zip(
                ("precision", "recall", "F1"),
                metrics.precision_recall_by_class(decided.matches),
                strict=True,
            )
        ),
    }
    objects = np.asarray(decided.matches.objects)
    rows = [
        [names[i], f"{int(objects[i]):,}", *(show("map50", float(c[i])) for c in columns.values())]
        for i in _hardest_first(voc)
    ]
    note = (
        f"Precision, recall and F1 of detections with {outcome.rule()}. A dash means that the "
        "class has no objects or no detections."
    )
    return Table("By class", ["class", "objects", *columns], rows, note)


def counting(outcome: Outcome, decided: Decided, names: Sequence[str]) -> Table:
    """Tabulate the errors in the number of objects of each class in an image."""
    summary = metrics.count_summary(decided.count_errors)
    truth = np.asarray(decided.matches.objects) / len(outcome.whole)
    rows = [
        [
            name,
            f"{truth[i]:.2f}",
            f"{summary.mean_absolute_error[i]:.3f}",
            f"{summary.root_mean_square_error[i]:.3f}",
            f"{summary.bias[i]:+.3f}",
            show("count_exact", float(summary.exact[i])),
        ]
        for i, name in enumerate(names)
    ]
    header = ["class", "objects an image", "mean absolute error", "RMS error", "bias", "exact"]
    note = f"Detections with {outcome.rule()} are counted. A positive bias is an overcount."
    return Table("Counting", header, rows, note)


def precision_recall_curves(voc: VocResult, names: Sequence[str]) -> Curves:
    """Plot each class's highest precision at each recall or above, hardest classes first."""
    charts = []
    levels = np.linspace(0, 1, 101)
    averages = voc.by_class()
    for i in _hardest_first(voc)[:MAX_CHARTS]:
        curve = voc.curves[i]
        if not curve.objects:
            continue
        best = np.maximum.accumulate(curve.precision[::-1])[::-1]
        # Recalls that are not reached have precision 0.
        places = np.searchsorted(curve.recall, levels - 1e-12)
        values = np.append(best, 0.0)[places]
        line = Line("precision at full recall", (100 * levels).tolist(), values.tolist())
        label = f"{names[i]}: average precision {show('map50', float(averages[i]))}"
        charts.append(Chart("precision", [line], label))
    return Curves("Precision over recall (in %)", charts)


def kinds(outcome: Outcome, names: Sequence[str]) -> Table:
    """Tabulate the kinds of mistakes of the best detections (Redmon et al. 2016, section 4.2)."""
    whole = outcome.whole
    counts = error_kinds(whole.detections, whole.objects, len(names), outcome.similar)
    table = [*zip(names, counts, strict=True), ("all", counts.sum(axis=0))]
    rows = [
        [name, f"{int(row.sum()):,}", *(show("precision", v / max(row.sum(), 1)) for v in row)]
        for name, row in table
    ]
    note = (
        "For each class, as many of the best detections as it has objects. localization: the right "
        "class, with IoU from 0.1 to 0.5 or an object already matched; similar: a similar class, "
        "if groups of similar classes are given; other: IoU above 0.1 with an object of another "
        "class; background: the rest."
    )
    return Table("Kinds of mistakes", ["class", "detections", *KINDS], rows, note)


def scenes(source: Source, outcome: Outcome) -> tuple[list[Scene], list[Scene]]:
    """Draw the boxes of the (worst, evenly spread) examples."""
    kept, objects = outcome.kept, outcome.whole.objects
    matched, first, order = voc_matches(kept, objects)
    ignored = objects.is_ignored()
    right, forgiven = np.zeros(len(kept), bool), np.zeros(len(kept), bool)
    if len(objects):
        forgiven[order] = (matched >= 0) & ignored[matched]
    right[order] = first
    right &= ~forgiven
    missed = ~ignored
    missed[matched[first & (matched >= 0)]] = False

    count = len(outcome.whole)
    wrong = np.bincount(kept.image[~right & ~forgiven], minlength=count)
    mistakes = wrong + np.bincount(objects.image[missed], minlength=count)
    worst = np.argsort(-mistakes, kind="stable")[:DRAWN]
    spread = np.unique(np.linspace(0, count - 1, DRAWN).round().astype(int))

    def scene(index: int) -> Scene:
        marks = []
        for i in np.flatnonzero(objects.image == index):
            if ignored[i] or missed[i]:
                name = source.class_names[objects.labels[i]]
                color = TRUTH if ignored[i] else MISSED
                marks.append(Mark(objects.boxes[i], name, color))
        for i in np.flatnonzero(kept.image == index)[::-1]:
            text = f"{source.class_names[kept.labels[i]]} {min(kept.scores[i], 1):.2f}"
            color = RIGHT if right[i] else TRUTH if forgiven[i] else WRONG
            marks.append(Mark(kept.boxes[i], text, color))
        caption = (
            f"{int(wrong[index])} wrong, {int(mistakes[index] - wrong[index])} missed of "
            f"{int(np.sum((objects.image == index) & ~ignored))}"
        )
        picture = draw_boxes(source[index]["image"], marks)
        return Scene(picture, caption, source.describe(index), right=not mistakes[index])

    return [scene(int(i)) for i in worst if mistakes[i]], [scene(int(i)) for i in spread]


def _hardest_first(voc: VocResult) -> list[int]:
    """Sort the classes by average precision; those without objects come last."""
    return np.argsort(voc.by_class(), kind="stable").tolist()
