"""Confusion of classes: the matrix, its worst pairs, the accuracy of each class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cnn_jax.reports.html import Html, bar, join, tag
from cnn_jax.reports.page import Table

# A matrix of more classes would be illegible; only its worst pairs are shown.
MAX_CLASSES = 100
# Up to this many classes, the cells have room for their counts.
MAX_NUMBERED = 16
MAX_BARS = 60

Counts = Int[np.ndarray, "classes classes"]


@dataclass(frozen=True)
class ConfusionMatrix:
    """A section with the matrix as a heat map (up to `MAX_CLASSES`) and its worst pairs.

    Attributes:
        title: the heading.
        counts: the counts; rows are true classes, columns predicted ones.
        class_names: the names of the classes in that order.
    """

    title: str
    counts: Counts
    class_names: Sequence[str]

    def html(self) -> Html:
        parts = []
        if len(self.class_names) <= MAX_CLASSES:
            note = (
                f"{int(self.counts.sum()):,} examples. Rows are the truth, columns the prediction; "
                "colours show the share of the row."
            )
            map_and_note = (_heat_map(self.counts, self.class_names), tag("p", note, class_="note"))
            parts = [tag("div", *map_and_note)]
        rows = [
            (
                self.class_names[truth],
                self.class_names[prediction],
                f"{count:,}",
                f"{100 * count / self.counts[truth].sum():.1f} %",
            )
            for truth, prediction, count in worst_pairs(self.counts)
        ]
        if rows:
            header = ("truth", "taken for", "times", "of the class")
            table = Table("", header, rows, left=2).html()
            parts.append(tag("div", tag("h3", "Most often confused"), table))
        return tag("div", *parts, class_="beside")


@dataclass(frozen=True)
class ClassAccuracy:
    """A section with a bar for the accuracy of each class, lowest first.

    Attributes:
        title: the heading.
        counts: the counts; rows are true classes, columns predicted ones.
        class_names: the names of the classes in that order.
    """

    title: str
    counts: Counts
    class_names: Sequence[str]

    def html(self) -> Html:
        examples = self.counts.sum(axis=1)
        present = np.flatnonzero(examples)
        accuracy = np.diagonal(self.counts)[present] / examples[present]
        order = np.argsort(accuracy, kind="stable")
        bars = [
            bar(
                self.class_names[present[i]],
                float(accuracy[i]),
                f"{100 * accuracy[i]:.1f} % of {int(examples[present[i]]):,}",
            )
            for i in order
        ]
        parts = [tag("div", *bars[:MAX_BARS], class_="bars")]
        if len(bars) > MAX_BARS:
            rest = tag("div", *bars[MAX_BARS:], class_="bars")
            summary = tag("summary", f"the other {len(bars) - MAX_BARS} classes")
            parts.append(tag("details", summary, rest))
        if len(present) < len(examples):
            absent = len(examples) - len(present)
            parts.append(tag("p", f"{absent} classes have no examples in this set", class_="note"))
        return join(parts)


def worst_pairs(counts: Counts, most: int = 10) -> list[tuple[int, int, int]]:
    """List the most confused pairs (truth, prediction, count), most frequent first."""
    errors = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = [divmod(int(cell), len(counts)) for cell in order]
    return [(t, p, int(errors[t, p])) for t, p in pairs if errors[t, p] > 0]


def _heat_map(counts: Counts, class_names: Sequence[str]) -> Html:
    size = len(class_names)
    numbered = size <= MAX_NUMBERED
    cell = 44 if numbered else max(9, min(18, 1000 // size))
    font = 12 if numbered else max(8, min(12, cell - 3))
    names = [_cut(name) for name in class_names]
    margin = math.ceil(max(map(len, names)) * 0.6 * font) + 10
    side = margin + size * cell
    parts = [
        *_labels(names, margin, cell, font),
        tag("rect", x=margin, y=margin, width=size * cell, height=size * cell, class_="cell"),
    ]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for truth, prediction in np.argwhere(counts):
        share, count = float(shares[truth, prediction]), int(counts[truth, prediction])
        hit = truth == prediction
        x, y = margin + int(prediction) * cell, margin + int(truth) * cell
        taken = "right" if hit else f"taken for {class_names[prediction]}"
        tip = f"{class_names[truth]} {taken}: {count:,} ({100 * share:.1f} %)"
        # Errors are rare: the root makes them visible. Right cells show the share itself.
        strength = share if hit else math.sqrt(share)
        parts.append(
            tag(
                "rect",
                tag("title", tip),
                x=x,
                y=y,
                width=cell - (cell > 12),
                height=cell - (cell > 12),
                class_="hit" if hit else "miss",
                fill_opacity=max(strength, 0.12),
            )
        )
        if numbered:
            style = "fill:var(--page)" if strength > 0.55 else None
            centre = {"x": x + cell / 2, "y": y + cell / 2 + 4, "text_anchor": "middle"}
            parts.append(tag("text", f"{count}", **centre, style=style, pointer_events="none"))
    drawing = tag(
        "svg", *parts, viewBox=f"0 0 {side} {side}", class_="matrix", style=f"width:{side}px"
    )
    return tag("div", drawing, class_="wide")


def _labels(names: Sequence[str], margin: int, cell: int, font: int) -> list[Html]:
    """Draw the names of the rows and, rotated, those of the columns."""
    parts = []
    for i, name in enumerate(names):
        middle = margin + (i + 0.5) * cell
        style = f"font-size:{font}px"
        across = {"x": margin - 6, "y": middle + font * 0.35}
        parts.append(tag("text", name, **across, text_anchor="end", style=style))
        # Rotated about the top end of the column.
        along = {"x": middle + 6, "y": margin + font * 0.35}
        turn = f"rotate(-90 {middle} {margin})"
        parts.append(tag("text", name, **along, transform=turn, style=style))
    return parts


def _cut(name: str, length: int = 24) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
