"""Runs repeated from their own file, made longer, and moved: the same bits, for every verb."""

import json
import re
import shutil

import pytest

from cnn_jax.errors import UserError
from cnn_jax.runs.names import judging
from cnn_jax.training import checkpoints
from experiments import annotate, classify, detect, predict, segment, translate
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.faults.kills import COMMANDS, write_data

pytestmark = pytest.mark.usefixtures("shared_programs")

VERBS = {
    "classify": (classify, "top1"),
    "annotate": (annotate, "loss"),
    "yolo": (detect, "loss"),
    "segment": (segment, "mean_iou"),
    "translate": (translate, "bleu"),
}
EVERY = ["--report-every", "2", "--eval-every", "2", "--checkpoint-every", "2"]


def train(name, root, out, *extra):
    module, best = VERBS[name]
    given = [text.format(data=root / "data", out=root) for text in COMMANDS[name]]
    module.main([*given, *EVERY, "--best", best, "--out", str(out), *extra])


def assert_same_run(out, expected):
    """States, rows, and the file of the options but for what it is not about."""
    assert rows(out) == rows(expected)
    for folder in ("checkpoints", "best"):
        assert checkpoints.steps(out / folder)[-1:] == checkpoints.steps(expected / folder)[-1:]
        assert_same_bits(leaves(out, folder), leaves(expected, folder))


def config(out):
    return json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("name", VERBS)
