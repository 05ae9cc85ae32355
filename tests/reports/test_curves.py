"""Charts draw the numbers they are given."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.reports.curves import MAX_POINTS, Chart, Line, nice_ticks, of_run, short
from cnn_jax.runs.folder import Run


def figure(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.html())


def path(chart: Chart, line: int = 0) -> list[tuple[str, float, float]]:
    """The pen's moves: M(ove) or L(ine) with x and y."""
    paths = [p for p in figure(chart).iter("path") if p.get("class") == "line"]
    result = re.findall(r"([ML])([-\d.]+) ([-\d.]+)", paths[line].get("d"))
    return [(command, float(x), float(y)) for command, x, y in result]


def texts(chart: Chart) -> list[str]:
    return [element.text for element in figure(chart).iter("text")]


def test_a_straight_line_is_straight_and_keeps_its_ends():
    moves = path(Chart("something", [Line("a", [0, 50, 100], [1.0, 2.0, 3.0])]))
    assert [command for command, *_ in moves] == ["M", "L", "L"]
    (_, x0, y0), (_, x1, y1), (_, x2, y2) = moves
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x0 < x2
    assert y0 > y2  # Up is towards smaller y.


def test_values_that_are_not_finite_leave_a_gap():
    line = Line("a", [1, 2, 3, 4, 5], [1.0, math.nan, 2.0, math.inf, 3.0])
    assert [command for command, *_ in path(Chart("x", [line]))] == ["M", "M", "M"]
    nothing = Chart("loss", [Line("a", [1], [math.nan])]).html()
    assert "no finite value" in nothing


def test_a_wide_span_is_drawn_on_a_logarithmic_axis():
    moves = path(Chart("loss", [Line("a", [0, 1, 2], [100.0, 1.0, 0.01])]))
    ys = [y for _, _, y in moves]
    assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.1)
    labels = texts(Chart("loss", [Line("a", [0, 1, 2], [100.0, 1.0, 0.01])]))
    assert {"0.01", "1", "100"} <= set(labels)


def test_a_rate_starts_at_zero_however_wide_its_span():
    chart = Chart("examples_per_second", [Line("train", [1, 2], [1.0, 5000.0])])
    assert "0" in texts(chart)


def test_fractions_are_labelled_in_per_cent():
    labels = texts(Chart("top1", [Line("a", [0, 20_000], [0.5, 0.9])]))
    assert {"60 %", "80 %", "0", "10k", "20k"} <= set(labels)


def test_the_legend_names_the_last_finite_value():
    chart = Chart("top1", [Line("eval & co", [1, 2, 3], [0.25, 0.5, math.nan])])
    assert "".join(figure(chart).find("div[2]").itertext()) == "eval & co 50.00 %"
    band = Chart("top1", [Line("a", [1, 2], [0.25, 0.5], spread=[0.1, 0.02])], "top-1, eval")
    name, legend = figure(band).findall("div")
    assert name.text == "top-1, eval"
    assert "".join(legend.itertext()) == "a 50.00 ± 2.00 %"


def test_few_points_tell_their_values():
    chart = Chart("top1", [Line("eval", [1000, 2000], [0.25, 0.5])])
    tips = [title.text for title in figure(chart).iter("title")]
    assert tips == ["eval, step 1,000: 25.00 %", "eval, step 2,000: 50.00 %"]


def test_a_single_report_is_seen():
    chart = Chart("top1", [Line("eval", [1000], [0.25])])
    (circle,) = figure(chart).iter("circle")
    assert 0 < float(circle.get("cx")) < 360
    assert 0 < float(circle.get("cy")) < 220
    assert {"25 %", "0", "500", "1k"} <= set(texts(chart))
    # There is no half step.
    assert "0.5" not in texts(Chart("top1", [Line("eval", [2], [0.25])]))


def test_long_lines_are_thinned_by_means():
    steps = list(range(10 * MAX_POINTS))
    moves = path(Chart("x", [Line("a", steps, [step % 10 + 1.0 for step in steps])]))
    assert len(moves) == MAX_POINTS
    # Each point is the mean of ten values 1 to 10.
    assert {y for _, _, y in moves} == {moves[0][2]}


def test_every_line_and_band_lies_inside_the_drawing():
    rng = np.random.default_rng(0)
    values = rng.normal(size=50).tolist()
    spread = rng.uniform(0, 3, size=50).tolist()
    chart = Chart("x", [Line("a", list(range(50)), values, spread)])
    numbers = re.findall(
        r"([-\d.]+) ([-\d.]+)", "".join(p.get("d") for p in figure(chart).iter("path"))
    )
    assert len(numbers) == 150
    assert all(0 <= float(x) <= 360 and 0 <= float(y) <= 220 for x, y in numbers)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_inside(low, span):
    high = low + span
    ticks = nice_ticks(low, high)
    if high - low < 1e-12 * max(abs(low), abs(high)):
        return
    assert len(ticks) <= 6
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)


def test_tick_labels():
    assert [short(v) for v in (0, 0.05, 950, 1000, 1500, 12_345, 20_000, 2e6)] == [
        *("0", "0.05", "950", "1k", "1.5k", "12.35k", "20k", "2M")
    ]


def test_curves_of_a_run(tmp_path):
    rows = [
        {"step": 10, "split": "train", "loss": 2.0, "examples_per_second": 5.0},
        {"step": 20, "split": "train", "loss": 1.0, "examples_per_second": 6.0},
        {"step": 20, "split": "eval", "loss": 3.0, "top1": 0.5, "examples_per_second": 9.0},
        {"step": 30, "split": "eval", "loss": 2.5, "top1": 0.6, "examples_per_second": 9.0},
        {"step": 30, "split": "test", "loss": 2.7, "map50": 0.7},
    ]
    curves = of_run(Run(tmp_path, {}, {}, rows, {}))
    result = {c.key: {line.label: line.values for line in c.lines} for c in curves.charts}
    assert result == {
        "top1": {"eval": [0.5, 0.6]},
        "loss": {"train": [2.0, 1.0], "eval": [3.0, 2.5], "test": [2.7]},
        "examples_per_second": {"train": [5.0, 6.0]},
    }
    assert list(result) == ["top1", "loss", "examples_per_second"]
