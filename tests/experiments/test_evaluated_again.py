"""Smaller training sets, and evaluations of them and of a run's raw or averaged weights."""

import json

import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from experiments import annotate, classify, detect, segment, translate
from experiments import options as flags
from tests.commands import rows
from tests.faults.kills import COMMANDS, write_data

VERBS = {
    "classify": classify,
    "annotate": annotate,
    "yolo": detect,
    "segment": segment,
    "translate": translate,
}
AVERAGED = ["--train-examples", "8", "--steps", "4", "--ema", "0.9"]


def train(name, root, *extra):
    write_data(root / "data")
    given = [text.format(data=root / "data", out=root) for text in COMMANDS[name]]
    VERBS[name].main([*given, "--eval-every", "2", "--out", str(root / "run"), *extra])
    return VERBS[name], root / "run"


@pytest.fixture(
    scope="module",
    params=[
        name if name == "classify" else pytest.param(name, marks=pytest.mark.slow) for name in VERBS
    ],
)
def trained(request, tmp_path_factory):
    """The module of a verb, and a short run of it on eight examples."""
    return train(request.param, tmp_path_factory.mktemp(request.param), *AVERAGED)


def result(module, out, *extra):
    module.main(["--eval-only", "--out", str(out), *extra])
    found = json.loads((out / "result.json").read_text())
    return {k: v for k, v in found.items() if k not in ("step", "seconds", "examples_per_second")}


def test_what_was_trained_on_is_evaluated_with_either_weights(trained):
    module, out = trained
    before = [row for row in rows(out) if row["split"] == "train"]
    config = json.loads((out / "config.json").read_text())
    # The last batches of the translator's buckets are filled up.
    assert config["train_examples"] == 8
    assert config["examples_per_epoch"] == (16 if module is translate else 8)
    held_out, seen = (result(module, out, "--split", split) for split in ("eval", "train"))
    assert (held_out["split"], seen["split"]) == ("eval", "training_set")
    assert held_out["loss"] != seen["loss"]
    figures = {w: result(module, out, "--weights", w)["loss"] for w in ("raw", "ema")}
    assert figures["ema"] == held_out["loss"] != figures["raw"]
    assert [row for row in rows(out) if row["split"] == "train"] == before


def test_a_run_goes_on_with_its_own_examples(trained):
    module, out = trained
    with pytest.raises(UserError, match=r"--train-examples: the run in .* has 8; a run is cont"):
        module.main(["--out", str(out), "--resume", "--train-examples", "9"])


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (classify, ["--weights", "raw"], "--weights: only used with --eval-only"),
        (
            classify,
            ["--train-examples", "50001"],
            "--train-examples 50001: the data has only 50000",
        ),
        (segment, ["--train-examples", "0"], "--train-examples 0: must be a whole number"),
        (translate, ["--join", "5"], "--join 5: must be a whole number"),
        (translate, ["--train-examples", "99999999"], "--train-examples 99999999: the data has on"),
        (
            detect,
            ["--system", "rcnn", "--eval-only", "--weights", "raw"],
            "--weights: not used with --system rcnn",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(module, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        module.main(given)
    assert not list(tmp_path.rglob("config.json"))


def test_an_average_that_is_not_there_is_refused(trained, monkeypatch):
    module, out = trained
    without = [
        path for path in checkpoints.leaves(out / "checkpoints") if not path.startswith("ema/")
    ]
    monkeypatch.setattr(checkpoints, "leaves", lambda directory: without)
    with pytest.raises(UserError, match=r"--weights ema: .* has no average; --ema X keeps one"):
        result(module, out, "--weights", "ema")


def test_sentences_are_joined_before_examples_are_counted(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"s{i}\tt{i}\n" for i in range(200)))
    given = [*("--data", f"pairs:{path}", "--join", "3", "--train-examples", "20")]
    options = flags.parse(translate.Options, [*given, "--out", str(tmp_path / "run")])
    pairs = translate._open(options, "train")
    assert len(pairs) == 20
    numbers = np.array([[int(word[1:]) for word in s.split()] for s in pairs.sources])
    assert numbers.shape == (20, 3) and (np.diff(numbers, axis=1) > 0).all()
    assert len(translate._open(options, "eval")) > 1
