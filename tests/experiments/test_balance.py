"""Class weights and balanced sampling of classify and detect, as a user asks for them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from experiments import class_weights, classify, detect
from experiments import options as flags
from tests.checks import assert_same_bits
from tests.commands import leaves, rows

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["--width", "0.25", "--image-size", "16", "--batch-size", "8", "--eval-batch-size", "16"]
STEPS = ["--steps", "6", "--report-every", "2", "--eval-every", "3", "--learning-rate", "0.05"]
BALANCED = ["--class-weights", "balanced", "--sampling", "balanced"]
NUMBERS = {"blue": 12, "green": 3, "red": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of unequal numbers of images for training, two held-out images of each."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, number in NUMBERS.items():
        for split, count in (("train", number), ("val", 2)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def train(folder, out, *extra):
    classify.main(["--data", f"folder:{folder}", "--out", str(out), *SMALL, *STEPS, *extra])


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(folder, out, *BALANCED)
    return out


def config(run):
    return json.loads((run / "config.json").read_text())


def test_the_weights_and_the_sampling_are_recorded(folder, trained):
    labels = np.repeat(np.arange(3), list(NUMBERS.values()))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = config(trained)
    np.testing.assert_allclose(found["weights_by_class"], expected, rtol=1e-5)
    assert found["class_weights"] == ["balanced"] and found["sampling"] == "balanced"
    assert found["examples_per_epoch"] == 20


def test_both_are_told_before_the_first_step(folder, tmp_path, capsys):
    train(folder, tmp_path / "run", *BALANCED, "--steps", "1")
    told = " ".join(capsys.readouterr().err.split())
    assert "class weights (balanced): blue 0.555556, green 2.22222, red 1.33333" in told
    # Of 20 draws each class has a third: 12 images of one share as many as 3 of another.
    assert "an epoch draws an example 0.556 to 2.22 times on average" in told


@pytest.mark.parametrize(
    "extra",
    [["--cache", "device"], ["--cache", "none"], ["--workers", "1", "--cache", "host"]],
    ids=["device", "none", "workers"],
)
def test_the_bits_do_not_show_how_examples_are_read(folder, trained, tmp_path, extra):
    train(folder, tmp_path / "run", *BALANCED, *extra)
    assert_same_bits(leaves(tmp_path / "run"), leaves(trained))


def test_a_run_that_stopped_goes_on_with_the_same_bits(folder, trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    newest = max(checkpoints.steps(out / "checkpoints"))
    shutil.rmtree(out / "checkpoints" / str(newest))
    classify.main(["--out", str(out), "--resume"])
    assert_same_bits(leaves(out), leaves(trained))
    assert rows(out) == rows(trained)
    classify.main(["--out", str(out), "--eval-only"])
    assert rows(out)[-1] == rows(trained)[-1]


def test_each_of_them_changes_the_run(folder, trained, tmp_path):
    alone = {}
    for name, extra in (("weights", BALANCED[:2]), ("sampling", BALANCED[2:]), ("none", [])):
        train(folder, tmp_path / name, *extra, "--steps", "2", "--report-every", "1")
        alone[name] = [row["loss"] for row in rows(tmp_path / name) if row["split"] == "train"]
    assert alone["weights"] != alone["none"] != alone["sampling"] != alone["weights"]
    # The weights of examples drawn alike leave the network's own batch as it was.
    assert config(tmp_path / "none")["weights_by_class"] == []


def test_the_stream_has_all_classes_alike(folder, tmp_path):
    arguments = ["--data", f"folder:{folder}", "--out", str(tmp_path / "run"), *SMALL, *STEPS]
    options = flags.parse(classify.Options, [*arguments, "--sampling", "balanced"], {})
    batches, count = classify.build(options).training_set()
    labels = np.concatenate([batches[step]["label"] for step in range(5)])
    assert count == 20 and len(labels) == 40
    assert set(np.bincount(labels[:20])) | set(np.bincount(labels[20:])) <= {6, 7}


def boxes(root):
    """Twelve images with boxes of `common`, two of which have one of `rare` too, in COCO's form."""
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(12):
        pixels = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"images/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 24, "height": 24})
        for category in (1, 1, 2) if i < 2 else (1,):
            box = [int(rng.integers(0, 10)), int(rng.integers(0, 10)), 12, 9]
            annotations.append({"image_id": i, "category_id": category, "bbox": box, "iscrowd": 0})
    for number, annotation in enumerate(annotations):
        annotation |= {"id": number, "area": 108}
    categories = [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    return f"coco:{root / 'boxes.json'},{root / 'images'}"


YOLO = [
    *("--model", "fast_yolo", "--width", "0.03", "--image-size", "64", "--grid", "4"),
    *("--batch-size", "4", "--max-objects", "3", "--warmup", "0", "--optimizer", "adam"),
    *("--min-score", "0", "--max-detections", "40", "--holdout-fraction", "0.2"),
    *("--steps", "4", "--eval-every", "2", "--learning-rate", "0.002"),
]


def test_detect_weighs_classes_and_repeats_images(tmp_path, capsys):
    spec, out = boxes(tmp_path), tmp_path / "run"
    sampling = ["--sampling", "repeat_factor", "--repeat-threshold", "0.5"]
    arguments = ["--data", spec, "--out", str(out), *YOLO, *sampling]
    detect.main([*arguments, "--class-weights", "balanced"])
    found, told = config(out), " ".join(capsys.readouterr().err.split())
    options = flags.stored(detect.Options, out)
    options = flags.replace(options, {"out": str(tmp_path / "other")})
    run = detect.build(options)
    batches, count = run.training_set()
    # The weights are those of the boxes of the images that are trained on.
    epoch = detect.SYSTEMS["yolo"](options).open("train")
    labels = np.concatenate([epoch[i]["labels"] for i in range(count)])
    expected = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    np.testing.assert_allclose(found["weights_by_class"], expected, rtol=1e-5)
    assert "sampling (repeat factor)" in told
    rare = [i for i in range(count) if 1 in epoch[i]["labels"]]
    factor = np.sqrt(0.5 / (len(rare) / count))
    share = factor / (len(rare) * factor + count - len(rare))
    drawn = np.concatenate([batches[step]["index"] for step in range(10 * count)])
    assert np.isin(drawn, rare).mean() == pytest.approx(len(rare) * share, abs=0.02)
    last = leaves(out)
    newest = max(checkpoints.steps(out / "checkpoints"))
    shutil.rmtree(out / "checkpoints" / str(newest))
    detect.main(["--out", str(out), "--resume"])
    assert_same_bits(leaves(out), last)


def test_weights_may_be_typed():
    typed = class_weights.typed
    assert typed((), "ab") == typed(("balanced",), "ab") == ()
    assert typed(("1", "2.5"), "ab") == (1.0, 2.5)
    assert typed(("b=3",), "abc") == (1.0, 3.0, 1.0)
    assert typed(("a=b=2", "b=4"), ["a=b", "b"]) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1", "2", "3"), "a number in .* for each of the 2 classes, or NAME=NUMBER for some"),
        (("1", "0"), "must be balanced, or a number"),
        (("1", "nan"), "must be balanced"),
        (("median_frequency",), "must be balanced, or a number"),
        (("balanced", "1"), "must be balanced"),
        (("cat=1", "2"), "must be balanced"),
        (("cat=1", "cat=2"), "must be balanced"),
        (("cats=1",), "no class 'cats', did you mean cat.; there are cat, dog"),
    ],
)
def test_weights_that_are_none_are_refused_in_a_line(given, message):
    with pytest.raises(UserError, match=message):
        class_weights.typed(given, ("cat", "dog"))


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        (classify, "--sampling balanced", "--sampling: not used with --data shapes"),
        (
            detect,
            "--system rcnn --data coco:a,b --sampling balanced",
            "not used with --system rcnn",
        ),
        (classify, "--data folder:x --repeat-threshold 0.1", "only used with --sampling repeat_f"),
        (classify, "--resume --out x --class-weights balanced", "no run there"),
    ],
)
def test_what_does_nothing_is_refused(verb, given, message):
    with pytest.raises(UserError, match=message):
        flags.parse(verb.Options, given.split(), verb.COMMAND.presets, verb.COMMAND.variant)


def test_weights_of_another_number_of_classes_are_refused(trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    content = config(out) | {"weights_by_class": [1.0]}
    (out / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config.json: 1 weights_by_class for 3 classes"):
        classify.main(["--out", str(out), "--eval-only"])
