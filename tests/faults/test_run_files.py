"""A tiny run whose files are corrupted: every command on it ends well or in one line."""

import itertools
import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments import classify, compare, predict
from tests.faults.run_files import corruptions, outcome, problem

SMALL = ["--model", "alexnet", "--width", "0.05", "--image-size", "64", "--batch-size", "4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two steps on eight pictures, and one of the pictures."""
    folder = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val"), "ab", range(4)):
        path = folder / "data" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    argv = ["--data", f"folder:{folder / 'data'}", *SMALL, "--steps", "2", "--report-every", "1"]
    classify.main(["--out", str(folder / "run"), *argv])
    return folder / "run", path


def commands(copy, picture):
    """What reads a run's folder: each command with its arguments."""
    return {
        "predict": (predict.main, [str(copy), str(picture)]),
        "compare": (compare.main, [str(copy), "--out", str(copy / "compared")]),
        "evaluate": (classify.main, ["--out", str(copy), "--eval-only"]),
        "resume": (classify.main, ["--out", str(copy), "--resume"]),
    }


def tried(copy, run, picture, corrupt, names):
    """Corrupt a copy of the run, and tell what is wrong with the outcome of each command."""
    for name in names:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        corrupt(copy)
        main, argv = commands(copy, picture)[name]
        if wrong := problem(*outcome(main, argv)):
            yield f"{name}: {wrong}"


def test_every_command_runs_on_the_run_as_it_is(run, tmp_path):
    names = ("predict", "compare", "evaluate", "resume")
    assert not list(tried(tmp_path / "copy", *run, lambda copy: None, names))


@pytest.mark.parametrize("command", ["predict", "compare", "evaluate", "resume"])
def test_a_command_on_a_corrupted_run_ends_well_or_in_one_line(run, tmp_path, command):
    count = {"predict": 60, "compare": 100}.get(command, 30)
    rng = random.Random(command)
    wrong = {}
    for description, corrupt in itertools.islice(corruptions(rng, run[0]), count):
        for found in tried(tmp_path / "copy", *run, corrupt, [command]):
            wrong[description] = found
    assert not wrong, json.dumps(wrong, indent=1)
