"""The classify and predict commands, as a user runs them: on small runs, wholly, and killed."""

import csv
import itertools
import json
import shutil
from functools import partial

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn import metrics as sklearn_metrics

from cnn_jax.errors import UserError
from cnn_jax.ops.whitening import whitening_filters
from cnn_jax.runs.claim import claimed
from cnn_jax.training import prng
from cnn_jax.training.state import create
from cnn_jax.training.step import train_step
from experiments import classify, predict, trainer
from experiments import options as flags
from tests.checks import assert_same_bits
from tests.commands import leaves, per_class, rows, shows_its_pictures

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["--width", "0.25", "--image-size", "16", "--batch-size", "8", "--eval-batch-size", "16"]
STEPS = ["--steps", "6", "--report-every", "2", "--eval-every", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that colour tells apart, eight training and three held-out images of each."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 3)):
        for label, colour in (("blue", (30, 60, 200)), ("red", (200, 60, 30))):
            directory = root / split / label
            directory.mkdir(parents=True)
            for i in range(number):
                noise = rng.integers(-25, 25, (20, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(directory / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(folder, out)
    return out


def train(folder, out, *extra):
    arguments = [*SMALL, *STEPS, "--learning-rate", "0.05", "--crop", "pad", "--flip", *extra]
    classify.main(["--data", f"folder:{folder}", "--out", str(out), *arguments])


def test_the_data_is_described_before_the_first_step(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "val/red")
    shutil.copy(copy / "train/red/3.png", copy / "val/blue/0.png")
    (copy / "train/red/notes.txt").write_text("no image")
    train(copy, tmp_path / "out", "--steps", "1", "--eval-every", "1")
    lines = capsys.readouterr().err.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("resnet20"))
    assert lines[:first] == [
        f"{copy}/train: 1 file was left out, as no images: 1 .txt",
        "data: 16 training images, 3 for evaluation; 2 classes of 8 training images (training + "
        "evaluation: blue 8 + 3, red 8 + 0)",
        "data: no image for evaluation of the class red",
        "data: 1 of 3 pictures for evaluation is in the training set too, byte for byte "
        f"({copy}/val/blue/0.png is {copy}/train/red/3.png); what is measured on them is too good",
        "reading: in threads, as steps run on the same processors",
    ]


def test_a_run_leaves_the_folder_that_the_contract_names(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "environment.json", "metrics.jsonl", "result.json"} <= names
    assert {"checkpoints", "samples", "report.html"} <= names
    assert shows_its_pictures(trained)
    result = json.loads((trained / "result.json").read_text())
    assert (result["step"], result["split"]) == (6, "eval")
    last = rows(trained)[-1]
    assert result["top1"] == last["top1"] and result["loss"] == last["loss"]
    # Of the six held-out images a whole number is right.
    assert result["top1"] * 6 == pytest.approx(round(result["top1"] * 6), abs=1e-5)
    config = json.loads((trained / "config.json").read_text())
    assert config["class_names"] == ["blue", "red"]


@pytest.mark.usefixtures("own_programs")
def test_the_same_command_gives_the_same_bits(folder, trained, tmp_path):
    train(folder, tmp_path / "again")
    assert rows(tmp_path / "again") == rows(trained)
    assert_same_bits(leaves(tmp_path / "again"), leaves(trained))


@pytest.mark.parametrize("cache", ["device", "none"])
def test_the_bits_do_not_show_where_examples_are_kept(folder, trained, tmp_path, cache):
    train(folder, tmp_path / "run", "--cache", cache)
    assert_same_bits(leaves(tmp_path / "run"), leaves(trained))
    assert rows(tmp_path / "run") == rows(trained)


def test_the_task_of_the_command_runs_unmapped(folder, tmp_path):
    """Under plain `jit`, on one device: the network has batch normalisation and no mapped axis."""
    arguments = ["--data", f"folder:{folder}", "--out", str(tmp_path / "run"), *SMALL, *STEPS]
    options = flags.parse(classify.Options, arguments, {})
    run = classify.build(options)
    task, optimizer = classify.build_task(options, ["blue", "red"]), optax.sgd(0.05)
    batches, _ = run.training_set()
    state = create(*task.init(prng.stream(prng.root(0), "init")), optimizer)
    step = jax.jit(partial(train_step, task=task, optimizer=optimizer))
    losses = []
    for batch in itertools.islice(batches.iterate(0), 12):
        state, sums = step(state, batch, prng.root(0))
        losses.append(float(sums["loss"]) / float(sums["examples"]))
    assert int(state.step) == 12
    assert losses[-1] < 0.5 * losses[0]


def test_another_seed_gives_another_run(folder, trained, tmp_path):
    train(folder, tmp_path / "other", "--seed", "1")
    assert rows(tmp_path / "other") != rows(trained)


def test_a_run_is_not_overwritten(folder, trained):
    with pytest.raises(UserError, match="already holds a run"):
        train(folder, trained)


def test_a_folder_that_another_run_writes_in_is_refused(folder, tmp_path):
    out = tmp_path / "run"
    with claimed(out), pytest.raises(UserError, match="another process is writing in this folder"):
        train(folder, out)
    assert not out.exists()


def test_evaluating_again_gives_the_same_figures(folder, trained, tmp_path):
    before, by_class = rows(trained)[-1], per_class(trained)
    table = tmp_path / "rows.csv"
    classify.main(["--eval-only", "--out", str(trained), "--predictions", str(table)])
    assert rows(trained)[-1] == before
    assert per_class(trained) == by_class
    with table.open(newline="") as file:
        found = list(csv.DictReader(file))
    names = sorted(str(path) for path in (folder / "val").glob("*/*.png"))
    assert [row["name"] for row in found] == names
    truth, guesses = ([row[key] for row in found] for key in ("truth", "prediction"))
    assert truth == [name.split("/")[-2] for name in names]
    assert all(0.5 <= float(row["probability"]) <= 1 for row in found)  # of two classes
    for average in ("macro", "weighted"):
        theirs = sklearn_metrics.precision_recall_fscore_support(
            truth, guesses, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), theirs, strict=False):
            assert before[f"{average}_{name}"] == pytest.approx(value, abs=1e-6)
    blue = [
        float(row["probability"]) * (1 if row["prediction"] == "blue" else -1)
        + (row["prediction"] != "blue")
        for row in found
    ]
    area = sklearn_metrics.roc_auc_score([name == "blue" for name in truth], blue)
    assert by_class["blue"]["auroc"] == pytest.approx(area, abs=1e-6)
    assert before["macro_auroc"] == pytest.approx(area, abs=1e-6)
    assert {name: one["support"] for name, one in by_class.items()} == {"blue": 3, "red": 3}


def test_a_table_of_another_form_is_refused_before_anything_is_done(folder, tmp_path):
    with pytest.raises(UserError, match=r"rows\.txt: must end in \.csv or \.jsonl"):
        train(folder, tmp_path / "out", "--predictions", str(tmp_path / "rows.txt"))
    assert not (tmp_path / "out").exists()


def test_predictions_are_the_evaluation_s(folder, trained, capsys):
    images = sorted(str(path) for path in (folder / "val").glob("*/*.png"))
    predict.main([str(trained), *images, "--json"])
    results = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in results] == images
    right = [r["predictions"][0]["label"] == r["image"].split("/")[-2] for r in results]
    assert np.mean(right) == pytest.approx(
        json.loads((trained / "result.json").read_text())["top1"]
    )
    for result in results:
        assert sum(p["probability"] for p in result["predictions"]) == pytest.approx(1, abs=1e-5)
    predict.main([str(trained), images[0], "--top", "2"])
    first, second = capsys.readouterr().out.strip().split("; ")
    assert float(first.split()[1]) >= float(second.split()[1])


def test_python_gives_the_numbers_of_the_command(folder, trained, tmp_path, capsys):
    table = tmp_path / "found.csv"
    predict.main([str(trained), str(folder / "val"), "--predictions", str(table), "--top", "1"])
    assert capsys.readouterr().out == f"predictions of 6 inputs: {table}\n"
    with table.open(newline="") as file:
        written = list(csv.DictReader(file))
    loaded = predict.load(trained, top=1, batch_size=4)
    files = sorted((folder / "val").glob("*/*.png"))
    arrays = (np.asarray(Image.open(file)) for file in files)
    for row, file, of_file, of_array in zip(
        written, files, loaded.predict(files), loaded.predict(arrays), strict=True
    ):
        assert row["image"] == str(file)
        (best,) = of_file["predictions"]
        assert row["predictions.1.label"] == best["label"]
        assert float(row["predictions.1.probability"]) == pytest.approx(
            best["probability"], abs=1e-6
        )
        np.testing.assert_allclose(of_array["probabilities"], of_file["probabilities"], atol=1e-6)
        assert of_file["probabilities"].max() == pytest.approx(best["probability"])
    with pytest.raises(UserError, match="top 0: must be a whole number"):
        predict.load(trained, top=0)
    with pytest.raises(UserError, match=r"config\.json"):
        predict.load(tmp_path)


def test_views_of_an_image_are_averaged(folder, trained, capsys):
    image = np.asarray(Image.open(folder / "val/red/0.png"))[:16, :16]
    plain = predict.load(trained)
    both = [one["probabilities"] for one in plain.predict([image, image[:, ::-1]])]
    (averaged,) = predict.load(trained, tta=("flip",)).predict([image])
    np.testing.assert_allclose(averaged["probabilities"], np.mean(both, axis=0), atol=1e-5)
    predict.main([str(trained), str(folder / "val/red/0.png"), "--tta", "flip", "1.25"])
    assert capsys.readouterr().out.startswith(("red 0.", "red 1.", "blue 0.", "blue 1."))


def test_inputs_are_read_a_batch_at_a_time(trained, folder):
    """Of any number of inputs, no more are held than a batch has."""
    image, read = np.asarray(Image.open(folder / "val/red/0.png")), 0

    def many():
        nonlocal read
        for _ in range(100):
            read += 1
            yield image

    found = predict.load(trained, batch_size=4).predict(many())
    for number in range(1, 101):
        next(found)
        assert read <= number + 4


def test_a_run_starts_from_another_s_weights(folder, trained, tmp_path):
    start = ["--init-from", str(trained), "--learning-rate", "1e-30", "--weight-decay", "0"]
    train(folder, tmp_path / "next", *start)
    assert_same_bits(leaves(tmp_path / "next")["params"], leaves(trained)["params"])


def test_bad_images_are_named_or_left_out(folder, tmp_path, capsys):
    import shutil

    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    (photos / "train" / "red" / "x.jpg").write_text("not a picture")
    (photos / "val" / "blue" / "y.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"[xy]\.(jpg|png)"):
        train(photos, tmp_path / "refused")
    train(photos, tmp_path / "lenient", "--skip-bad-images")
    said = capsys.readouterr().err
    assert "train: left out 1 of 17 images" in said
    assert "eval: left out 1 of 7 images" in said
    assert "x.jpg" in said
    assert "y.png" in said


FAST = ["--preset", "cifar10_fast", "--width", "0.05", "--image-size", "16", "--whiten", "10"]
FAST += ["--batch-size", "8", "--eval-batch-size", "16", "--lookahead", "2"]
FAST += ["--frozen-after", "whiten/bias=1", "--warmup", "1"]


def fast(folder, out, *extra):
    classify.main(["--data", f"folder:{folder}", "--out", str(out), *FAST, *STEPS, *extra])


@pytest.fixture(scope="module")
def quickly_trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("fast") / "run"
    fast(folder, out)
    return out


def test_the_fast_recipe_keeps_its_filters_and_freezes_their_bias(folder, quickly_trained):
    """The bias is trained for the first epoch, which is two steps of 8 of 16 images."""
    early, late = (leaves(quickly_trained, step=step) for step in (3, 6))
    options = flags.stored(classify.Options, quickly_trained)
    training = trainer.open_source(options, "train", image_size=16)
    task = classify.build_task(options, training.class_names)
    drawn, _ = task.init(prng.stream(prng.root(0), "init"))
    first = classify.first_parameters(options, task, training, drawn)
    for state in (early, late):
        np.testing.assert_array_equal(
            state["params"]["whiten"]["kernel"], first["whiten"]["kernel"]
        )
    # Ten images of the first epoch's order, normalised, have white patches.
    images = list(classify.first_images(options, task, training, 10))
    assert len(images) == 10 and images[0].shape == (16, 16, 3)
    filters = whitening_filters(images, (2, 2))
    np.testing.assert_array_equal(first["whiten"]["kernel"][..., :12], filters)
    assert (early["params"]["whiten"]["bias"] != 0).all()
    assert_same_bits(early["params"]["whiten"]["bias"], late["params"]["whiten"]["bias"])


def test_the_fast_recipe_resumes_with_the_same_bits(folder, quickly_trained, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(quickly_trained, out)
    for path in (out / "checkpoints" / "6").rglob("*"):
        if path.is_file():
            path.unlink()
    classify.main(["--out", str(out), "--resume"])
    assert_same_bits(leaves(out), leaves(quickly_trained))
    assert rows(out)[-1] == rows(quickly_trained)[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet21"], r"resnet21.*resnet20"),
        (["--data", "folder:/nowhere"], r"folder:/nowhere: no such folder"),
        (["--data", "foldr:x"], r"foldr"),
        (["--batch-size", "10"], r"--batch-size 10: not divisible by 4 devices"),
        (["--optimizer", "sdg"], r"--optimizer sdg: optax has no such optimizer; nearest: sgd"),
        (["--steps", "3", "--epochs", "1"], r"--steps and --epochs"),
        (["--steps", "0"], r"--steps 0"),
        (["--model", "inception_v3", "--image-size", "32"], r"75"),
        (
            ["--auxiliary"],
            r"--auxiliary: only used with --model googlenet, .*not with .*airbench94",
        ),
        (["--optimizer-options", "b9=1"], r"b9"),
        (["--init-from", "nothing.safetensors"], r"nothing\.safetensors"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing_behind(arguments, message, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        classify.main([*SMALL, *STEPS, "--out", str(out), *arguments])
    assert not out.exists()


def test_a_checkpoint_of_other_classes_is_refused(folder, trained, tmp_path):
    message = r"params/head/kernel is float32\[16,2\] in the checkpoint but float32\[16,"
    other = [*SMALL, *STEPS, "--model", "resnet20", "--init-from", str(trained)]
    with pytest.raises(UserError, match=message):
        classify.main([*other, "--out", str(tmp_path / "out")])
