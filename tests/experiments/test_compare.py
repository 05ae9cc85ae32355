"""Runs side by side: grouping, means and spreads against NumPy, and what bad input says."""

import json
import math
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax.runs.folder import read_run
from experiments import compare, options

pytestmark = pytest.mark.usefixtures("shared_programs")

TOP1 = {0: [0.5, 0.80], 1: [0.6, 0.84], 2: [0.7, 0.91]}


def make_run(directory: Path, *, top1=(0.5, 0.8), speeds=(10.0, 100.0, 110.0), **config) -> Path:
    """A run of 20 steps that trained 3 times and was evaluated at steps 10 and 20."""
    directory.mkdir(parents=True)
    config = {"model": "a", "learning_rate": 0.1, "seed": 0, "out": str(directory), **config}
    (directory / "config.json").write_text(json.dumps(config))
    rows = [
        {"step": 5 * (i + 1), "split": "train", "loss": 2.0 - i / 4, "examples_per_second": speed}
        for i, speed in enumerate(speeds)
    ]
    rows += [
        {"step": 10 * (i + 1), "split": "eval", "loss": 1.0, "top1": value, "seconds": 30.0 * i}
        for i, value in enumerate(top1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def make_seeds(directory: Path) -> list[str]:
    runs = [make_run(directory / f"s{s}", seed=s, top1=top1) for s, top1 in TOP1.items()]
    runs.append(make_run(directory / "other", model="b", top1=(0.4, 0.6)))
    return [str(run) for run in runs]


def test_runs_that_differ_in_the_seed_are_one_group(tmp_path):
    groups = compare.grouped([read_run(path) for path in make_seeds(tmp_path)])
    assert [group.names for group in groups] == [["s0", "s1", "s2"], ["other"]]
    assert [group.differs for group in groups] == [{"model": "a"}, {"model": "b"}]


def test_mean_and_spread_are_numpys(tmp_path):
    groups = compare.grouped([read_run(path) for path in make_seeds(tmp_path)])
    last = [values[-1] for values in TOP1.values()]
    found = compare.measured(groups[0], "eval")["top1"]
    assert found.mean == pytest.approx(np.mean(last))
    assert found.spread == pytest.approx(np.std(last, ddof=1))
    alone = compare.measured(groups[1], "eval")["top1"]
    assert (alone.mean, alone.spread) == (0.6, None)
    # The first report of a run waits for the compiler; the median does not mind.
    assert compare.speed(groups[1]) == compare.Statistic(100.0, None)


def test_the_band_of_a_curve_is_numpys(tmp_path):
    groups = compare.grouped([read_run(path) for path in make_seeds(tmp_path)])
    (chart,) = (c for c in compare.overlaid(groups) if (c.key, c.label) == ("top1", "top-1, eval"))
    seeds, alone = chart.lines
    values = np.array(list(TOP1.values()))
    assert seeds.steps == [10, 20]
    np.testing.assert_allclose(seeds.values, values.mean(0))
    np.testing.assert_allclose(seeds.spread, values.std(0, ddof=1))
    assert (alone.label, alone.values, alone.spread) == ("model b", [0.4, 0.6], ())


def test_a_curve_covers_the_steps_that_all_seeds_have(tmp_path):
    runs = [
        make_run(tmp_path / "long", top1=(0.1, 0.2, 0.3)),
        make_run(tmp_path / "short", seed=1, top1=(0.3, 0.4)),
        make_run(tmp_path / "broken", seed=2, top1=(0.5, None)),
    ]
    (group,) = compare.grouped([read_run(path) for path in runs])
    (chart,) = (c for c in compare.overlaid([group]) if c.key == "top1")
    (line,) = chart.lines
    assert line.steps == [10, 20]
    assert line.values[0] == pytest.approx(0.3)
    assert line.spread[0] == pytest.approx(0.2)
    assert math.isnan(line.values[1])
    assert math.isnan(line.spread[1])


def test_a_seed_that_diverged_is_not_left_out(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1, top1=(0.5, None))]
    (group,) = compare.grouped([read_run(path) for path in runs])
    assert math.isnan(compare.measured(group, "eval")["top1"].mean)
    _, (row,) = compare.table([group], "eval")
    assert "–" in row  # noqa: RUF001
    figures = compare.summary([group], "eval")["groups"][0]["metrics"]
    assert figures["top1"] == {"mean": None, "spread": None}
    assert figures["loss"] == {"mean": 1.0, "spread": 0.0}


class Tables(HTMLParser):
    """The text of every table's cells, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, name, attributes):
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, name):
        if name in ("td", "th"):
            self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.rows[-1][-1] += text


EXPECTED = [
    ["run", "what differs", "steps", "top-1", "loss", "examples/s", "wall time"],
    ["s0 … s2 (3 runs)", "model a", "20", "85.00 ± 5.57 %", "1 ± 0", "100 ± 0", "30 s"],
    ["other", "model b", "20", "60.00 %", "1", "100", "30 s"],
]


def test_page_picture_and_json_hold_the_table(tmp_path, capsys):
    out = tmp_path / "out"
    compare.main([*make_seeds(tmp_path), "--out", str(out)])
    assert Tables((out / "comparison.html").read_text()).rows == EXPECTED
    printed = capsys.readouterr().out
    for row in EXPECTED:
        assert all(cell in printed for cell in row)
    assert printed.endswith(f"curves: {out / 'comparison.html'}\n")
    with Image.open(out / "comparison.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500
    figures = json.loads((out / "comparison.json").read_text())
    assert figures["split"] == "eval"
    assert figures["groups"][0]["metrics"]["top1"]["mean"] == pytest.approx(0.85)
    assert figures["groups"][1]["metrics"]["top1"] == {"mean": 0.6, "spread": None}


def test_a_test_split_counts_where_every_run_has_one(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    row = {"step": 20, "split": "test", "top1": 0.7}
    for run, expected in zip(runs, ("eval", "test"), strict=True):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        assert compare.common_split(compare.grouped([read_run(r) for r in runs])) == expected


def test_names_and_settings_are_escaped(tmp_path):
    runs = [make_run(tmp_path / f"<b>{m}", model=m) for m in ("$x_1$", "<script>alert(1)</script>")]
    compare.main([*map(str, runs), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<script" not in page
    assert "<b>$" not in page
    assert Tables(page).rows[2][:2] == [runs[1].name, "model <script>alert(1)</script>"]


def test_bleu_by_length_is_one_chart_of_all_translators(tmp_path):
    paths = make_seeds(tmp_path)
    groups = compare.grouped([read_run(path) for path in paths])
    assert compare.by_length(groups) == []
    for number, path in enumerate(paths):
        buckets = [
            {"shortest": 1, "longest": 8, "sentences": 5, "bleu": 30.0 + number},
            {"shortest": 9, "longest": 20 + number // 2, "sentences": 5, "bleu": 20.0},
        ]
        content = {"step": 20, "buckets": buckets}
        (Path(path) / "bleu_by_length.json").write_text(json.dumps(content))
    (chart,) = compare.by_length(groups)
    several, alone = chart.lines
    # Of the three seeds two have sentences of up to 20 words as their longest, one of up to 21.
    assert (several.steps, several.values, several.spread) == ([8], [31.0], [1.0])
    assert (alone.steps, alone.values) == ([8, 21], [33.0, 20.0])


def broken_run(directory: Path, metrics: str) -> str:
    make_run(directory)
    (directory / "metrics.jsonl").write_text(metrics)
    return str(directory)


def test_bad_input_ends_with_status_2_and_one_line(tmp_path, capsys):
    good = str(make_run(tmp_path / "good"))
    lacking = make_run(tmp_path / "lacking")
    (lacking / "metrics.jsonl").unlink()
    cases = {
        (): "give the folders",
        (good, str(tmp_path / "nowhere")): "nowhere: no such folder",
        (str(lacking),): "metrics.jsonl is missing",
        (broken_run(tmp_path / "empty", ""),): "metrics.jsonl: holds no report yet",
        (broken_run(tmp_path / "bad", "{}\n"),): 'metrics.jsonl:1: not a report: expected "step"',
        (good, "--uot", "x"): "--uot: no such flag; nearest: --out",
        (good, "--out", f"{good}/config.json"): "cannot be written",
    }
    for arguments, message in cases.items():
        with pytest.raises(SystemExit) as ended:
            options.entry(partial(compare.main, list(arguments)))
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_the_command_runs(tmp_path):
    command = [sys.executable, "-m", "experiments.compare", str(make_run(tmp_path / "run"))]
    ended = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert "80.00 %" in ended.stdout
    assert ended.stderr == ""
    assert (tmp_path / "out" / "comparison.html").exists()
