"""Flags as people type them, right and wrong: every declared flag of every verb."""

import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from cnn_jax.errors import UserError
from cnn_jax.models import option_table
from experiments import (
    annotate,
    classify,
    compare,
    detect,
    pack,
    predict,
    presets,
    segment,
    sweep,
    translate,
)
from experiments import options as flags
from experiments.sweep.plan import plan
from tests.verbs import OPTIONS

PRESETS = {
    classify: presets.CLASSIFICATION,
    annotate: presets.ANNOTATION,
    detect: presets.DETECTION,
    segment: presets.SEGMENTATION,
    translate: presets.TRANSLATION,
}
every_command = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def exposed(options):
    """The flags that are typed with their names."""
    return [
        flag
        for flag in flags.declared(options).values()
        if not (flag.declared.hidden or flag.declared.positional)
    ]


def parse(*argv):
    return flags.parse(classify.Options, argv, presets.CLASSIFICATION, variant="model")


def refused(options, argv, **kwargs):
    """The one line that a command ends with."""
    with pytest.raises(UserError) as caught:
        if "resume" in flags.declared(options):
            flags.parse(options, argv, **kwargs)
        else:
            flags.parse_plain(options, argv, lambda values: {"verb": "no verb"})
    message = str(caught.value)
    assert "\n" not in message
    return message


def texts(flag):
    """A legal value as it is typed: the default, or another where that is empty."""
    if flag.type is bool:
        return []
    value = flag.default
    if value in (None, (), ""):
        one = flag.choices[0] if flag.choices else "x"
        if flag.range is not None:
            one = flag.type((flag.range.low + flag.range.high) / 2)
        value = (one,) * (flag.length or 1) if flag.several else one
    return [str(item) for item in (value if flag.several else [value])]


def test_flags_carry_no_group_and_keep_their_types():
    argv = ["--width", "0.5", "--schedule", "step", "--milestones", "0.3", "0.6", "--flip"]
    options = parse(*argv, "--seed", "7", "--data_dir", "x", "--data", "tfds:y", "--no-ten-crop")
    assert options.model.width == 0.5
    assert options.optimizer.milestones == (0.3, 0.6)
    assert options.augmentation.flip is True
    assert options.data.ten_crop is False
    assert options.data.data_dir == "x"
    assert options.run.seed == 7


@every_command
def test_every_flag_has_help_and_takes_its_own_default(options):
    for flag in exposed(options):
        text = flags.help_text(flag)
        assert len(text.split()) > 2 and "  " not in text, flag
        assert flag.checked(flag.default) == flag.default
        if flag.type is not bool:
            assert flag.checked(flag.read(texts(flag))) == flag.read(texts(flag))


@every_command
def test_every_condition_is_about_flags_of_the_command(options):
    known = flags.declared(options)
    for flag in exposed(options):
        for key, wanted in [*flag.declared.only.items(), *flag.declared.unless.items()]:
            for name in key.split("|"):
                if name == "verb":  # which trained the run
                    assert set(wanted) <= {verb.Options.verb for verb in PRESETS}
                    continue
                choices = known[name].choices
                if choices and wanted is not flags.GIVEN:
                    assert set(wanted) <= set(choices), flag
        assert set(flag.declared.instead_of) <= set(known)


def contradiction(flag, known):
    """Return the flags beside which a flag does nothing."""
    key, wanted = next(iter(flag.declared.only.items()))
    other = known[key.split("|")[0]]
    if wanted is flags.GIVEN:
        nothing = "None" if other.optional else "0"
        return [other.dashed, nothing] if other.default else []
    if other.name == "channels":
        return ["--data", "folder:x", "--channels", "1"]
    for choice in other.choices or ("adam", "resnet20", "vgg16", "shapes", "dates"):
        if choice not in wanted and (other.name != "model" or choice != "adam"):
            return [choice] if other.declared.positional else [other.dashed, choice]
    raise AssertionError(other)


@every_command
def test_a_flag_that_does_nothing_is_refused_by_its_name(options):
    for flag in exposed(options):
        if flag.declared.only:
            argv = [flag.dashed, *texts(flag)]
            if "verb" not in flag.declared.only:
                argv += contradiction(flag, flags.declared(options))
            assert refused(options, argv).startswith(f"{flag.dashed}: only used with")


