"""The detect command with YOLO, and predict for it, as a user runs them on tiny images."""

import contextlib
import csv
import io
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from cnn_jax.metrics.detection.coco import evaluate_coco
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.training import checkpoints
from experiments import detect, predict, presets, states
from experiments import options as flags
from experiments.detection.common import DetectorOptions, stored_threshold
from tests.checks import assert_same_bits
from tests.commands import leaves, per_class, rows, shows_its_pictures

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = [
    *("--model", "fast_yolo", "--width", "0.03", "--image-size", "64", "--grid", "4"),
    *("--batch-size", "8", "--eval-batch-size", "8", "--max-objects", "3", "--warmup", "0"),
    # So little is learnt in a few steps that every score counts.
    *("--min-score", "0", "--max-detections", "40"),
]
STEPS = ["--steps", "4", "--report-every", "2", "--eval-every", "2"]
COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def picture(rng, path, objects):
    """A noisy picture of 20 x 24 pixels with filled boxes."""
    pixels = rng.integers(90, 130, (20, 24, 3))
    for name, (x1, y1, x2, y2) in objects:
        pixels[y1:y2, x1:x2] = COLORS[name]
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """32 images in COCO's format, 8 of them to evaluate: some without objects, `rare` nowhere."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        images, annotations = [], []
        for i in range(count):
            file = f"{split}{i}.png"
            objects = []
            for n in range(0 if i == 2 else 4 if i == 3 else 1 + i % 2):
                x, y = int(rng.integers(0, 12)), 5 * n
                objects.append((("red", "blue")[(i + n) % 2], (x, y, x + 9, min(y + 5, 20))))
            picture(rng, root / "images" / file, objects)
            images.append({"id": 10 + i, "file_name": file, "width": 24, "height": 20})
            for name, (x1, y1, x2, y2) in objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 10 + i,
                        "category_id": {"red": 3, "blue": 7}[name],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": i, "name": n} for i, n in ((3, "red"), (7, "blue"), (9, "rare"))]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def spec(photos):
    images = photos / "images"
    return f"coco:{photos / 'train.json'},{images},{photos / 'val.json'},{images}"


def train(photos, out, *extra):
    arguments = [*SMALL, *STEPS, "--learning-rate", "0.002", "--optimizer", "adam"]
    detect.main(["--data", spec(photos), "--out", str(out), *arguments, *extra])


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        train(photos, out)
    (out / "told.txt").write_text(" ".join(told.getvalue().split()))
    return out


def test_a_run_leaves_its_folder_with_a_threshold_and_a_page(photos, trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "result.json", "report.html", "samples"} <= names
    assert (trained / "samples" / "some.png").exists()
    assert shows_its_pictures(trained)
    result = json.loads((trained / "result.json").read_text())
    contract = (
        "map50 map50_11point coco_ap coco_ap50 coco_ap75 coco_ar100 precision recall f1 count_mae "
        "count_bias count_exact loss coordinate_loss confidence_loss class_loss"
    )
    assert set(contract.split()) <= set(result)
    config = json.loads((trained / "config.json").read_text())
    assert config["class_names"] == ["red", "blue", "rare"]
    # The base boxes come from the training set, and are the run's from then on.
    assert len(config["priors"]) == 6
    threshold = json.loads((trained / "threshold.json").read_text())
    assert threshold["step"] == 4
    assert threshold["score"] == result["score_threshold"] == stored_threshold(states.kept(trained))
    page = (trained / "report.html").read_text()
    for heading in (
        "Worst",
        "By class",
        "Counting",
        "Precision over recall",
        "Confusion",
        "Kinds of mistakes",
    ):
        assert heading in page
    assert "background" in page


def test_what_the_training_boxes_are_like_is_told_first(trained):
    told = (trained / "told.txt").read_text()
    assert "0 of 37 training boxes (0.0 %) are lost to cells that hold another: --grid 4" in told
    assert "1 of 24 training images have no objects" in told
    assert "data: 24 training images, 8 for evaluation; 3 classes of " in told
    assert "without any class" not in told
    assert "1 of 37 objects are left out, in 1 images with more than --max-objects 3" in told
    assert "base boxes" in told
    assert told.index("base boxes") < told.index("multiply-adds")


@pytest.mark.usefixtures("own_programs")
def test_the_same_command_gives_the_same_bits_and_resumes_with_them(photos, trained, tmp_path):
    out = tmp_path / "again"
    train(photos, out, "--steps", "4")
    assert rows(out) == rows(trained)
    assert_same_bits(leaves(out), leaves(trained))
    # As if it had been stopped after the first checkpoint.
    newest = max(checkpoints.steps(out / "checkpoints"))
    for path in (out / "checkpoints" / str(newest)).rglob("*"):
        if path.is_file():
            path.unlink()
    detect.main(["--out", str(out), "--resume"])
    assert_same_bits(leaves(out), leaves(trained))
    assert rows(out)[-1] == rows(trained)[-1]


def test_the_test_split_is_judged_by_the_stored_threshold(photos, trained):
    before = (trained / "threshold.json").read_text()
    table = trained / "rows.jsonl"
    only = ["--eval-only", "--out", str(trained), "--split", "test"]
    detect.main([*only, "--predictions", str(table)])
    row, by_class = rows(trained)[-1], per_class(trained)
    assert row["split"] == "test"
    examples = [json.loads(line) for line in table.read_text().splitlines()]
    objects = [one["class"] for example in examples for one in example["truth"]]
    for name, one in by_class.items():
        assert one["support"] == objects.count(name)
    for key, figure in (("coco_ap", "coco_ap"), ("coco_ap50", "coco_ap50"), ("map50", "ap50")):
        values = [one[figure] for one in by_class.values() if one[figure] is not None]
        assert row[key] == pytest.approx(np.mean(values), abs=1e-6)
    for example in examples:
        assert len(example["prediction"]) == len(example["probability"])
        assert example["probability"] == sorted(example["probability"], reverse=True)
    assert row["score_threshold"] == json.loads(before)["score"]
    detect.main(["--eval-only", "--out", str(trained), "--score-threshold", "0.25"])
    assert rows(trained)[-1]["score_threshold"] == 0.25
    assert (trained / "threshold.json").read_text() == before


def test_boxes_of_larger_copies_are_told_and_evaluated_as_those_of_the_images(
    photos, trained, tmp_path, capsys
):
    content = json.loads((photos / "val.json").read_text())
    for image in content["images"]:
        image.update(width=48, height=40)
    for annotation in content["annotations"]:
        annotation["bbox"] = [2 * side for side in annotation["bbox"]]
        annotation["area"] *= 4
    (tmp_path / "val.json").write_text(json.dumps(content))
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(
        config.replace(str(photos / "val.json"), str(tmp_path / "val.json"))
    )
    detect.main(["--out", str(run), "--eval-only"])
    told = " ".join(capsys.readouterr().err.split())
    assert "eval: boxes of 7 images are scaled to the image's own size" in told
    first, second = (json.loads((r / "result.json").read_text()) for r in (trained, run))
    assert {k: v for k, v in second.items() if k in ("map50", "coco_ap", "loss")} == {
        k: v for k, v in first.items() if k in ("map50", "coco_ap", "loss")
    }


def test_predictions_are_the_evaluation_s(photos, trained, capsys):
    content = json.loads((photos / "val.json").read_text())
    files = [str(photos / "images" / image["file_name"]) for image in content["images"]]
    predict.main([str(trained), *files, "--json"])
    results = json.loads(capsys.readouterr().out)
    assert results
    assert {"image_id", "category_id", "bbox", "score"} <= set(results[0])
    boxes = np.array([r["bbox"] for r in results], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    assert (boxes >= -1e-4).all() and (boxes <= [24.001, 20.001, 24.001, 20.001]).all()
    found = DetectionRows(
        np.array([r["image_id"] - 1 for r in results]),
        boxes.astype(np.float32),
        np.array([r["category_id"] - 1 for r in results]),
        np.array([r["score"] for r in results], np.float32),
    )
    # An image has four objects, more than are trained on: --max-objects 3. All are evaluated.
    annotations = content["annotations"]
    of_images = [a["image_id"] for a in annotations]
    assert max(map(of_images.count, of_images)) == 4
    wanted = np.array([a["bbox"] for a in annotations], np.float32)
    wanted[:, 2:] += wanted[:, :2]
    objects = ObjectRows(
        np.array([a["image_id"] - 10 for a in annotations]),
        wanted,
        np.array([{3: 0, 7: 1}[a["category_id"]] for a in annotations]),
    )
    numbers = evaluate_coco(found, objects, 3).summary()
    evaluated = [row for row in rows(trained) if row["split"] == "eval"][0:2][-1]
    assert numbers["coco_ar100"] > 0
    for key in ("coco_ap50", "coco_ar1", "coco_ar100"):
        assert evaluated[key] == pytest.approx(numbers[key], abs=1e-4)


def test_detections_of_several_views_are_joined(photos, trained):
    image = np.asarray(Image.open(next(iter(sorted(photos.glob("**/*.png"))))).convert("RGB"))
    (found,) = predict.load(trained, tta=("flip", "0.5")).predict([image])
    (mirrored,) = predict.load(trained, tta=("flip", "0.5")).predict([image[:, ::-1]])
    assert len(found["boxes"]) == len(found["scores"]) == len(found["names"]) > 0
    assert (np.diff(found["scores"]) <= 0).all()
    # The views of an image and of its mirror image are the same.
    np.testing.assert_allclose(found["scores"], mirrored["scores"], atol=1e-4)
    with pytest.raises(UserError, match=r"tta 1\.5: must be at most 1 for detect"):
        list(predict.load(trained, tta=("1.5",)).predict([image]))


def test_predictions_are_drawn_named_counted_and_cut_out(photos, trained, tmp_path, capsys):
    files = [str(photos / "images" / f"val{i}.png") for i in (0, 1)]
    everything = ["--score-threshold", "0"]
    predict.main([str(trained), *files, *everything, "--directory", str(tmp_path / "drawn")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == files
    assert " at " in lines[0]
    assert {p.name for p in (tmp_path / "drawn").iterdir()} == {"val0.png", "val1.png"}
    predict.main([str(trained), *files, *everything, "--count", "--json"])
    counts = json.loads(capsys.readouterr().out)
    assert [list(c["counts"]) for c in counts] == [["red", "blue", "rare"]] * 2
    crops = tmp_path / "crops"
    predict.main([str(trained), *files, *everything, "--crops", str(crops)])
    capsys.readouterr()
    total = sum(sum(c["counts"].values()) for c in counts)
    assert len(list(crops.rglob("*.png"))) == total == sum(line.count(" at ") for line in lines)
    predict.main([str(trained), files[0], "--score-threshold", "1", "--count"])
    assert capsys.readouterr().out == f"{files[0]}: red 0, blue 0, rare 0\n"
    # The same name twice is two pictures.
    predict.main([str(trained), files[0], files[0], "--directory", str(tmp_path / "two")])
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"val0-1.png", "val0-2.png"}
    # So are two images of one name, cut out too.
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        shutil.copy(files[0], tmp_path / place / "0.png")
    alike = [str(tmp_path / place / "0.png") for place in ("x", "y")]
    cut = ["--crops", str(tmp_path / "cut"), "--directory", str(tmp_path / "three"), *everything]
    predict.main([str(trained), *alike, *cut])
    assert {p.name for p in (tmp_path / "three").iterdir()} == {"x_0.png", "y_0.png"}
    names = [p.name for p in (tmp_path / "cut").rglob("*.png")]
    assert {name.rpartition("-")[0] for name in names} == {"x_0", "y_0"}
    with pytest.raises(UserError, match=r"x/0\.png: a prediction would replace this input"):
        predict.main([str(trained), alike[0], "--directory", str(tmp_path / "x")])


def test_a_video_and_a_folder_of_frames_are_counted(photos, trained, tmp_path, capsys):
    files = [str(photos / "images" / f"val{i}.png") for i in range(4)]
    video = str(tmp_path / "road.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (24, 20))
    (tmp_path / "frames").mkdir()
    for file in files:
        writer.write(cv2.imread(file))
        shutil.copy(file, tmp_path / "frames")
    writer.release()
    counted = [str(trained), "--count", "--score-threshold", "0"]
    predict.main(
        [*counted, video, "--frames", "3", "--csv", "--directory", str(tmp_path / "drawn")]
    )
    out, err = capsys.readouterr()
    table = list(csv.DictReader(out.splitlines()))
    assert [row["frame"] for row in table] == ["0", "1", "2"]
    assert list(table[0])[3:6] == ["counts.red", "counts.blue", "counts.rare"]
    assert sum(int(table[0][f"counts.{name}"]) for name in ("red", "blue", "rare")) > 0
    assert "road.avi: 3 frames counted, the last one at 0.20 s" in err  # beside the table
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {"road-counts.png", *(f"road-{i:06d}.png" for i in range(3))}
    # Frames of a folder are counted as photos are.
    predict.main([*counted, *files, "--json"])
    alone = json.loads(capsys.readouterr().out)
    predict.main([*counted, str(tmp_path / "frames"), "--json"])
    framed = json.loads(capsys.readouterr().out)
    assert [row["counts"] for row in framed] == [row["counts"] for row in alone]
    assert framed[0]["appeared"] == framed[0]["counts"]
    with pytest.raises(UserError, match="camera 987: there is none"):
        predict.main([*counted, "987"])


def test_pictures_in_both_splits_are_told(photos, tmp_path, capsys):
    copy = shutil.copytree(photos, tmp_path / "copy")
    shutil.copy(copy / "images/train5.png", copy / "images/val1.png")
    train(copy, tmp_path / "out", "--steps", "1", "--eval-every", "1")
    line = "data: 1 of 8 pictures for evaluation is in the training set too, byte for byte "
    assert f"{line}({copy}/images/val1.png is {copy}/images/train5.png)" in capsys.readouterr().err


def test_missing_images_are_named_or_left_out(photos, tmp_path, capsys):
    content = json.loads((photos / "train.json").read_text())
    content["images"][1]["file_name"] = "gone.png"
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = ["--data", spec(photos).replace(str(photos / "train.json"), f"{tmp_path}/train.json")]
    with pytest.raises(UserError, match=r"images\[1\]: .*gone\.png: cannot be read"):
        train(photos, tmp_path / "refused", *data)
    train(photos, tmp_path / "lenient", *data, "--skip-bad-images")
    assert "train: left out 1 of 24 images" in capsys.readouterr().err


def test_the_papers_form_trains_and_learns_nothing_from_images_without_objects(photos, tmp_path):
    content = json.loads((photos / "train.json").read_text())
    content["annotations"] = []
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "val.json").write_text(json.dumps(content))
    out = tmp_path / "run"
    data = f"coco:{tmp_path / 'train.json'},{photos / 'images'}"
    form = ["--classes", "sse", "--boxes", "free", "--boxes-per-cell", "2"]
    detect.main(["--data", data, "--out", str(out), *SMALL, "--steps", "2", *form])
    row = rows(out)[-1]
    assert row["map50"] is None and row["recall"] is None
    assert row["coordinate_loss"] == row["class_loss"] == 0
    assert row["count_mae"] is not None
    assert np.isfinite(row["loss"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "resnet20", "--image-size", "16", "--grid", "5"],
            r"grid 5: the maps of resnet20 have 16, 8, 4 cells",
        ),
        (["--grid", "0"], r"--grid 0: must be a whole number in \[1, "),
        (["--max-objects", "0"], r"--max-objects 0"),
        (["--similar", "red,bleu"], r"--similar: no class 'bleu', did you mean blue\?"),
        (["--priors", "0.1", "0.2"], r"--priors: 2 numbers for --boxes-per-cell 3"),
        (["--priors", *["2"] * 6], r"--priors 2.0 .*: must be numbers in \(0, 1\]"),
        (["--boxes", "free", "--priors", *["0.5"] * 6], r"--priors: only used with --boxes priors"),
        (["--scale", "1.5"], r"--scale 1.5: must be a number in \[0, 1\)"),
        (["--system", "ssd"], r"ssd"),
        (
            ["--system", "fast_rcnn", "--scales", "64", "0"],
            r"--scales 64 0: must be whole numbers",
        ),
        (["--model", "yolov9"], r"unknown model 'yolov9'"),
        (["--nms-threshold", "2"], r"--nms-threshold 2"),
        (["--data", "folder:x"], r"unknown format 'folder'; .*known: shapes, voc, coco, yolo"),
        (["--data", "coco:nothing.json,x"], r"nothing\.json"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing_behind(
    photos, tmp_path, arguments, message
):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message) as caught:
        train(photos, out, *arguments)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_objects_are_of_one_class_where_that_is_asked_for(photos, tmp_path, capsys):
    out = tmp_path / "out"
    train(photos, out, "--single-class", "thing", "--best", "map50")
    assert "1 class of 23 training images (training + evaluation: thing 23 + 7)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert list(per_class(out)) == ["thing"]
    photo = photos / "images" / "val0.png"
    predict.main([str(out), str(photo), "--count", "--csv", "--directory", str(tmp_path)])
    (counted,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert [name for name in counted if name.startswith("counts.")] == ["counts.thing"]
    with pytest.raises(UserError, match="no class 'red'; there are thing"):
        train(photos, tmp_path / "b", "--single-class", "thing", "--similar", "red,blue")
    with pytest.raises(UserError, match="must be a name"):
        train(photos, tmp_path / "c", "--single-class", " ")


def test_classes_that_are_alike_are_groups_of_labels():
    names = ["cat", "car", "dog", "bus"]
    options = DetectorOptions(similar=("dog,cat", "car,bus"))
    assert options.similar_labels(names) == [[2, 0], [1, 3]]


def test_a_missing_threshold_is_told(trained, tmp_path):
    with pytest.raises(UserError, match=r"threshold\.json: no threshold chosen"):
        stored_threshold(states.kept(tmp_path))
    (tmp_path / "threshold.json").write_text('{"step": 3}')
    with pytest.raises(UserError, match="not what detect writes"):
        stored_threshold(states.kept(tmp_path))
    with pytest.raises(UserError, match=r"--score-threshold 3"):
        predict.main([str(trained), "x.png", "--score-threshold", "3"])


@pytest.mark.parametrize("name", presets.DETECTION)
def test_presets_are_options(name):
    data_flag = [] if name == "shapes" else ["--data", "voc:x"]
    options = flags.parse(detect.Options, ["--preset", name, *data_flag], presets.DETECTION)
    assert options.run.preset == name
    assert options.detector.system in detect.SYSTEMS
