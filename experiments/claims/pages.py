"""The plot and the page of a claim's rows, and the README's table of all claims."""

import base64
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax import files
from cnn_jax.reports.html import Html, tag
from cnn_jax.reports.page import Section, Table, Text, render

from .claim import Claim
from .rows import Rows, value
from .verdict import Verdict, chosen, verdicts

PLOT, PAGE = "plot.png", "claim.html"


@dataclass(frozen=True)
class Point:
    """The values of one place of a plot's line, one a seed."""

    x: str
    values: Sequence[float]


def points(claim: Claim, rows: Rows) -> dict[str, list[Point]]:
    """The known values of a claim's plot, by line; places without values are left out."""
    found: dict[str, list[Point]] = {}
    for label, places in claim.plot.lines.items():
        for x, (setting, measure) in places.items():
            variant = chosen(claim, setting, rows)
            every = [variant and value(claim, rows, variant, seed, measure) for seed in claim.seeds]
            values = [each for each in every if each is not None]
            if values:
                found.setdefault(label, []).append(Point(x, values))
    return found


def plot(claim: Claim, rows: Rows) -> bytes | None:
    """The plot as PNG: a dot for each seed, a line through their means; None without a value."""
    # Imported here: it is slow, and a mistaken argument should be told at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = points(claim, rows)
    if not lines:
        return None
    texts = list(dict.fromkeys(x for places in claim.plot.lines.values() for x in places))
    numeric = all(_number(x) is not None for x in texts)
    place = {x: _number(x) if numeric else float(i) for i, x in enumerate(texts)}
    figure = Figure(figsize=(6, 4), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    for number, (label, line) in enumerate(lines.items()):
        color = f"C{number % 10}"
        means = [statistics.fmean(point.values) for point in line]
        axes.plot([place[p.x] for p in line], means, color=color, label=label, linewidth=1.4)
        dots = [(place[p.x], v) for p in line for v in p.values]
        axes.plot(*zip(*dots, strict=True), ".", color=color, alpha=0.6)
    if not numeric:
        axes.set_xticks(list(place.values()), texts)
    axes.set_xlabel(claim.plot.x)
    axes.set_ylabel(claim.plot.y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Picture:
    """A section with a PNG."""

    title: str
    png: bytes

    def html(self) -> Html:
        """The picture within the page."""
        text = base64.b64encode(self.png).decode()
        return tag("img", src=f"data:image/png;base64,{text}", alt=self.title, width="660")


def write(claim: Claim, rows: Rows, folder: Path) -> Path:
    """Write the plot and the page of a claim; return the page's path."""
    found = verdicts(claim, rows)
    lines = [[v.comparison.sentence, v.word, v.figure, str(len(v.effects))] for v in found]
    sections: list[Section] = [
        Table(
            "Verdict", ["comparison", "verdict", "effect (95 % interval)", "seeds"], lines, left=2
        )
    ]
    drawn = plot(claim, rows)
    if drawn is not None:
        files.replace(folder / PLOT, drawn)
        sections.append(_Picture("Plot", drawn))
    sections.append(Text("The paper", f"{claim.source}. {claim.paper}"))
    sections.append(Text("Data", claim.data))
    if claim.note:
        sections.append(Text("What differs from the paper", claim.note))
    sections.append(_values(claim, rows))
    files.replace(folder / PAGE, render(f"Claim {claim.name}", claim.claim, sections))
    return folder / PAGE


def _values(claim: Claim, rows: Rows) -> Table:
    """Every value, a row for each setting and measure."""
    table = []
    for variant, measure in claim.measured:
        values = [value(claim, rows, variant, seed, measure.name) for seed in claim.seeds]
        cells = ["" if v is None else f"{v:.5g}" for v in values]
        table.append([variant.label, measure.name, *cells])
    header = ["setting", "measure", *(f"seed {seed}" for seed in claim.seeds)]
    return Table("Values", header, table, left=2)


def markdown(found: Sequence[tuple[Claim, Sequence[Verdict]]]) -> str:
    """The README's table: a line for each comparison of each claim that has runs."""
    header = ["| claim | the paper's figure | ours | verdict |", "|---|---|---|---|"]
    lines, waiting = [], []
    for claim, outcomes in found:
        if not any(outcome.effects for outcome in outcomes):
            waiting.append(f"`{claim.name}`")
            continue
        for outcome in outcomes:
            figure = f"{outcome.figure}, {len(outcome.effects)} seeds" if outcome.figure else ""
            sentence = f"`{claim.name}`: {outcome.comparison.sentence}"
            paper = _paper(outcome)
            lines.append(f"| {sentence} | {paper} | {figure} | {outcome.word} |")
    parts = ["\n".join([*header, *lines])] if lines else []
    if waiting:
        parts.append(f"Not yet run: {', '.join(waiting)}.")
    return "\n\n".join(parts) + "\n"


def _paper(outcome: Verdict) -> str:
    comparison = outcome.comparison
    if comparison.expected == "not_below":
        figure = f"not below by {comparison.smallest:g}"
    else:
        figure = (
            f"{comparison.smallest:g} times" if comparison.ratio else f"{comparison.smallest:+g}"
        )
    return figure if comparison.stated else f"none ({figure} matters)"