@pytest.mark.parametrize(
    ("verb", "argv", "message"),
    [
        (detect, "--system rcnn --grid 14", "--grid: only used with --system yolo, not with"),
        (detect, "--system rcnn --svd 3 4", "--svd: only used with --system fast_rcnn, not with"),
        (detect, "--system fast_rcnn --svd 3 4", "--svd: only used with --eval-only"),
        (
            detect,
            "--system rcnn --background-iou 0.1 0.5",
            "--background-iou: only used with --system fast_rcnn, not with --system rcnn",
        ),
        (detect, "--system rcnn --hue 0.1", "--hue: only used with --system yolo or fast_rcnn,"),
        (
            detect,
            "--system rcnn --eval-only --recalibrate",
            "--recalibrate: not used with --system rcnn",
        ),
        (detect, "--batch-norm", "--batch-norm: only used with --model yolo or fast_yolo, not"),
        (classify, "--momentum 0.5 --optimizer adam", "--momentum: only used with --optimizer "),
        (classify, "--milestones 0.5", "--milestones: only used with --schedule step, not with"),
        (classify, "--warmup 0 --warmup-start 0.5", "--warmup-start: only used with --warmup or"),
        (classify, "--data-dir x", "--data-dir: only used with --data tfds, not with --data shap"),
        (classify, "--holdout-fraction 0.2", "--holdout-fraction: not used with --data shapes"),
        (classify, "--padding 3 --crop random", "--padding: only used with --crop pad, not with"),
        (
            classify,
            "--compression 0.5 --model vgg16",
            "--compression: only used with --model densenet121, densenet161, densenet169, "
            "densenet201, densenet_bc_40_12 or densenet_bc_100_12, not with --model vgg16",
        ),
        (annotate, "--warp-ranks sampled", "--warp-ranks: only used with --loss warp, not with"),
        (annotate, "--k 3", "--k: only used with --decision topk, not with --decision tuned"),
        (segment, "--border-sigma 3", "--border-sigma: only used with --border-weight"),
        (segment, "--loss dice --class-weights 1 2", "--class-weights: not used with --loss dice"),
        (translate, "--length-penalty 2", "--length-penalty: not used with --beam 1"),
        (translate, "--attention none --replace-unknown", "--replace-unknown: not used with"),
    ],
)
def test_flags_without_an_effect_are_refused_when_typed(verb, argv, message):
    assert refused(verb.Options, argv.split(), presets=PRESETS[verb]).startswith(message)


def test_prediction_flags_of_another_verb_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"verb": "classify"}')
    with pytest.raises(UserError) as caught:
        predict.main([str(tmp_path), "x.png", "--count"])
    assert str(caught.value) == (
        "--count: only used with a run of detect, not with a run of classify"
    )


