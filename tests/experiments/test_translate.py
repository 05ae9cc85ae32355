"""The translate command and its predictions, as a user runs them, on small runs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from experiments import predict, translate
from tests.checks import assert_same_bits
from tests.commands import leaves, rows, shows_its_pictures

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = [
    *("--embedding-size", "6", "--hidden-size", "8", "--batch-size", "8"),
    *("--eval-batch-size", "16", "--buckets", "2", "--max-length", "8"),
]
STEPS = ["--steps", "6", "--report-every", "2", "--eval-every", "3"]
ADAM = ["--optimizer", "adam", "--learning-rate", "0.01", "--weight-decay", "0"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Chinese for digits: what is said twice in English is so in Chinese."""
    digits = {"one": "一", "two": "二", "three": "三", "four": "四"}
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(150):
        words = rng.choice(list(digits), rng.integers(1, 5))
        lines.append(f"{' '.join(words)}\t{''.join(digits[w] for w in words)}\tsomeone")
    lines.append("one two three four one two three four one\t一\tsomeone")
    path = tmp_path_factory.mktemp("pairs") / "digits.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(file, out, *extra):
    given = ["--data", f"pairs:{file}", "--out", str(out), "--holdout-fraction", "0.15"]
    translate.main([*given, *SMALL, *STEPS, *ADAM, *extra])


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(file, out)
    return out


def test_a_run_leaves_what_the_contract_names(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "environment.json", "metrics.jsonl", "result.json"} <= names
    assert {"checkpoints", "best", "samples", "report.html", "vocabulary.json"} <= names
    result = json.loads((trained / "result.json").read_text())
    keys = {"exact_match", "token_accuracy", "perplexity", "bleu", "chrf", "loss"}
    assert keys <= result.keys()
    config = json.loads((trained / "config.json").read_text())
    assert "tok:zh" in config["signatures"]["bleu"]
    assert (trained / "samples" / "alignment_0.png").exists()
    assert shows_its_pictures(trained)
    page = (trained / "report.html").read_text()
    for text in ("Attention", "BLEU against length", "一", "tok:zh"):
        assert text in page


def test_the_best_evaluation_is_kept(trained):
    evaluations = [row for row in rows(trained) if row["split"] == "eval"]
    best = max(evaluations, key=lambda row: (row["bleu"], -row["step"]))
    assert checkpoints.steps(trained / "best") == (best["step"],)


def test_stopped_and_resumed_a_run_ends_with_the_same_bits(file, trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    shutil.rmtree(out / "checkpoints" / "6")
    translate.main(["--resume", "--out", str(out)])
    assert_same_bits(leaves(out), leaves(trained))
    evaluations = [row for row in rows(trained) if row["split"] == "eval"]
    assert [row for row in rows(out) if row["split"] == "eval"] == evaluations
    assert checkpoints.steps(out / "best") == checkpoints.steps(trained / "best")


def test_a_run_stopped_while_it_writes_its_first_files_can_be_started_again(
    file, tmp_path, monkeypatch
):
    out, replace = tmp_path / "run", files.replace
    described = {"environment.json", "network.svg", "vocabulary.json"}
    for count in range(len(described) + 1):
        written = []

        def stopped(path, content, count=count, written=written):
            if len(written) == count:
                raise KeyboardInterrupt
            written.append(path.name)
            replace(path, content)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files, "replace", stopped)
            train(file, out)
        assert not (out / "config.json").exists()
    assert set(written) == described
    train(file, out)
    assert rows(out)


def test_evaluating_again_gives_the_same_figures_and_beams_others(trained):
    (best,) = checkpoints.steps(trained / "best")
    before = next(r for r in rows(trained) if r["split"] == "eval" and r["step"] == best)
    table = trained / "rows.jsonl"
    translate.main(["--eval-only", "--out", str(trained), "--predictions", str(table)])
    assert rows(trained)[-1] == before
    examples = [json.loads(line) for line in table.read_text().splitlines()]
    right = [row["truth"] == row["prediction"] for row in examples]
    assert np.mean(right) == pytest.approx(before["exact_match"], abs=1e-6)
    translate.main(["--eval-only", "--out", str(trained), "--split", "test", "--beam", "3"])
    assert rows(trained)[-1]["split"] == "test"


