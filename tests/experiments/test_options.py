"""Flags as people type them, right and wrong."""

import dataclasses
import json

import pytest

from cnn_jax.errors import DivergenceError, UserError
from experiments import classify, presets
from experiments import options as flags


def parse(*argv):
    return flags.parse(classify.Options, argv, presets.CLASSIFICATION)


def test_flags_carry_no_group_and_keep_their_types():
    options = parse("--width", "0.5", "--milestones", "0.3", "0.6", "--flip", "--seed", "7")
    assert options.model.width == 0.5
    assert options.optimizer.milestones == (0.3, 0.6)
    assert options.augmentation.flip is True
    assert options.run.seed == 7


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modle", "vgg16"], r"--modle: no such flag; nearest: --model"),
        (["--steps", "many"], r"--steps: 'many' is not of the type"),
        (["--dtype", "float16"], r"invalid choice 'float16' for argument '--dtype'"),
        (["--batch-size"], r"--batch-size"),
        (["vgg16"], r"vgg16"),
        (["--preset", "resnet"], r"--preset resnet: unknown; one of shapes, alexnet, "),
        (["--resume"], r"--resume: say which run with --out DIR"),
        (["--zoom", "2", "1"], r"--zoom"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    assert "│" not in str(caught.value)


def test_a_preset_gives_defaults_that_flags_override():
    options = parse("--preset", "resnet20_cifar", "--batch-size", "64")
    assert options.augmentation.crop == "pad"
    assert options.optimizer.epochs == 164
    assert options.data.batch_size == 64


def test_a_length_given_replaces_the_preset_s():
    options = parse("--preset", "resnet20_cifar", "--steps", "100").optimizer
    assert (options.steps, options.epochs) == (100, None)
    options = parse("--epochs", "2").optimizer  # over the built-in data's steps
    assert (options.steps, options.epochs) == (None, 2)


def test_the_built_in_data_has_its_own_preset():
    assert parse().run.preset == "shapes"
    assert parse("--data", "folder:x").run.preset is None


@pytest.mark.parametrize("name", presets.CLASSIFICATION)
def test_every_preset_is_made_of_flags_that_exist_and_builds(name):
    options = parse("--preset", name)
    chosen = presets.CLASSIFICATION[name]
    assert {flag: flags.flat(options)[flag] for flag in chosen} == chosen
    classify.build_task(options, [str(i) for i in range(10)])


def test_a_config_survives_its_file(tmp_path):
    options = parse("--preset", "resnet50_v2", "--optimizer-options", "eps=1e-3")
    (tmp_path / "config.json").write_text(json.dumps({"verb": "classify", **flags.flat(options)}))
    assert flags.stored(classify.Options, tmp_path) == options


def test_resuming_takes_the_run_s_options_and_refuses_others(tmp_path):
    options = dataclasses.replace(parse("--learning-rate", "0.3", "--epochs", "3"))
    (tmp_path / "config.json").write_text(json.dumps(flags.flat(options)))
    resumed = parse("--resume", "--out", str(tmp_path), "--workers", "2")
    assert resumed.optimizer.learning_rate == 0.3
    assert resumed.data.workers == 2
    with pytest.raises(UserError, match=r"--learning-rate: the run in .* has 0\.3"):
        parse("--resume", "--out", str(tmp_path), "--learning-rate", "0.1")


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        parse("--resume", "--out", str(tmp_path))


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("a\nb"), 2), (DivergenceError("not finite"), 3)]
)
def test_errors_end_with_their_status_and_one_line(error, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        flags.entry(main)
    assert end.value.code == status
    assert capsys.readouterr().err.count("\n") == 1