def test_a_run_moves_becomes_longer_and_is_repeated_from_its_file(name, tmp_path):
    module, best = VERBS[name]
    write_data(tmp_path / "data")
    train(name, tmp_path, tmp_path / "run", "--schedule", "constant", "--steps", "4")
    assert best in judging(module.Options.verb)
    measured = set(rows(tmp_path / "run")[-1])
    assert set(judging(module.Options.verb)) - measured <= {
        *("top5", "pixel_error", "rand_error", "warping_error")
    }

    # Both folders lie elsewhere now, and nothing where they were.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = config(tmp_path / "run")["data"]
    for folder in ("data", "run"):
        (tmp_path / folder).rename(elsewhere / folder)
    moved = ["--data", before.replace(str(tmp_path), str(elsewhere))]
    module.main(["--out", str(elsewhere / "run"), "--resume", "--steps", "8", *moved])
    assert config(elsewhere / "run")["data"] == moved[1]
    assert config(elsewhere / "run")["steps"] == 8

    # The run from its first step, and without a stop.
    file = str(elsewhere / "run" / "config.json")
    module.main(["--config", file, "--out", str(tmp_path / "again")])
    assert_same_run(tmp_path / "again", elsewhere / "run")
    assert config(tmp_path / "again") == config(elsewhere / "run")


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A folder with data and a run of four steps, whose learning rate falls."""
    root = tmp_path_factory.mktemp("annotated")
    write_data(root / "data")
    train("annotate", root, root / "run", "--steps", "4")
    return root


def test_a_falling_learning_rate_is_told_and_recorded(annotated, tmp_path, capsys):
    out = shutil.copytree(annotated / "run", tmp_path / "run")
    annotate.main(["--out", str(out), "--resume", "--steps", "6"])
    said = capsys.readouterr().err
    rates = {row["step"]: row["learning_rate"] for row in rows(out) if row["split"] == "train"}
    told = r"length: 4 steps become 6; from step 4 on the schedule \(cosine\) is that of 6 steps: "
    told += r"the learning rate was (\S+), is (\S+) now and (\S+) at the end"
    last, now, end = map(float, re.search(told, said).groups())
    assert (last, end) == pytest.approx((rates[4], rates[6]), rel=1e-3)
    assert now > last
    assert [config(out)[key] for key in ("lengthened_at", "lengths_before")] == [[4], [4]]
    again = tmp_path / "again"
    annotate.main(["--config", str(out), "--out", str(again)])
    assert_same_run(again, out)


def test_a_run_is_not_made_shorter_than_it_is(annotated, tmp_path):
    out = shutil.copytree(annotated / "run", tmp_path / "run")
    with pytest.raises(UserError, match="--steps 3: the run has made 4 already"):
        annotate.main(["--out", str(out), "--resume", "--steps", "3"])
    assert config(out) == config(annotated / "run")
    assert rows(out) == rows(annotated / "run")


def test_other_data_is_not_gone_on_with(annotated, tmp_path):
    out = shutil.copytree(annotated / "run", tmp_path / "run")
    table = (annotated / "data" / "tags.csv").read_text()
    for number, (text, problem) in enumerate(
        [
            (
                table.replace("high", "low"),
                "its classes are left, low; the run in .* has left, high",
            ),
            (table.rsplit("\n", 8)[0] + "\n", "has 13 training examples; the run in .* has 18"),
        ]
    ):
        path = tmp_path / f"{number}.csv"
        path.write_text(text)
        with pytest.raises(UserError, match=problem):
            given = ["--data", f"csv:{path},{annotated / 'data' / 'images'}"]
            annotate.main(["--out", str(out), "--resume", "--steps", "6", *given])


def test_patience_ends_a_run_and_more_of_it_goes_on(annotated, tmp_path, capsys):
    still = ["--steps", "12", "--learning-rate", "0", "--weight-decay", "0", "--patience", "2"]
    train("annotate", annotated, tmp_path / "run", *still)
    assert [row["step"] for row in rows(tmp_path / "run") if row["split"] == "eval"] == [2, 4, 6]
    assert "ended at step 6 of 12: 2 evaluations without a better one; best loss " in (
        capsys.readouterr().err
    )
    assert checkpoints.steps(tmp_path / "run" / "best") == (2,)
    assert checkpoints.latest_step(tmp_path / "run" / "checkpoints") == 6
    before = rows(tmp_path / "run")
    annotate.main(["--out", str(tmp_path / "run"), "--resume"])
    assert rows(tmp_path / "run") == before
    annotate.main(["--out", str(tmp_path / "run"), "--resume", "--patience", "3"])
    assert rows(tmp_path / "run")[-1]["step"] == 8


def test_the_state_that_is_used_is_told_and_chosen(annotated, tmp_path, capsys):
    out = shutil.copytree(annotated / "run", tmp_path / "run")
    (best,) = checkpoints.steps(out / "best")
    figures = {row["step"]: row["loss"] for row in rows(out) if row["split"] == "eval"}
    assert best == min(figures, key=figures.get)
    image = str(annotated / "data" / "images" / "val" / "val0.png")
    for asked, step in ((None, best), ("best", best), ("last", 4)):
        flags = [] if asked is None else ["--state", asked]
        told = f"state: {asked or 'best'} (step {step})"
        annotate.main(["--eval-only", "--out", str(out), *flags])
        assert told in capsys.readouterr().err.splitlines()
        assert (rows(out)[-1]["step"], rows(out)[-1]["loss"]) == (step, figures[step])
        predict.main([str(out), image, *flags])
        assert told in capsys.readouterr().err.splitlines()
    # Each has its own thresholds.
    for folder, step in ((out / "best", best), (out, 4)):
        assert json.loads((folder / "thresholds.json").read_text())["step"] == step
    shutil.rmtree(out / "best")
    with pytest.raises(UserError, match=r"--state best: .* has none; --best METRIC keeps it"):
        predict.main([str(out), image, "--state", "best"])


def test_five_guesses_are_not_measured_of_five_classes(annotated, tmp_path):
    with pytest.raises(UserError, match="--best top5: measured of more than 5 classes"):
        train("classify", annotated, tmp_path / "run", "--best", "top5", "--steps", "2")


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        (classify, ["--best", "top-1"], "--best top-1: no metric that classify is judged by, did"),
        (
            classify,
            ["--best", "bleu"],
            "--best bleu: no metric that classify is judged by.*; one of",
        ),
        (segment, ["--best", "rand_error"], "--best rand_error: only measured with --cells"),
        (classify, ["--patience", "2"], "--patience: only used with --best"),
        (detect, ["--system", "rcnn", "--best", "map50"], "--best: not used with --system rcnn"),
        (classify, ["--state", "last"], "--state: only used with --eval-only"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(module, flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        module.main(["--out", str(tmp_path / "run"), *flags])
    assert not (tmp_path / "run").exists()
