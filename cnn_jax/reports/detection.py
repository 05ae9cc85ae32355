"""The page and pictures of a detection run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from cnn_jax.data.decode import as_rgb
from cnn_jax.data.resize import resize
from cnn_jax.data.source import Source
from cnn_jax.data.transforms import whole_size
from cnn_jax.metrics.detection import counts as metrics
from cnn_jax.metrics.detection.coco import CocoResult
from cnn_jax.metrics.detection.errors import KINDS, error_kinds
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.metrics.detection.voc import VocResult
from cnn_jax.reports.boxes import MISSED, TRUTH, Mark, Scene, Scenes, draw_boxes, sheet
from cnn_jax.reports.confusion import ConfusionMatrix
from cnn_jax.reports.curves import Chart, Curves, Line
from cnn_jax.reports.page import Section, Table
from cnn_jax.reports.pictures import RIGHT, WRONG, save
from cnn_jax.reports.report import write_report
from cnn_jax.runs.folder import SAMPLES
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
    predicted: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]

    def __len__(self) -> int: ...


@runtime_checkable
class Details(Protocol):
    """The details of an evaluation (see `cnn_jax.tasks.detection.evaluation.DetectionDetails`)."""

    whole: DetectedSet
    voc: VocResult
    coco: CocoResult
    decided: Decided
    score_threshold: float
    chosen_here: bool


def write(
    directory: Path, source: Source, details: Details, similar: Sequence[Sequence[int]] = ()
) -> None:
    """Write `report.html` and `samples/*.png` of an evaluation.

    Args:
        directory: the run's folder.
        source: the examples evaluated, their boxes in pixels of the original images.
        details: those of the evaluation.
        similar: sets of labels that are taken for similar.
    """
    names = source.class_names
    worst, spread = scenes(source, details)
    for name, drawn in (("worst", worst), ("some", spread)):
        save(directory / SAMPLES / f"{name}.png", sheet(drawn))
    sections: list[Section] = [
        Scenes("Worst", worst, f"The most mistakes. {_LEGEND}"),
        Scenes("Sample", spread, "Evenly spread over the set."),
        by_class(details, names),
        counting(details, names),
        precision_recall_curves(details.voc, names),
        ConfusionMatrix(
            "Confusion, background included (overlap above 0.45)",
            np.asarray(details.decided.confusion),
            (*names, "background"),
        ),
        kinds(details, names, similar),
    ]
    write_report(directory, sections=sections)


def figures(details: Details) -> dict[str, np.ndarray]:
    """The figures of each class; nan where nothing was detected, or there is nothing to detect.

    Precision, recall and F1 are of detections above the score threshold, at an IoU of 0.5.
    """
    coco, matches = details.coco, details.decided.matches
    return {
        **metrics.precision_recall_by_class(matches)._asdict(),
        "ap50": details.voc.by_class(),
        "ap50_11point": details.voc.by_class("11point"),
        "coco_ap": coco.by_class(),
        "coco_ap50": coco.by_class(0.5),
        "coco_ap75": coco.by_class(0.75),
        "support": np.asarray(matches.objects),
    }


def rows(whole: DetectedSet, source: Source) -> Iterator[dict[str, Any]]:
    """Name, objects, detections and their scores of each image; boxes as [x1, y1, x2, y2]."""
    names = source.class_names

    def listed(found: Mapping[str, np.ndarray], index: int) -> list[dict[str, Any]]:
        valid = found["valid"][index]
        pairs = zip(found["labels"][index][valid], found["boxes"][index][valid], strict=True)
        return [{"class": names[label], "box": box} for label, box in pairs]

    for index in range(len(whole)):
        scores = whole.predicted["scores"][index][whole.predicted["valid"][index]]
        yield {
            "name": source.describe(index),
            "truth": listed(whole.truth, index),
            "prediction": listed(whole.predicted, index),
            "probability": scores,
        }


def by_class(details: Details, names: Sequence[str]) -> Table:
    """Tabulate the figures of each class, lowest average precision first."""
    voc, decided = details.voc, details.decided
    columns = {
        "AP at IoU 0.5": voc.by_class(),
        "11 points": voc.by_class("11point"),
        "COCO AP": details.coco.by_class(),
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
        f"Precision, recall and F1 of detections with {_rule(details)}. A dash means that "
        "the class has no objects or no detections."
    )
    return Table("By class", ["class", "objects", *columns], rows, note)


def counting(details: Details, names: Sequence[str]) -> Table:
    """Tabulate the errors of the number of objects of a class in an image."""
    summary = metrics.count_summary(details.decided.count_errors)
    truth = np.asarray(details.decided.matches.objects) / len(details.whole)
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
    note = f"Detections with {_rule(details)} are counted. A positive bias is an overcount."
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


def kinds(details: Details, names: Sequence[str], similar: Sequence[Sequence[int]]) -> Table:
    """Tabulate the kinds of mistakes of the best detections (Redmon et al. 2016, section 4.2)."""
    whole, matches = details.whole, details.voc.matches
    counts = error_kinds(whole.detections, whole.objects, matches, len(names), similar)
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


def scenes(source: Source, details: Details) -> tuple[list[Scene], list[Scene]]:
    """Draw the boxes of the worst and of evenly spread examples."""
    every, objects, matches = details.whole.detections, details.whole.objects, details.voc.matches
    # Matching goes by falling score: lower detections change nothing for those that count.
    counts = np.flatnonzero(every.scores >= np.float32(details.score_threshold))
    kept, index, first = every[counts], matches.index[counts], matches.first[counts]
    forgiven = matches.ignored(objects)[counts]
    right = first & ~forgiven
    ignored = objects.is_ignored()
    missed = ~ignored
    missed[index[first]] = False

    count = len(details.whole)
    wrong = np.bincount(kept.image[~right & ~forgiven], minlength=count)
    mistakes = wrong + np.bincount(objects.image[missed], minlength=count)
    worst = np.argsort(-mistakes, kind="stable")[:DRAWN]
    spread = np.unique(np.linspace(0, count - 1, DRAWN).round().astype(int))

    def scene(index: int) -> Scene:
        picture, scale = _shown(source[index])
        marks = []
        for i in np.flatnonzero(objects.image == index):
            if ignored[i] or missed[i]:
                name = source.class_names[objects.labels[i]]
                color = TRUTH if ignored[i] else MISSED
                marks.append(Mark(objects.boxes[i] * scale, name, color))
        for i in np.flatnonzero(kept.image == index)[::-1]:
            text = f"{source.class_names[kept.labels[i]]} {min(kept.scores[i], 1):.2f}"
            color = RIGHT if right[i] else TRUTH if forgiven[i] else WRONG
            marks.append(Mark(kept.boxes[i] * scale, text, color))
        caption = (
            f"{int(wrong[index])} wrong, {int(mistakes[index] - wrong[index])} missed of "
            f"{int(np.sum((objects.image == index) & ~ignored))}"
        )
        return Scene(
            draw_boxes(picture, marks), caption, source.describe(index), right=not mistakes[index]
        )

    return [scene(int(i)) for i in worst if mistakes[i]], [scene(int(i)) for i in spread]


def _shown(example: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The picture of an example in its true shape, and the factors of the corners of its boxes."""
    picture, whole = as_rgb(example["image"]), np.array(whole_size(example))
    if "size" in example:
        factor = min(1.0, max(picture.shape[:2]) / whole.max())
        rows, columns = np.maximum(1, (whole * factor).round().astype(int)).tolist()
        picture = resize(picture, (rows, columns))
    height, width = np.array(picture.shape[:2]) / whole
    return picture, np.array([width, height, width, height])


def _rule(details: Details) -> str:
    """The score threshold in words."""
    chosen = " (chosen on the same images for the least count error)"
    return f"a score of {details.score_threshold:g} or more{chosen if details.chosen_here else ''}"


def _hardest_first(voc: VocResult) -> list[int]:
    """Sort the classes by average precision; those without objects come last."""
    return np.argsort(voc.by_class(), kind="stable").tolist()
