"""A run's `config.json` as options: what it gives, and what is refused."""

import json
from typing import Annotated

import pytest

from cnn_jax.errors import UserError
from cnn_jax.ranges import Range
from experiments import (
    annotate,
    classify,
    detect,
    presets,
    segment,
    translate,
)
from experiments import options as flags

VERBS = (annotate, classify, detect, segment, translate)


def parse(*argv):
    return flags.parse(classify.Options, argv, presets.CLASSIFICATION, variant="model")


def test_a_config_survives_its_file(tmp_path, capsys):
    options = parse("--preset", "resnet50_v2", "--optimizer-options", "eps=1e-3")
    content = {"verb": "classify", **flags.flat(options), "class_names": ["a"]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert flags.stored(classify.Options, tmp_path) == options
    assert capsys.readouterr().err == ""


def test_what_an_earlier_config_lacks_has_its_default_and_is_said(tmp_path, capsys):
    content = {"verb": "classify", **flags.flat(parse("--ema", "0.5", "--seed", "3")), "gone": 1}
    del content["ema"], content["seed"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    options = flags.stored(classify.Options, tmp_path)
    assert (options.optimizer.ema, options.run.seed) == (None, 0)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.json: written without --seed, --ema; the defaults are used" in error


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "seed -1: must be a whole number in [0, 4294967295]"),
        ("seed", 1.5, "seed 1.5: must be a whole number"),
        ("seed", True, "seed True: must be a whole number"),
        ("steps", "many", "steps many: must be a whole number"),
        ("flip", 1, "flip 1: must be true or false"),
        ("learning_rate", None, "learning_rate None: must be a number"),
        ("milestones", [0.5, "x"], "milestones 0.5 x: must be numbers in [0, 1]"),
        ("crop_scale", [0.5], "crop_scale 0.5: must be 2 numbers"),
        ("schedule", "linear", "schedule linear: must be one of constant, step, cosine, polynom"),
        ("cache", "disk", "cache"),
        ("hue", 2, "hue 2: must be a number in [0, 0.5]"),
    ],
)
def test_a_config_s_values_are_checked_like_flags(tmp_path, key, value, message):
    content = {"verb": "classify", **flags.flat(parse()), key: value}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        flags.stored(classify.Options, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {message}")


def test_another_verb_s_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"verb": "segment"}')
    with pytest.raises(UserError, match=r"config\.json: a run of segment, not of classify"):
        parse("--resume", "--out", str(tmp_path))


def test_resuming_takes_the_run_s_options_and_refuses_others(tmp_path):
    options = parse("--learning-rate", "0.3", "--epochs", "3")
    (tmp_path / "config.json").write_text(json.dumps(flags.flat(options)))
    resumed = parse("--resume", "--out", str(tmp_path), "--workers", "2")
    assert resumed.optimizer.learning_rate == 0.3
    assert resumed.data.workers == 2
    with pytest.raises(UserError, match=r"--learning-rate: the run in .* has 0\.3"):
        parse("--resume", "--out", str(tmp_path), "--lr", "0.1")


@pytest.mark.parametrize("options", [verb.Options for verb in VERBS])
def test_what_a_resumed_run_may_be_given_anew(options):
    """Never what decides the weights."""
    allowed = flags.resumable(options)
    assert {"out", "resume", "eval_only", "keep", "report_every"} <= allowed
    kept = {"model", "data", "seed", "steps", "epochs", "learning_rate", "batch_size", "optimizer"}
    assert not allowed & kept
    assert allowed <= set(flags.flat(options()))


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        parse("--resume", "--out", str(tmp_path))


def test_a_stored_name_is_text(tmp_path):
    content = {"verb": "classify", **flags.flat(parse()), "data": "folder:\0"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"data folder:\\x00: must be a text in UTF-8"):
        flags.stored(classify.Options, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no 'class_names'"),
        ({"class_names": 3, "size": [1, 2]}, "class_names 3: must be texts"),
        ({"class_names": ["a", 3], "size": [1, 2]}, "class_names a 3: must be texts"),
        ({"class_names": [], "size": [1, 0]}, "size 1 0: must be 2 whole numbers in [1, 9]"),
        ({"class_names": [], "size": [1, 987654321]}, "not JSON"),
    ],
)
def test_what_a_config_holds_besides_options_is_checked_too(content, message, tmp_path):
    text = json.dumps(content).replace("987654321", "9" * 5000)
    (tmp_path / "config.json").write_text(text)
    size = Annotated[tuple[int, int], Range(1, 9)]
    with pytest.raises(UserError) as caught:
        flags.recorded(tmp_path, class_names=tuple[str, ...], size=size)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {message}")
