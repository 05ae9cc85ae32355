"""Line charts as SVG: sharp at every size, in the page's colours, a few kilobytes each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_jax.reports.html import Html, tag
from cnn_jax.reports.style import LINE_COLORS
from cnn_jax.runs.folder import Run
from cnn_jax.runs.names import in_order, metric, show, show_spread

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24

# A line with more points than this is drawn through the means of equal runs of points.
MAX_POINTS = 400
# A line with at most this many points marks them; hovering over a point shows its value.
MAX_DOTS = 30
# Positive values that span a larger ratio are drawn on a logarithmic axis.
LOGARITHMIC_SPAN = 20.0


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: the name in the legend.
        steps: the positions along the horizontal axis, increasing.
        values: the heights; NaN leaves a gap.
        spread: half the height of a band around the line; empty for none.
        color: the index of the colour; negative for a faint line.
    """

    label: str
    steps: Sequence[int | float]
    values: Sequence[int | float]
    spread: Sequence[int | float] = ()
    color: int = 0

    @property
    def paint(self) -> str:
        """The line's colour in CSS."""
        return f"var(--c{self.color % LINE_COLORS})" if self.color >= 0 else "var(--faint)"


@dataclass(frozen=True)
class Chart:
    """Lines of one metric.

    Attributes:
        key: the metric's key, which selects the format of its values.
        lines: the lines, the last one on top.
        label: the chart's name; the metric's name if empty.
    """

    key: str
    lines: Sequence[Line]
    label: str = ""

    def html(self) -> Html:
        """Build a figure: name, legend with the last values, drawing."""
        entries = []
        for line in self.lines:
            mark = tag("i", style=f"background:{line.paint}")
            last = next((i for i, v in reversed([*enumerate(line.values)]) if math.isfinite(v)), -1)
            value = line.values[last] if line.values else None
            spread = line.spread[last] if line.spread else None
            figure = tag("b", show_spread(self.key, value, spread))
            entries.append(tag("span", mark, f"{line.label} ", figure))
        name = tag("div", self.label or metric(self.key).label, class_="name")
        legend = tag("div", *entries, class_="key")
        return tag("figure", name, legend, _drawing(self.key, self.lines))


@dataclass(frozen=True)
class Curves:
    """A section of charts.

    Attributes:
        title: the heading.
        charts: the charts, in order.
    """

    title: str
    charts: Sequence[Chart]

    def html(self) -> Html:
        return tag("div", *(chart.html() for chart in self.charts), class_="charts")


def of_run(run: Run) -> Curves:
    """Plot every metric that a run has reported: training faint, evaluations coloured.

    A metric reported only once has no curve; it is among the results. The rate of examples is shown
    only for training; an evaluation's rate has no meaning.
    """
    lines: dict[str, list[Line]] = {}
    colors = {split: i for i, split in enumerate(s for s in run.splits if s != "train")}
    for split in sorted(run.splits, key=lambda split: split != "train"):
        for key in run.keys(split):
            if key == "examples_per_second" and split != "train":
                continue
            steps, values = run.series(split, key)
            line = Line(split, steps, values, color=colors.get(split, -1))
            lines.setdefault(key, []).append(line)
    grown = [key for key in lines if any(len(line.steps) > 1 for line in lines[key])]
    return Curves("Curves", [Chart(key, lines[key]) for key in in_order(grown)])


def _drawing(key: str, lines: Sequence[Line]) -> Html:
    shown = [_thinned(line) for line in lines]
    steps = [step for line in shown for step in line.steps]
    heights = [v for line in shown for v in (*_edge(line, -1), *_edge(line, 1)) if math.isfinite(v)]
    if not heights:
        return tag("p", "no finite value", class_="note")
    if metric(key).kind == "rate":  # Noise is small relative to a rate, and should look so.
        heights.append(0)
    logarithmic = min(heights) > 0 and max(heights) / min(heights) > LOGARITHMIC_SPAN
    y = _Axis.around(heights, HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)
    x = _Axis(0, max(steps), LEFT, WIDTH - RIGHT)
    parts = [*_frame(key, x, y)]
    parts += [_band(line, x, y) for line in shown if line.spread]
    parts += [part for line in shown for part in _path(key, line, x, y)]
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=key)


