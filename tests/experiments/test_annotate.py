"""The annotate command, and predict for it, as a user runs them on a tiny table of images."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sklearn_metrics

from cnn_jax import data
from cnn_jax.errors import UserError
from experiments import annotate, predict, presets, states
from experiments import options as flags
from tests.checks import assert_same_bits
from tests.commands import leaves, per_class, rows, shows_its_pictures

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["--width", "0.25", "--image-size", "16", "--batch-size", "8", "--eval-batch-size", "16"]
STEPS = ["--steps", "6", "--report-every", "2", "--eval-every", "3"]
SPLIT = ["--test-every", "4", "--holdout-fraction", "0.25"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """48 images; `red` and `blue` hold by colour, either, both or none; `rare` in one image."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,red,blue,rare"]
    for i in range(48):
        red, blue = i % 2, i // 2 % 2
        noise = rng.integers(0, 40, (20, 24, 3))
        pixels = (noise + np.array([200 * red, 0, 200 * blue])).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        lines.append(f"{i}.png,{red},{blue},{int(i == 3)}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{root / 'labels.csv'},{root / 'images'}"


def train(table, out, *extra):
    arguments = [*SMALL, *STEPS, *SPLIT, "--learning-rate", "0.05", "--crop", "pad", "--flip"]
    annotate.main(["--data", table, "--out", str(out), *arguments, *extra])


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(table, out, "--decision", "per-label")
    return out


def test_the_data_is_described_before_the_first_step(table, tmp_path):
    given = ["--data", table, "--out", str(tmp_path / "out"), *SMALL, "--holdout-fraction", "0.25"]
    options = flags.parse(annotate.Options, given, presets.ANNOTATION)
    notices = annotate.build(options).notices
    assert notices[0].startswith("data: 36 training images, 12 for evaluation; 3 classes of ")
    assert "of the class rare" in notices[-1]


def test_a_run_leaves_its_folder_with_thresholds_and_a_page(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "result.json", "report.html", "samples"} <= names
    assert (trained / "samples" / "worst.png").exists()
    assert shows_its_pictures(trained)
    result = json.loads((trained / "result.json").read_text())
    contract = (
        "sample_precision sample_recall sample_f1 sample_f2 class_precision class_recall "
        "overall_precision overall_recall n_plus map hamming_loss loss"
    )
    assert set(contract.split()) <= set(result)
    thresholds = json.loads((trained / "thresholds.json").read_text())
    assert thresholds["step"] == 6
    assert list(thresholds["per_label"]) == ["red", "blue", "rare"]
    page = (trained / "report.html").read_text()
    for heading in (
        "Between floor and ceiling",
        "By label",
        "Precision over recall",
        "Worst confusions",
        "Labels together",
    ):
        assert heading in page
    assert "constant, 1" in page and "best, 1" in page


@pytest.mark.usefixtures("own_programs")
def test_the_same_command_gives_the_same_bits(table, trained, tmp_path):
    train(table, tmp_path / "again", "--decision", "per-label")
    assert rows(tmp_path / "again") == rows(trained)
    assert_same_bits(leaves(tmp_path / "again"), leaves(trained))


def test_the_test_split_is_judged_by_the_thresholds_of_the_evaluation(trained, tmp_path):
    before = (trained / "thresholds.json").read_text()
    last = [row for row in rows(trained) if row["split"] == "eval"][-1]
    table = tmp_path / "rows.jsonl"
    annotate.main(["--eval-only", "--out", str(trained), "--predictions", str(table)])
    examples = [json.loads(line) for line in table.read_text().splitlines()]
    by_class = per_class(trained)
    truth, guesses = (
        np.array([[name in row[key] for name in by_class] for row in examples])
        for key in ("truth", "prediction")
    )
    scores = np.array([[row["probability"][name] for name in by_class] for row in examples])
    expected = sklearn_metrics.precision_recall_fscore_support(truth, guesses, zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        ours = [one[key] for one in by_class.values()]
        np.testing.assert_allclose(ours, values, atol=1e-6)
    for number, one in enumerate(by_class.values()):
        holds = truth[:, number]
        area = 0.0
        if holds.any():
            area = sklearn_metrics.average_precision_score(holds, scores[:, number])
        assert one["average_precision"] == pytest.approx(area, abs=1e-6)
    assert rows(trained)[-1] == last
    assert (trained / "thresholds.json").read_text() == before
    found = {}
    for rule in ("per-label", "tuned", "threshold", "topk"):
        extra = ["--k", "2"] if rule == "topk" else []
        arguments = ["--eval-only", "--out", str(trained), "--split", "test", "--decision", rule]
        annotate.main([*arguments, *extra])
        found[rule] = json.loads((trained / "result.json").read_text())
        assert found[rule]["split"] == "test"
    assert (trained / "thresholds.json").read_text() == before
    # One run, one set of scores: the rules change the decisions and nothing else.
    assert len({(row["map"], row["loss"]) for row in found.values()}) == 1
    page = (trained / "report.html").read_text()
    assert "the 2 highest scores" in page


def test_predictions_are_the_evaluation_s(table, trained, capsys):
    source = data.open_source(
        table, "eval", formats=data.TAG_FORMATS, test_every=4, holdout_fraction=0.25
    )
    files = [source.describe(i) for i in range(len(source))]
    predict.main([str(trained), *files, "--json"])
    results = json.loads(capsys.readouterr().out)
    truth = np.array([source[i]["labels"] for i in range(len(source))])
    given = np.array(
        [[name in result["tags"] for name in source.class_names] for result in results]
    )
    hits = (truth & given).sum() / max(given.sum(), 1)
    evaluated = [row for row in rows(trained) if row["split"] == "eval"][-1]
    assert hits == pytest.approx(evaluated["overall_precision"])
    for result in results:
        assert list(result["probabilities"]) != []
        assert all(0 <= p <= 1 for p in result["probabilities"].values())
    predict.main([str(trained), files[0]])
    line = capsys.readouterr().out.strip()
    expected = "; ".join(f"{t} {results[0]['probabilities'][t]:.2f}" for t in results[0]["tags"])
    assert line == (expected or "no label")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--loss", "softmax", "--decision", "topk", "--k", "1"],
        # Twice as wide: among two units of the narrow network, draws decide what is learnt.
        [
            *("--loss", "warp", "--warp-ranks", "sampled", "--decision", "tuned"),
            *(
                "--mixup",
                "0.2",
                "--width",
                "0.25",
                "--dropout-rate",
                "0",
                "--learning-rate",
                "0.01",
            ),
        ],
        ["--focal-gamma", "2", "--ten-crop", "--resize", "20"],
    ],
)
def test_every_loss_trains(table, tmp_path, arguments):
    """Twelve steps make the evaluation's loss smaller than six do."""
    small = ["--model", "alexnet", "--stem", "small", "--width", "0.05", "--steps", "12"]
    train(table, tmp_path / "run", *small, "--eval-every", "6", *arguments)
    evaluated = [row["loss"] for row in rows(tmp_path / "run") if row["split"] == "eval"]
    assert evaluated[-1] < evaluated[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "folder:x"], r"unknown format 'folder'; .*known: shapes, csv, masks"),
        (["--data", "csv:nothing.csv"], r"give csv:FILE,IMAGES"),
        (["--decision", "topk", "--k", "4"], r"--k 4: the data has only 3 labels"),
        (["--decision", "topk", "--k", "0"], r"--k 0"),
        (["--threshold", "1.5"], r"--threshold 1.5: must be a number in \(0, 1\)"),
        (["--positive-weights", "1", "2"], r"--positive-weights: 2 numbers for 3 labels"),
        (["--loss", "warp", "--focal-gamma", "2"], r"--focal-gamma: only used with --loss sigmoid"),
        (["--warp-ranks", "sampled"], r"--warp-ranks: only used with --loss warp"),
        (["--loss", "hinge"], r"hinge"),
        (["--test-every", "1"], r"--test-every 1"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing_behind(
    table, tmp_path, arguments, message
):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message) as caught:
        train(table, out, *arguments)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_thresholds_that_do_not_fit_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"thresholds\.json: no thresholds chosen"):
        annotate.stored_thresholds(states.kept(tmp_path), ("a",))
    with pytest.raises(UserError, match=r"3 labels, .* the 1 labels of the data"):
        annotate.stored_thresholds(states.kept(trained), ("a",))
    (tmp_path / "thresholds.json").write_text('{"step": 3}')
    with pytest.raises(UserError, match="not what annotate writes"):
        annotate.stored_thresholds(states.kept(tmp_path), ("a",))


@pytest.mark.parametrize("name", presets.ANNOTATION)
def test_presets_are_options(name):
    data_flag = [] if name == "shapes" else ["--data", "csv:a,b"]
    options = flags.parse(annotate.Options, ["--preset", name, *data_flag], presets.ANNOTATION)
    assert options.run.preset == name