def test_sentences_are_translated_and_drawn(trained, capsys):
    predict.main([str(trained), "one two", "three zebra"])
    said = capsys.readouterr()
    assert [line.startswith("  alignment: ") for line in said.out.splitlines()] == [False, True] * 2
    assert "not in the vocabulary: zebra" in said.err
    with Image.open(trained / "samples" / "predict_1.png") as picture:
        assert min(picture.size) > 50
    predict.main([str(trained), "one two", "--json"])
    (result,) = json.loads(capsys.readouterr().out)
    assert result["source"] == "one two"
    assert set(result["translation"]) <= set("一二三四")


def test_the_long_are_counted_and_told(file, tmp_path, capsys):
    train(file, tmp_path / "run", "--steps", "1", "--max-length", "4", "--attention", "none")
    said = capsys.readouterr().err
    assert "train: left out" in said
    assert "above --max-length 4" in said
    assert not (tmp_path / "run" / "samples").exists()


def test_a_run_starts_from_another_s_weights_and_words(file, trained, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text("".join(f"one two {i}\t一\n" for i in range(60)))
    still = ["--learning-rate", "1e-30", "--steps", "1"]
    train(other, tmp_path / "run", "--init-from", str(trained), *still)
    names = [out / "vocabulary.json" for out in (trained, tmp_path / "run")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "pairs:/nowhere"], r"/nowhere: cannot be read \(No such file"),
        (["--data", "shapes"], r"unknown format 'shapes'.*dates"),
        (["--attention", "dot"], r"attention dot: .*general"),
        (["--beam", "0"], r"--beam 0: must be a whole number in \[1, 1000\]"),
        (["--max-length", "1"], r"--max-length 1: must be a whole number in \[2, "),
        (["--sampling", "2"], r"--sampling 2.0: must be a number in \[0, 1\]"),
        (["--batch-size", "10"], r"--batch-size 10: not divisible by 4 devices"),
        (["--init-from", "/nowhere"], r"--init-from /nowhere: not a run of translate"),
        (["--encoder", "lstm"], r"--encoder"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing_behind(file, arguments, message, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        train(file, out, *arguments)
    assert not out.exists()


def test_presets_are_made_of_flags_that_exist():
    from experiments import options, presets

    for name in presets.TRANSLATION:
        parsed = options.parse(translate.Options, ["--preset", name], presets.TRANSLATION)
        assert parsed.run.preset == name
    assert options.parse(translate.Options, [], presets.TRANSLATION).run.preset == "dates"


def test_damaged_vocabularies_end_with_one_line(trained, tmp_path):
    whole = json.loads((trained / "vocabulary.json").read_text())
    path = tmp_path / "vocabulary.json"
    for content, problem in (
        ('{"source":', "not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "source: not the vocabulary of a run"),
        (json.dumps({**whole, "target": 3}), "target: not the vocabulary of a run (level"),
        (json.dumps({**whole, "target": {**whole["target"], "tokens": "x"}}), "no list of texts"),
        ('{"source": "\\ud800"}', "half of a surrogate pair"),
    ):
        path.write_text(content)
        with pytest.raises(UserError) as caught:
            translate.read_vocabularies(tmp_path)
        assert str(path) in str(caught.value)
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)


def test_sentences_that_training_has_as_well_are_told(file, tmp_path, capsys):
    part = tmp_path / "part.tsv"
    part.write_text("".join(file.read_text().splitlines(keepends=True)[:9]))
    train(file, tmp_path / "run", "--steps", "1", "--eval-data", f"pairs:{part}")
    assert f"eval: 9 of 9 source sentences are in the training data too, such as {part}:1" in (
        capsys.readouterr().err
    )
