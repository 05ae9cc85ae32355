"""The suite for accelerators, with parts of the tests' own in place of its commands."""

import json
from pathlib import Path

import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from experiments import classify, pack
from experiments import options as flags
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import scenes, scenes_in_jax, suite

DEVICE = {"platform": "cpu", "kind": "cpu", "count": 1, "jax": "0"}


def measured(monkeypatch, out, minutes, parts):
    monkeypatch.setattr(suite, "_device", lambda: DEVICE)
    monkeypatch.setattr(suite, "parts", lambda *_: parts)
    suite.run(minutes, out, None, None)
    return json.loads((out / "suite.json").read_text())


def test_a_second_call_does_what_is_missing_or_failed(tmp_path, monkeypatch, capsys):
    calls = []

    def part(name, fails=False):
        def measure(folder, limit):
            assert folder == tmp_path / name
            assert 0 < limit <= 3 * 10
            calls.append(name)
            if fails:
                raise UserError("no torch")
            return {"images_per_second": 12.5}

        return suite.Part(name, 10, measure)

    first = measured(monkeypatch, tmp_path, 5, [part("a"), part("b", fails=True)])
    assert first["a"]["images_per_second"] == 12.5
    assert first["b"]["failed"] == "no torch"
    second = measured(monkeypatch, tmp_path, 5, [part("a"), part("b"), part("c")])
    assert calls == ["a", "b", "b", "c"]
    assert "failed" not in second["b"]
    assert "| a | images per second 12.5" in capsys.readouterr().out


def test_no_part_begins_when_the_minutes_are_over(tmp_path, monkeypatch, capsys):
    def measure(folder, limit):
        raise AssertionError("begun")

    monkeypatch.setattr(suite, "_device", lambda: DEVICE)
    monkeypatch.setattr(suite, "parts", lambda *_: [suite.Part("a", 10, measure)])
    suite.run(0.1, tmp_path, None, None)
    assert "no time left; call again" in capsys.readouterr().err


def test_a_command_that_fails_or_does_not_end_is_told_in_one_line(tmp_path):
    with pytest.raises(suite._FailedError, match=r"exit status 2: error: --modle"):
        suite._command("classify", ["--modle", "x"], tmp_path / "log", 60)
    with pytest.raises(suite._FailedError, match="not ended within 0 s"):
        suite._command("classify", ["--steps", "3"], tmp_path / "log", 0.1)


def minimum_size(name):
    on_scenes = name in scenes.SIZES
    return (scenes_in_jax.network(name) if on_scenes else models.create(name)).minimum_size


@pytest.mark.parametrize("scale", [suite.CARD, suite.DRY_RUN])
def test_the_commands_of_the_parts_are_legal(tmp_path, monkeypatch, scale):
    options = {
        "classify": classify.Options,
        "benchmark": benchmark.Options,
        "pack": pack.options_of("classify"),
    }
    seen = []

    class EndedError(Exception):
        """The command was checked; nothing is run."""

    def check(verb, arguments, log, limit):
        seen.append(verb)
        parsed = flags.parse_plain(options[verb], arguments)
        if verb == "benchmark" and parsed.work != ("translate",):
            for job in benchmark.jobs(parsed):
                assert job.image_size >= minimum_size(job.model)
        raise EndedError

    monkeypatch.setattr(suite, "_command", check)
    monkeypatch.setattr(suite, "_make_photos", lambda *_: None)
    for part in suite.parts(scale, tmp_path, None, f"folder:{tmp_path}"):
        (tmp_path / part.name).mkdir()
        with pytest.raises(EndedError):
            part.measure(Path(tmp_path / part.name), 100.0)
    assert set(seen) == {"classify", "benchmark", "pack"}