def test_what_a_preset_or_a_run_holds_is_passed_over(tmp_path):
    options = parse("--preset", "resnet50", "--schedule", "cosine", "--optimizer", "adam")
    assert (options.optimizer.milestones, options.optimizer.momentum) == ((1 / 3, 2 / 3), 0.9)
    argv = ["--model", "unet_same"]
    options = flags.parse(segment.Options, argv, presets.SEGMENTATION, "model")
    assert (options.model.width, options.model.output_stride) == (0.25, None)
    argv = ["--preset", "shapes_fast_rcnn", "--system", "yolo"]
    options = flags.parse(detect.Options, argv, presets.DETECTION)
    assert (options.model.stage, options.model.units) == (None, None)
    content = {**flags.flat(options), "units": 128, "batch_norm": True, "verb": "detect"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert flags.stored(detect.Options, tmp_path) == options


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_every_option_of_a_model_is_a_flag(kind):
    verb = {"classifier": classify, "segmenter": segment}[kind]
    known = flags.declared(verb.Options)
    for option in option_table(kind).values():
        if option.common:
            continue
        flag = known[option.name]
        assert flag.default is None and flag.optional
        assert flag.section == "model"
        assert flag.choices == (get_args(option.type) or ())
        assert set(flag.declared.only.get("model", option.models)) == set(option.models)
    options = parse("--model", "densenet121", "--compression", "0.25", "--stem", "small")
    assert flags.network_options(options.model) == {
        "width": 0.5,  # the built-in data's preset
        "compression": 0.25,
        "stem": "small",
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modle", "vgg16"], r"--modle: no such flag; nearest: --model"),
        (["--steps", "many"], r"--steps many: must be a whole number in \[1, 2147483647\]$"),
        (["--steps", "0"], r"--steps 0: must be a whole number in \[1, 2147483647\]$"),
        (["--batch-size", "0"], r"--batch-size 0: must be a whole number in \[1, 1048576\]$"),
        (["--accumulate", "-1"], r"--accumulate -1: must be a whole number in \[1, 1048576\]$"),
        (["--workers", "-1"], r"--workers -1: must be a whole number in \[0, 1024\]$"),
        (["--seed", "-1"], r"--seed -1: must be a whole number in \[0, 4294967295\]$"),
        (["--ema", "1"], r"--ema 1.0: must be a number in \[0, 1\)$"),
        (["--epochs", "0"], r"--epochs 0.0: must be a number in \(0, 1e6\]$"),
        (["--width", "0"], r"--width 0.0: must be a number in \(0, 100\]$"),
        (["--dtype", "float16"], r"--dtype float16: must be one of float32, bfloat16$"),
        (["--batch-size"], r"--batch-size: expected one argument$"),
        (["--crop-scale", "1"], r"--crop-scale: expected 2 arguments$"),
        (["vgg16"], r"vgg16: not expected here; flags begin with --"),
        (["--preset", "resnet"], r"--preset resnet: unknown; one of shapes, shapes_others, "),
        (["--resume"], r"--resume: say which run with --out DIR"),
        (["--zoom", "2", "1"], r"--zoom 2.0 1.0: must be a range LOW HIGH"),
        (["--steps", "3", "--epochs", "1"], r"--(steps|epochs) and --(steps|epochs): give one of"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(argv, message):
    assert re.match(message, refused(classify.Options, argv, presets=presets.CLASSIFICATION))


@pytest.mark.parametrize(
    ("typed", "flag"),
    [
        *[("lrate", "--learning-rate"), ("batch", "--batch-size"), ("gpus", "--distributed")],
        *[("checkpoint", "--resume, --init-from"), ("pretrained", "--init-from")],
        *[("device", "--distributed"), ("amp", "--dtype"), ("dropout", "--dropout-rate")],
        *[("num-epoch", "--epochs"), ("learning-rat", "--learning-rate"), ("optimzer", "--opti")],
    ],
)
def test_the_nearest_flag_is_one_that_means_the_same(typed, flag):
    message = refused(classify.Options, [f"--{typed}", "1"])
    assert message.startswith(f"--{typed}: no such flag; nearest: {flag}")


def test_a_flag_of_other_verbs_is_named_with_them():
    message = refused(detect.Options, ["--ten-crop"])
    assert message == "--ten-crop: no flag of detect; classify and annotate have it"
    message = refused(translate.Options, ["--recalibrate"])
    assert message == (
        "--recalibrate: no flag of translate; classify, annotate, detect and segment have it"
    )


@every_command
def test_every_alias_is_understood_and_is_nothing_else(options):
    names = [
        name
        for flag in exposed(options)
        for name in (flag.name.replace("_", "-"), *flag.declared.aliases.split())
    ]
    assert len(set(names)) == len(names)
    for flag in exposed(options):
        expected = flags.typed(options, [flag.dashed, *texts(flag)])
        for alias in flag.declared.aliases.split():
            assert flags.typed(options, [f"--{alias}", *texts(flag)]) == expected


def test_names_from_other_libraries_are_understood():
    argv = "--lr 0.2 --wd 1e-3 --opt adam --output-dir x --epochs 2 --bs 4 --arch vgg16"
    options = parse(*argv.split(), "--num_workers", "2", "--img-size=48")
    assert options.optimizer.learning_rate == 0.2
    assert options.optimizer.weight_decay == 1e-3
    assert options.optimizer.optimizer == "adam"
    assert options.optimizer.epochs == 2
    assert options.run.out == "x"
    assert options.data.batch_size == 4
    assert options.data.image_size == 48
    assert options.data.workers == 2
    assert options.model.model == "vgg16"


def test_a_preset_gives_defaults_that_flags_override():
    options = parse("--preset", "resnet20_cifar", "--batch-size", "64")
    assert options.augmentation.crop == "pad"
    assert options.optimizer.epochs == 164
    assert options.data.batch_size == 64


def test_a_flag_takes_the_place_of_the_preset_s_other_form():
    options = parse("--preset", "resnet20_cifar", "--steps", "100").optimizer
    assert (options.steps, options.epochs) == (100, None)
    options = parse("--epochs", "2").optimizer  # over the built-in data's steps
    assert (options.steps, options.epochs) == (None, 2)
    options = parse("--preset", "resnet50_v2", "--warmup", "100").optimizer
    assert (options.warmup, options.warmup_epochs) == (100, None)
    argv = ["--data", "masks:x", "--preset", "camvid_half"]
    options = flags.parse(segment.Options, [*argv, "--tile", "64"], presets.SEGMENTATION)
    assert (options.masks.tile, options.masks.image_shape) == (64, None)
    options = flags.parse(segment.Options, [*argv, "--image-size", "64"], presets.SEGMENTATION)
    assert (options.data.image_size, options.masks.image_shape) == (64, None)


def test_the_built_in_data_has_its_own_preset():
    assert parse().run.preset == "shapes"
    assert parse("--model", "airbench94").run.preset == "shapes"
    assert parse("--width", "0.5").model.model == "airbench94"
    # Its recipe belongs to its network; another one has its own.
    other = parse("--model", "resnet18")
    assert (other.run.preset, other.model.model) == ("shapes_others", "resnet18")
    assert parse("--preset", "shapes", "--model", "resnet18") == other
    assert parse("--data", "folder:x").run.preset is None
    for system in ("fast_rcnn", "rcnn"):
        argv = ["--system", system]
        options = flags.parse(detect.Options, argv, presets.DETECTION, variant="system")
        assert options.run.preset == f"shapes_{system}"
        assert options.detector.system == system


@pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb, known in PRESETS.items() for name in known]
)
def test_every_preset_is_made_of_flags_that_exist_and_do_something(verb, name):
    """But for what a preset says of its data, which is another's."""
    known = PRESETS[verb]
    data = [] if name in ("shapes", "dates") else ["--data", "tfds:x"]
    options = flags.parse(verb.Options, ["--preset", name, *data], known)
    values = flags.flat(options)
    assert {flag: values[flag] for flag in known[name]} == known[name]
    for flag in set(known[name]) - {"class_names", "label_values"}:
        assert flags.idle(flags.declared(verb.Options)[flag], values) is None


@pytest.mark.parametrize("name", presets.CLASSIFICATION)
def test_every_preset_builds(name):
    classify.build_task(parse("--preset", name), [str(i) for i in range(10)])


@every_command
def test_help_has_sections_and_examples_and_fits_80_columns(options, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        flags.typed(options, ["--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    for flag in flags.declared(options).values():
        if not (flag.declared.positional or flag.declared.hidden):
            assert re.search(rf"^  --(\[no-\])?{flag.dashed[2:]}\b", text, re.MULTILINE)
    if hasattr(options(), "optimizer"):
        assert text.index("\nrun:") < text.index("\ndata:") < text.index("\nmodel:")
        assert text.index("\nmodel:") < text.index("\noptimizer:")
    *_, last = text.split("examples:\n")
    assert f"python -m experiments.{options.verb} " in last


def help_of(options, capsys):
    with pytest.raises(SystemExit):
        flags.typed(options, ["--help"])
    return capsys.readouterr().out


def test_help_names_each_value_of_a_flag_once(capsys):
    text = help_of(flags.PredictOptions, capsys)
    assert "  --line X1 Y1 X2 Y2  " in text and "Y2 X1" not in text


def test_a_section_names_only_conditions_that_all_of_its_flags_have(capsys):
    text = help_of(OPTIONS["inspect"], capsys)
    labels, _, _ = text.partition("\nlabels:\n")[2].partition("\n\n")
    assert labels and "Only with" not in labels
    # One flag of this section is narrower than the others.
    sampling, _, rest = (
        help_of(detect.Options, capsys).partition("\nsampling:\n")[2].partition("\n\n")
    )
    assert "Only with --system fast_rcnn or rcnn." in " ".join(sampling.split())
    assert "Only with --system fast_rcnn." in " ".join(rest.split())


def test_help_beside_a_system_leaves_out_the_others(capsys):
    with pytest.raises(SystemExit):
        flags.typed(detect.Options, ["--system", "rcnn", "--help"])
    text = capsys.readouterr().out
    assert "--crop-size" in text
    assert "--grid " not in text and "--svd" not in text


def partitioned(items, mark):
    """What is before a mark, the mark, and what is behind it."""
    place = items.index(mark) if mark in items else len(items)
    return items[:place], [mark], items[place + 1 :]


def test_readme_s_commands_are_understood():
    readme = Path(__file__).parents[2] / "README.md"
    commands = re.findall(r"^(?:\w+=\S+ )*python -m experiments\.(.*)$", readme.read_text(), re.M)
    assert len(commands) > 10
    by_verb = {verb.Options.verb: verb for verb in PRESETS}
    for command in commands:
        verb, *argv = shlex.split(command, comments=True)
        reads_a_run = {"--eval-only", "--resume", "--config"} & set(argv)
        if verb in by_verb and "--out" in argv and reads_a_run:
            flags.typed(by_verb[verb].Options, argv)
        elif verb in by_verb:
            module = by_verb[verb]
            flags.parse(
                module.Options, argv, PRESETS[module], "system" if verb == "detect" else None
            )
        elif verb == "pack":
            flags.parse_plain(pack.options_of(pack._task(argv)), argv)
        elif verb == "sweep":
            own, _, fixed = (list(part) for part in partitioned(argv, "--"))
            given = flags.parse_plain(sweep.Options, own)
            plan(given.command, Path(given.out), fixed, given.grid, given.seeds, given.random)
        elif verb not in ("tour", "launch.optuna_search"):
            flags.parse_plain(OPTIONS[verb], argv)


@pytest.mark.parametrize("text", ["", "a\0b", "caf\udce9.jpg"])
def test_a_name_is_text(text, tmp_path):
    for options, argv in (
        (classify.Options, ["--out", text]),
        (classify.Options, ["--data", text]),
        (flags.PredictOptions, ["run", text]),
        (compare.Options, [text]),
    ):
        assert refused(options, argv).endswith("not empty")


def test_help_shows_each_range_on_one_line():
    text = " ".join(flags.help_text(flags.declared(classify.Options)["ema"]).split())
    assert text.endswith("(in [0, 1))")
    text = flags.help_text(flags.declared(classify.Options)["learning_rate"])
    assert text.endswith("(in [0, 1e6]) (default: 0.1)")


@pytest.mark.parametrize(
    ("verb", "argv", "told"),
    [
        (classify, ["--model", "vgg11"], "preset: shapes_others in place of shapes, which is not"),
        (classify, ["--preset", "shapes"], ""),
        (classify, ["--data", "folder:x", "--model", "vgg11"], ""),
        (detect, ["--system", "rcnn"], "shapes_rcnn in place of shapes, which is not for --system"),
        (segment, ["--optimizer", "adam"], "has for muon; --learning-rate sets that of adam"),
        (classify, ["--model", "vgg11", "--optimizer", "adam"], "shapes_others has for sgd"),
        (segment, ["--optimizer", "adam", "--learning-rate", "1e-3"], ""),
        (segment, ["--optimizer", "muon"], ""),
    ],
)
def test_what_a_preset_gives_unasked_is_told(verb, argv, told):
    parsed = flags.parse(verb.Options, argv, verb.COMMAND.presets, verb.COMMAND.variant)
    said = flags.preset_notice(parsed, argv, verb.COMMAND.presets, verb.COMMAND.variant) or ""
    assert told in said and bool(told) == bool(said)
