"""Files of flags: what they give, what is passed over, and what is refused."""

import json

import pytest

from cnn_jax.errors import UserError
from experiments import classify, detect, presets, segment
from experiments import options as flags


def parse(*argv):
    return flags.parse(classify.Options, argv, presets.CLASSIFICATION)


def boxes(*argv):
    return flags.parse(detect.Options, argv, presets.DETECTION, "system")


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_typed_comes_before_the_file_and_that_before_preset_and_default(write):
    file = write("preset: resnet20_cifar\nbatch_size: 64\nlearning-rate: 1e-3\nwd: 0.5\nworkers: 2")
    options = parse("--config", file, "--batch-size", "16", "--data", "folder:x")
    assert options.data.batch_size == 16
    assert (options.optimizer.learning_rate, options.optimizer.weight_decay) == (1e-3, 0.5)
    assert options.optimizer.epochs == 164  # the preset's
    assert options.optimizer.accumulate == 1
    assert options.run.config == file
    other = parse("--config", file, "--preset", "resnet50", "--data", "folder:x")
    assert (other.run.preset, other.data.batch_size) == ("resnet50", 64)
    assert other.optimizer.epochs == 90


def test_one_form_of_a_length_takes_the_place_of_another(write):
    # Over the steps of the built-in data's preset.
    file = write("epochs: 2")
    assert (parse("--config", file).optimizer.steps, parse("--config", file).optimizer.epochs) == (
        None,
        2,
    )
    options = parse("--config", file, "--steps", "7").optimizer
    assert (options.steps, options.epochs) == (7, None)


def test_values_of_yaml_are_read_as_typed_ones_and_json_as_they_are(write):
    text = "milestones: [0.3, 5e-1]\nschedule: step\nflip: true\nema: null\nmodel: vgg11\nseed: 7"
    options = parse("--config", write(text))
    assert options.optimizer.milestones == (0.3, 0.5)
    assert (options.augmentation.flip, options.optimizer.ema) == (True, None)
    assert (options.model.model, options.run.seed) == ("vgg11", 7)
    content = {"milestones": [0.3, 0.5], "schedule": "step", "flip": True, "ema": None}
    content |= {"model": "vgg11", "seed": 7}
    as_json = parse("--config", write(json.dumps(content), "run.json"))
    assert flags.replace(as_json, {"config": None}) == flags.replace(options, {"config": None})


def test_what_does_nothing_is_passed_over_and_only_refused_where_typed(write):
    file = write("system: fast_rcnn\ngrid: 14\nunits: 64\ncrop_size: 64\nmilestones: [0.1, 0.2]")
    options = boxes("--config", file)
    assert options.model.units == 64
    assert options.yolo.grid == detect.YoloOptions().grid
    assert options.rcnn.crop_size is None
    assert options.optimizer.milestones == (0.5, 0.75)
    # What is typed decides what does something.
    yolo = boxes("--config", file, "--system", "yolo")
    assert (yolo.yolo.grid, yolo.model.units) == (14, None)
    with pytest.raises(UserError, match="--grid: only used with --system yolo"):
        boxes("--config", file, "--grid", "14")


def test_a_run_s_own_file_gives_its_run(tmp_path):
    options = parse("--preset", "resnet50_v2", "--optimizer-options", "eps=1e-3", "--out", "x")
    content = flags.described(options, {"class_names": ["a", "b"], "examples_per_epoch": 7})
    assert (content["version"], content["verb"]) == (1, "classify")
    assert not {"out", "resume", "eval_only", "split", "config", "state"} & set(content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    for named in (tmp_path, tmp_path / "config.json"):
        again = parse("--config", str(named), "--out", "x")
        assert flags.replace(again, {"config": None}) == options
    assert flags.stored(classify.Options, tmp_path) == flags.replace(options, {"out": None})


def test_a_run_s_own_file_may_hold_what_excludes_each_other_when_typed(tmp_path):
    argv = ["--image-size", "48", "--data", "packed:x"]
    options = flags.parse(segment.Options, argv, presets.SEGMENTATION)
    options = flags.replace(options, {"image_shape": (48, 48)})  # as the packed data decides
    (tmp_path / "config.json").write_text(json.dumps(flags.described(options, {})))
    again = flags.parse(segment.Options, ["--config", str(tmp_path)], presets.SEGMENTATION)
    assert again.masks.image_shape == (48, 48)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: vgg16", "--modle: no such flag; nearest: --model, --flip-mode; --help lists all"),
        ("grid: 7", "--grid: no flag of classify; detect has it"),
        ("steps: many", "steps many: must be a whole number in [1, 2147483647]"),
        ("steps: 0", "steps 0: must be a whole number in [1, 2147483647]"),
        ("seed: 1.5", "seed 1.5: must be a whole number"),
        ("flip: yes", "flip yes: must be true or false"),
        ("learning_rate:", "learning_rate None: must be a number"),
        ("optimizer: {name: adam}", "optimizer {'name': 'adam'}: must be a text"),
        ("crop_scale: [0.5]", "crop_scale 0.5: must be 2 numbers"),
        ("lr: 0.1\nlearning_rate: 0.2", "learning_rate: --learning-rate is given twice"),
        ("steps: 3\nepochs: 1", "--steps and --epochs: give one of them"),
        ("resume: true", "resume: is only typed; a file says what a run is"),
        ("verb: segment", "describes a run of segment, not of classify"),
        ("version: 2", "version 2: this version of the code reads 1 alone"),
        ("- model", "expected flags and their values"),
        ("model: [", "not YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(write, text, message):
    file = write(text)
    with pytest.raises(UserError) as caught:
        parse("--config", file)
    line = str(caught.value)
    assert line.startswith(file) and message in line and "\n" not in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"steps": "3"}, "steps 3: must be a whole number"),
        ({"flip": 1}, "flip 1: must be true or false"),
        ({"seed": True}, "seed True: must be a whole number"),
        ({"class_names": ["a"]}, "--class-names: no flag of classify"),
        ({"version": "new"}, "version new: this version of the code reads 1 alone"),
    ],
)
def test_json_has_types_of_its_own(write, content, message):
    with pytest.raises(UserError, match=message):
        parse("--config", write(json.dumps(content), "run.json"))


def test_a_run_that_goes_on_has_its_own_options(write, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(flags.described(parse(), {})))
    with pytest.raises(UserError, match=r"--config: the run in .* continued with its own options"):
        parse("--resume", "--out", str(tmp_path), "--config", write("seed: 1"))
    with pytest.raises(UserError, match=r"/nowhere\.yaml: cannot be read"):
        parse("--config", "/nowhere.yaml")


def test_a_run_that_goes_on_may_be_given_its_file_again(write, tmp_path):
    file = write("model: resnet20\nwidth: 0.5\nepochs: 3\ncheckpoint_every: 7")
    line = ["--config", file, "--steps", "9"]
    begun = parse(*line)
    (tmp_path / "config.json").write_text(json.dumps(flags.described(begun, {})))
    again = parse(*line, "--resume", "--out", str(tmp_path))
    assert (again.model, again.optimizer) == (begun.model, begun.optimizer)
    assert again.run.checkpoint_every == 7


def test_the_help_states_what_comes_first():
    text = flags.help_text(flags.declared(classify.Options)["config"])
    assert "Typed flags come first, then the file, then the preset, then the flags' own" in text
