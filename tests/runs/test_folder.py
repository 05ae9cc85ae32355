"""Reading a run's folder: errors name the file and the line."""

import json
import math

import pytest

from cnn_jax.errors import UserError
from cnn_jax.runs.folder import read_rows, read_run

ROWS = [
    {"step": 10, "split": "train", "loss": 2.0, "seconds": 1.0},
    {"step": 20, "split": "train", "loss": None, "seconds": 2.0},
    {"step": 20, "split": "eval", "loss": 1.5, "top1": 0.25, "seconds": 2.5},
    {"step": 20, "split": "eval", "loss": 1.25, "top1": 0.5, "seconds": 9.5},
]


def make_run(directory, text: str | None = None):
    (directory / "config.json").write_text('{"seed": 3}')
    text = "".join(json.dumps(row) + "\n" for row in ROWS) if text is None else text
    (directory / "metrics.jsonl").write_text(text)
    return directory


def test_series_and_last_reports(tmp_path):
    run = read_run(make_run(tmp_path))
    assert run.config == {"seed": 3}
    assert run.environment == {} == run.result
    assert run.splits == ["train", "eval"]
    assert run.keys("eval") == ["loss", "top1"]
    steps, values = run.series("train", "loss")
    assert steps == [10, 20]
    assert values[0] == 2.0
    assert math.isnan(values[1])
    # An evaluation made again of the same step replaces the former one.
    assert run.series("eval", "top1") == ([20], [0.5])
    assert run.last("eval")["loss"] == 1.25
    assert run.last("test") is None
    assert run.series("test", "top1") == ([], [])
    assert (run.steps, run.seconds) == (20, 9.5)


@pytest.mark.parametrize("end", ["", "\n", "\n\n", '\n{"step": 30, "sp', "\n{"])
def test_a_cut_last_line_is_left_out(tmp_path, end):
    text = "\n".join(json.dumps(row) for row in ROWS) + end
    assert read_rows(make_run(tmp_path, text) / "metrics.jsonl") == ROWS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 1, "spl', "not JSON"),
        ("[1]", "expected an object, found a list"),
        ('{"split": "train"}', '"step" to be a whole number'),
        ('{"step": 1}', '"split" to be a name'),
        ('{"step": 1, "split": "eval", "top1": "high"}', '"top1" to be a number or null'),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    text = json.dumps(ROWS[0]) + "\n" + line + "\n" + json.dumps(ROWS[1]) + "\n"
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: .*" + message):
        read_run(make_run(tmp_path, text))


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing"):
        read_run(tmp_path)
    make_run(tmp_path)
    (tmp_path / "config.json").write_text('{\n"seed": 3,\n}')
    with pytest.raises(UserError, match=r"config\.json:[23]: not JSON"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json:1: expected a JSON object, found a list"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"config\.json:1: not text"):
        read_run(tmp_path)