@dataclass(frozen=True)
class _Axis:
    """A mapping from values to positions."""

    low: int | float
    high: int | float
    start: int | float
    end: int | float
    logarithmic: bool = False

    @classmethod
    def around(
        cls, values: Sequence[int | float], start: int, end: int, logarithmic: bool
    ) -> "_Axis":
        """Build an axis with a small margin around the values."""
        low, high = min(values), max(values)
        if logarithmic:
            return cls(low / 1.1, high * 1.1, start, end, True)
        room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
        # Values that are never negative get no negative ticks.
        return cls(max(low - room, 0) if low >= 0 else low - room, high + room, start, end)

    def __call__(self, value: int | float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1)

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return nice_ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [d * 10.0**n for n in decades for d in digits]
            ticks = [t for t in ticks if self.low <= t <= self.high]
            if len(ticks) <= 6:
                break
        # Over very many decades, only every second, third, … tick is named.
        return ticks[:: math.ceil(len(ticks) / 6)]


def nice_ticks(low: float | int, high: float | int, count: int = 5) -> list[float]:
    """Choose about `count` round numbers between two values."""
    rough = (high - low) / count
    if not rough > 0:
        return [float(low)]
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float | int) -> str:
    """Format a tick's label: `0.05`, `20k`, `1.5M`."""
    for suffix, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _frame(key: str, x: _Axis, y: _Axis) -> list[Html]:
    """Draw rules and labels of both axes."""
    scale, unit = (100, " %") if metric(key).kind == "fraction" else (1, "")
    parts = []
    for tick in y.ticks():
        at = y(tick)
        label = short(float(f"{tick * scale:.6g}")) + unit
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="rule"))
        parts.append(tag("text", label, x=LEFT - 6, y=at + 4, text_anchor="end"))
    for tick in (tick for tick in nice_ticks(x.low, x.high, 4) if tick == round(tick)):
        parts.append(tag("text", short(tick), x=x(tick), y=HEIGHT - 8, text_anchor="middle"))
    return parts


def _path(key: str, line: Line, x: _Axis, y: _Axis) -> list[Html]:
    """Draw the line, broken at NaN; mark its points, with their values, if they are few."""
    pieces, pen_down = [], False
    for step, value in zip(line.steps, line.values, strict=True):
        if math.isfinite(value):
            pieces.append(f"{'L' if pen_down else 'M'}{x(step):.1f} {y(value):.1f}")
        pen_down = math.isfinite(value)
    parts = [tag("path", d="".join(pieces), class_="line", stroke=line.paint)]
    points = [
        (step, value)
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value)
    ]
    if len(points) <= MAX_DOTS:
        for step, value in points:
            tip = tag("title", f"{line.label}, step {step:,}: {show(key, value)}")
            parts.append(tag("circle", tip, cx=x(step), cy=y(value), r=2.5, fill=line.paint))
    return parts


def _band(line: Line, x: _Axis, y: _Axis) -> Html:
    points = [
        (step, low, high)
        for step, low, high in zip(line.steps, _edge(line, -1), _edge(line, 1), strict=True)
        if math.isfinite(low)
    ]
    upper = [f"{x(step):.1f} {y(high):.1f}" for step, _, high in points]
    lower = [f"{x(step):.1f} {y(low):.1f}" for step, low, _ in reversed(points)]
    return tag("path", d=f"M{'L'.join([*upper, *lower])}Z", class_="band", fill=line.paint)


def _edge(line: Line, sign: int) -> list[float | int]:
    """Return the band's lower (-1) or upper (1) edge, or the line itself without a band."""
    spread = line.spread or [0.0] * len(line.values)
    return [value + sign * s for value, s in zip(line.values, spread, strict=True)]


def _thinned(line: Line) -> Line:
    """Replace the points of a long line by the means of equal runs."""
    size = math.ceil(len(line.steps) / MAX_POINTS)
    if size <= 1:
        return line

    def means(numbers: Sequence[int | float]) -> list[float]:
        runs = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        return [math.fsum(run) / len(run) for run in runs]

    spread = means(line.spread) if line.spread else ()
    return Line(line.label, means(line.steps), means(line.values), spread, line.color)
