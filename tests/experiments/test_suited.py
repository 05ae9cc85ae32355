"""`classify --data SPEC` without a recipe: what is chosen, told, recorded and repeated."""

import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import open_source
from cnn_jax.data.source import Subset
from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, pack, segment
from experiments import options as parsing
from experiments.suited import FEW, by_images, classification, median_side, suited
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.faults import kills

pytestmark = pytest.mark.usefixtures("shared_programs")

# What may be typed beside a choice, and keeps runs short.
BESIDE = ["--seed", "3", "--eval-batch-size", "8", "--eval-every", "9", "--checkpoint-every", "2"]


class Sized:
    """A source of which only the number and the sizes of its examples are asked for."""

    class_names = ("a", "b")

    def __init__(self, sizes):
        self._sizes = sizes

    def __len__(self):
        return len(self._sizes)

    def size(self, index):
        if self._sizes[index] is None:
            raise UserError("damaged")
        return self._sizes[index]


def chosen(source, *argv):
    return list(suited(classify.Options, argv, by_images(lambda _: source, classification)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of images of 18 x 16 pixels, four for training and two held out of each."""
    root = tmp_path_factory.mktemp("icons")
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2)):
        for label, colour in (("blue", (30, 60, 200)), ("red", (200, 60, 30))):
            directory = root / split / label
            directory.mkdir(parents=True)
            for i in range(number):
                pixels = np.clip(np.array(colour) + rng.integers(-25, 25, (18, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(directory / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    classify.main(["--data", f"folder:{folder}", "--out", str(out), *BESIDE])
    return out


@pytest.mark.parametrize(
    ("examples", "size", "flags"),
    [
        (50_000, (32, 32), "--preset tiny_images --image-size 32 --epochs 5"),
        (500, (28, 40), "--preset tiny_images --image-size 28 --epochs 60"),
        (40, (8, 8), "--preset tiny_images --image-size 16 --epochs 60"),
        (1_119, (240, 160), "--preset small_photos --image-size 128 --epochs 54"),
        (9_000, (80, 64), "--preset small_photos --image-size 64 --epochs 10"),
        (FEW, (375, 500), "--preset resnet50 --image-size 224"),
        (100_000, (64, 64), "--preset resnet50 --image-size 64"),
    ],
)
def test_the_choice_follows_the_number_and_the_size(examples, size, flags, capsys):
    argv = ["--data", "folder:x", "--out", "y", "--eval-every", "5", "--skip-bad-images"]
    assert chosen(Sized([size] * examples), *argv) == [*argv, *flags.split()]
    first, second = capsys.readouterr().err.splitlines()
    told = f"{examples:,} training images of {min(size)} pixels on the shorter side"
    assert first.startswith("recipe: ") and first.endswith(told)
    assert second == f"the same as: python -m experiments.classify {shlex.join(argv)} {flags}"


@pytest.mark.parametrize(
    ("module", "typed", "flags"),
    [
        (
            annotate,
            "csv:{data}/tags.csv,{data}/images --test-every 5",
            "--preset small_photos --image-size {size} --epochs 100",
        ),
        (
            segment,
            "masks:{data} --class-names ground square --cells",
            "--preset few_masks --crop-size 32 32 --epochs 100",
        ),
        (detect, "coco:{boxes}", "--preset small_boxes --epochs 200"),
        (
            detect,
            "coco:{boxes} --system fast_rcnn",
            "--preset small_boxes_fast_rcnn --epochs 200",
        ),
        (detect, "coco:{boxes} --system rcnn", "--preset small_boxes_rcnn"),
    ],
)
def test_other_commands_choose_too(module, typed, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kills, "SIZE", 32)
    kills.write_data(tmp_path)
    boxes = f"{tmp_path}/train.json,{tmp_path}/coco,{tmp_path}/val.json,{tmp_path}/coco"
    places = {"data": tmp_path, "boxes": boxes, "size": kills.SIZE}
    argv = ["--data", *typed.format(**places).split()]
    assert module.with_recipe(argv) == [*argv, *flags.format(**places).split()]
    assert capsys.readouterr().err.count("recipe: a small ") == 1
    # Each choice is a legal command.
    parsing.parse(module.Options, module.with_recipe(argv), module.COMMAND.presets)
    other = [*argv, "--learning-rate", "0.2"]
    assert module.with_recipe(other) == other


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "--data shapes",
        *(
            f"--data folder:x {flags}"
            for flags in (
                "--model resnet20",
                "--width 0.5",
                "--preset resnet50",
                "--epochs 3",
                "--lr 0.1",
                "--batch-size 8",
                "--image-size 32",
                "--no-flip",
                "--label-smoothing 0.1",
                "--config file.yaml",
                "--resume --out y",
                "--eval-only --out y",
            )
        ),
    ],
)
def test_a_typed_recipe_is_left_alone(typed, capsys):
    assert chosen(None, *typed.split()) == typed.split()
    assert capsys.readouterr() == ("", "")


def test_data_whose_sizes_are_not_known_has_the_defaults(tmp_path, folder, capsys):
    argv = ["--data", "folder:x"]
    assert chosen(Subset(open_source("shapes", "train"), range(3)), *argv) == argv
    assert capsys.readouterr().err.startswith("recipe: the defaults; ")
    pack.main(["--data", f"folder:{folder}", "--out", str(tmp_path / "packed")])
    capsys.readouterr()
    argv = ["--data", f"packed:{tmp_path}/packed"]
    assert chosen(None, *argv) == argv
    assert capsys.readouterr().err.startswith("recipe: the defaults; packed data ")


def test_the_median_is_that_of_images_from_all_over_that_can_be_read():
    few = [(10, 30)] * 2000 + [(90, 50)] * 3000
    assert median_side(Sized(few)) == 50
    assert median_side(Sized([None, (7, 9), None])) == 7
    assert median_side(Sized([None])) is None


def test_lengths_are_those_of_a_run_of_minutes():
    def epochs(examples, side):
        return int(classification(examples, side).flags[-1])

    for side, images in ((32, 250_000), (200, 60_000)):
        found = [epochs(examples, side) for examples in (100, 1500, 5900)]
        assert found == sorted(found, reverse=True)
        assert epochs(5900, side) * 5900 == pytest.approx(images, rel=0.1)


def test_the_choice_is_recorded_like_typed_flags(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["preset"], config["image_size"], config["epochs"]) == ("tiny_images", 16, 60)
    assert (config["model"], config["width"], config["seed"]) == ("airbench94", 0.5, 3)


def test_the_printed_command_and_the_file_repeat_the_run(folder, trained, tmp_path, capsys):
    classify.with_recipe(["--data", f"folder:{folder}", *BESIDE])
    printed = capsys.readouterr().err.splitlines()[-1].partition("experiments.classify ")[2]
    again = {"typed": shlex.split(printed), "file": ["--config", str(trained)]}
    for name, typed in again.items():
        classify.main([*typed, "--out", str(tmp_path / name)])
        assert "recipe:" not in capsys.readouterr().err
        assert rows(tmp_path / name) == rows(trained)
        assert_same_bits(leaves(tmp_path / name), leaves(trained))


def test_a_stopped_run_is_resumed_with_its_recipe(trained, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    steps = sorted(map(int, (path.name for path in (out / "checkpoints").iterdir())))
    shutil.rmtree(out / "checkpoints" / str(steps[-1]))
    classify.main(["--out", str(out), "--resume"])
    assert "recipe:" not in capsys.readouterr().err
    assert rows(out) == rows(trained)
    assert_same_bits(leaves(out), leaves(trained))
