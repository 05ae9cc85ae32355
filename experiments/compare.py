"""Lay runs side by side: what differs, what they reached, how their curves went.

python -m experiments.compare runs/a runs/b             # a table, and a page in runs/compare
python -m experiments.compare runs/resnet20-seed* runs/vgg-seed*

Runs that differ in nothing but the seed are one row: mean and sample standard deviation.
"""

import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.progress import PipeConsole
from cnn_jax.ranges import COUNTED, Range
from cnn_jax.reports.curves import Chart, Curves, Line
from cnn_jax.reports.page import Table, render
from cnn_jax.reports.translation import LENGTHS_FILE
from cnn_jax.runs.folder import METRICS_FILE, ROW_KEYS, Run, read_object, read_run
from cnn_jax.runs.names import duration, in_order, metric, show_spread

from . import annotate, classify, detect, segment, translate
from . import options as flags

_RESUMABLE = (flags.resumable(v.Options) for v in (annotate, classify, detect, segment, translate))

# Settings that do not make a run another experiment. Several crops give other figures.
INCIDENTAL = (set().union(*_RESUMABLE) - {"ten_crop", "views"}) | {"seed"}
# Too long to be read in a table; where they differ, the data does too.
UNNAMED = {"class_names"}

# Columns of metrics in the table; the page's curves show all of them.
MAX_METRICS = 3


@dataclass(frozen=True)
class Options:
    """Compare runs: what differs, what they reached, and their curves."""

    verb: ClassVar[str] = "compare"

    runs: tuple[str, ...] = flags.flag((), positional=True, metavar="RUN")
    """Folders of the runs."""
    out: str = flags.flag("runs/compare", aliases="output-dir", metavar="DIR")
    """Folder for comparison.html, comparison.png and comparison.json."""


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, with different seeds.

    Attributes:
        runs: one or several.
        differs: the settings in which the group differs from the others.
    """

    runs: Sequence[Run]
    differs: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """The names of the runs' folders."""
        return [run.path.resolve().name for run in self.runs]

    @property
    def label(self) -> str:
        """The name of the group in a legend."""
        settings = ", ".join(f"{key} {written(value)}" for key, value in self.differs.items())
        return settings or ", ".join(self.names)


@dataclass(frozen=True)
class Statistic:
    """A figure over the runs of a group.

    Attributes:
        mean: over the runs; NaN where one run's figure was not finite.
        spread: sample standard deviation; None for a single run.
    """

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float | int]) -> "Statistic | None":
        """The mean and the spread of one figure of each run; None where there are none."""
        if not values:
            return None
        mean = statistics.fmean(values)
        if len(values) == 1:
            return cls(mean, None)
        return cls(mean, (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, print the table, write the page."""
    options = flags.parse_plain(Options, argv)
    if not options.runs:
        raise UserError("give the folders of one or more runs: compare RUN...")
    groups = grouped([_with_rows(read_run(path)) for path in dict.fromkeys(options.runs)])
    split = common_split(groups)
    header, rows = table(groups, split)
    print_table(f"last report on {split}:", header, rows, left=2)
    out = Path(options.out)
    charts = [*overlaid(groups), *by_length(groups)]
    note = f"The last report on {split}; of several seeds, mean ± sample standard deviation."
    sections = [Table("Results", header, rows, note, left=2), Curves("Curves", charts)]
    count = sum(len(group.runs) for group in groups)
    lead = f"{counted(count, 'run')} of {counted(len(groups), 'experiment')}."
    files.replace(out / "comparison.html", render("Comparison of runs", lead, sections))
    files.replace(out / "comparison.png", picture(charts))
    files.replace(out / "comparison.json", json.dumps(summary(groups, split), indent=2) + "\n")
    print(f"curves: {out / 'comparison.html'}")


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs that differ in nothing that matters, in order of first appearance."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        settings = {k: v for k, v in run.config.items() if k not in INCIDENTAL}
        by_settings.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    groups = list(by_settings.values())
    configs = [group[0].config for group in groups]
    keys = [
        k for k in dict.fromkeys(k for c in configs for k in c) if k not in INCIDENTAL | UNNAMED
    ]
    varied = [k for k in keys if len({json.dumps(c.get(k), sort_keys=True) for c in configs}) > 1]
    return [
        Group(group, {k: c[k] for k in varied if k in c})
        for group, c in zip(groups, configs, strict=True)
    ]


def common_split(groups: Sequence[Group]) -> str:
    """The most telling split that every run has reported."""
    runs = [run for group in groups for run in group.runs]
    for split in ("test", "eval"):
        if all(split in run.splits for run in runs):
            return split
    return "train"


def measured(group: Group, split: str) -> dict[str, Statistic]:
    """Each metric's last value on a split, over the group's runs."""
    last = [row for run in group.runs if (row := run.last(split))]
    keys = in_order(key for row in last for key in row if key not in ROW_KEYS)
    return {key: Statistic.of([number(row[key]) for row in last if key in row]) for key in keys}


def speed(group: Group) -> Statistic | None:
    """Examples a second in training: of each run the median, which one slow report leaves alone."""
    series = [run.series("train", "examples_per_second")[1] for run in group.runs]
    return Statistic.of([statistics.median(values) for values in series if values])


def table(groups: Sequence[Group], split: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the comparison, as text."""
    figures = [measured(group, split) for group in groups]
    keys = [k for k in in_order(k for f in figures for k in f) if k != "examples_per_second"]
    # The loss is shown whatever else there is.
    keys = in_order(sorted(keys, key=lambda key: key != "loss")[:MAX_METRICS])
    header = ["run", "what differs", "steps", *(metric(key).label for key in keys)]
    rows = []
    for group, found in zip(groups, figures, strict=True):
        steps = dict.fromkeys(f"{run.steps:,}" for run in group.runs)
        seconds = Statistic.of([run.seconds for run in group.runs if run.seconds is not None])
        rows.append(
            [
                _names(group),
                ", ".join(f"{key} {written(value)}" for key, value in group.differs.items()),
                ", ".join(steps),
                *(_figure(key, found.get(key)) for key in keys),
                _figure("examples_per_second", speed(group)),
                "" if seconds is None else duration(seconds.mean),
            ]
        )
    return [*header, "examples/s", "wall time"], rows


def summary(groups: Sequence[Group], split: str) -> dict[str, Any]:
    """The comparison's numbers, for programs."""

    def plain(value: Statistic) -> dict[str, float | None]:
        known = value.spread is not None and math.isfinite(value.spread)
        return {
            "mean": value.mean if math.isfinite(value.mean) else None,
            "spread": value.spread if known else None,
        }

    return {
        "split": split,
        "groups": [
            {
                "runs": [str(run.path) for run in group.runs],
                "differs": dict(group.differs),
                "steps": [run.steps for run in group.runs],
                "metrics": {key: plain(v) for key, v in measured(group, split).items()},
            }
            for group in groups
        ],
    }


def overlaid(groups: Sequence[Group]) -> list[Chart]:
    """A chart for each metric and split, a line for each group."""
    runs = [run for group in groups for run in group.runs]
    splits = dict.fromkeys(split for run in runs for split in run.splits)
    charts = []
    for key in in_order(key for run in runs for split in splits for key in run.keys(split)):
        for split in sorted(splits, key=lambda split: split == "train"):
            if key == "examples_per_second" and split != "train":
                continue
            lines = [
                line
                for color, group in enumerate(groups)
                if (line := _line(group, split, key, color)).steps
            ]
            if lines:
                charts.append(Chart(key, lines, f"{metric(key).label}, {split}"))
    return charts


def by_length(groups: Sequence[Group]) -> list[Chart]:
    """BLEU against sentence length, a line for each group, where all runs translate."""
    lines = []
    for color, group in enumerate(groups):
        paths = [run.path / LENGTHS_FILE for run in group.runs]
        if not all(path.exists() for path in paths):
            return []
        lines.append(_mean_line(group, [by_longest(path) for path in paths], color))
    return [Chart("bleu", lines, "BLEU against the longest sentence of each length")]


def by_longest(path: Path) -> dict[int, float]:
    """BLEU by the longest sentence of a bucket, as a run's file has it.

    Raises:
        UserError: the file holds something else.
    """
    buckets = read_object(path).get("buckets")
    try:
        return {
            flags.checked("longest", COUNTED, bucket["longest"]): flags.checked(
                "bleu", Annotated[float, Range(0, 101)], bucket["bleu"]
            )
            for bucket in buckets
        }
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{path}: not what translate writes ({error})") from None


def picture(charts: Sequence[Chart], columns: int = 3) -> bytes:
    """The charts as one PNG."""
    # Imported here: it is slow, and a mistaken argument should be told at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(5 * columns, 3.4 * rows), layout="constrained", dpi=110)
    for number, chart in enumerate(charts, start=1):
        axes = figure.add_subplot(rows, columns, number)
        scale = 100 if metric(chart.key).kind == "fraction" else 1
        for line in chart.lines:
            color, values = f"C{line.color % 10}", [scale * v for v in line.values]
            axes.plot(line.steps, values, color=color, label=_literal(line.label), linewidth=1.4)
            if line.spread:
                low = [v - scale * s for v, s in zip(values, line.spread, strict=True)]
                high = [v + scale * s for v, s in zip(values, line.spread, strict=True)]
                axes.fill_between(line.steps, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set_title(_literal(chart.label) + (" (%)" if scale == 100 else ""), fontsize=11)
        axes.grid(alpha=0.3)
        if number == 1:
            axes.legend(fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int
) -> None:
    """Print a table on standard output; one line a row where it is not a terminal.

    Args:
        title: the line above.
        header: the names of the columns.
        rows: their cells.
        left: the number of columns aligned left.
    """
    console = PipeConsole()
    if not console.is_terminal:
        console = PipeConsole(width=10_000)
    drawn = TerminalTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        drawn.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console.print(title, markup=False, highlight=False)
    console.print(drawn, highlight=False)


def _line(group: Group, split: str, key: str, color: int) -> Line:
    """The mean over the group's runs at the steps that all of them reported."""
    series = [dict(zip(*run.series(split, key), strict=True)) for run in group.runs]
    return _mean_line(group, series, color)


def _mean_line(group: Group, series: Sequence[Mapping[int, float]], color: int) -> Line:
    """The mean over the group's runs wherever all of them have a value."""
    steps = sorted(set.intersection(*(set(values) for values in series)))
    figures = [Statistic.of([values[step] for values in series]) for step in steps]
    spread = [figure.spread for figure in figures] if len(series) > 1 else ()
    return Line(group.label, steps, [figure.mean for figure in figures], spread, color)


def _with_rows(run: Run) -> Run:
    if not run.rows:
        raise UserError(f"{run.path / METRICS_FILE}: holds no report yet")
    return run


def _names(group: Group) -> str:
    names = group.names
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} runs)"


def _figure(key: str, value: Statistic | None) -> str:
    return "" if value is None else show_spread(key, value.mean, value.spread)


def number(value: float | int | None) -> float | int:
    """A reported value; null stands for one that was not finite."""
    return math.nan if value is None else value


def written(value: Any) -> str:
    """A setting as its flag would have it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count != 1 else "")


def _literal(text: str) -> str:
    """Text that matplotlib takes for no formula, nor for a label to hide."""
    return text.replace("$", r"\$").lstrip("_")


if __name__ == "__main__":
    flags.entry(main)
