"""The detect command with Fast R-CNN and R-CNN, as a user runs them on tiny images."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints, parallel
from cnn_jax.training.evaluation import evaluate
from experiments import detect, predict, states
from experiments import options as flags
from experiments.detection import common, rcnn
from tests.checks import assert_same_bits
from tests.commands import leaves, rows

pytestmark = pytest.mark.usefixtures("shared_programs")

COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
SMALL = [
    *("--model", "resnet20", "--width", "0.25", "--image-size", "16", "--max-objects", "3"),
    *("--max-proposals", "24", "--regions", "8"),
    *("--batch-size", "8", "--eval-batch-size", "8", "--warmup", "0", "--optimizer", "adam"),
    *("--learning-rate", "0.002", "--steps", "4", "--report-every", "2", "--eval-every", "2"),
]
GRID = [
    *("--proposals", "grid", "--grid-scales", "0.4", "0.6", "--grid-ratios", "1"),
    *("--grid-step", "0.5"),
]
FAST = [
    *("--system", "fast_rcnn", "--stage", "stage1", "--pool-size", "2", "--units", "8"),
    *("--background-iou", "0", "0.5"),
]
SLOW = ["--system", "rcnn", "--crop-size", "12", "--context", "1", "--fit-images", "10"]


def write(root, split, count, empty=False):
    """Pictures of 20 x 24 pixels with one or two filled boxes, in COCO's format."""
    rng = np.random.default_rng(count)
    images, annotations = [], []
    for i in range(count):
        pixels = rng.integers(90, 130, (20, 24, 3))
        for n in range(0 if i == 2 or empty else 1 + i % 2):
            name = ("red", "blue")[(i + n) % 2]
            x, y = int(rng.integers(0, 12)), 9 * n
            pixels[y : y + 9, x : x + 10] = COLORS[name]
            box = {"bbox": [x, y, 10, 9], "area": 90, "iscrowd": 0}
            ids = {"id": len(annotations) + 1, "image_id": i, "category_id": {"red": 1, "blue": 2}}
            annotations.append({**box, **ids, "category_id": ids["category_id"][name]})
        file = f"{split}{i}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / file)
        images.append({"id": i, "file_name": file, "width": 24, "height": 20})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}, {"id": 3, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    write(root, "train", 12)
    write(root, "val", 5)
    return root


def spec(photos):
    images = photos / "images"
    return f"coco:{photos / 'train.json'},{images},{photos / 'val.json'},{images}"


def train(photos, out, *extra):
    proposals = [] if "--proposals" in extra else GRID
    detect.main(["--data", spec(photos), "--out", str(out), *SMALL, *proposals, *extra])


def break_off(out):
    """Make the run look as if it had been stopped before its last checkpoint."""
    shutil.rmtree(out / "checkpoints" / str(max(checkpoints.steps(out / "checkpoints"))))


@pytest.fixture(scope="module")
def fast(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("fast") / "run"
    train(photos, out, *FAST, "--box-statistics", "data")
    return out


def test_fast_rcnn_leaves_its_folder(fast):
    names = {path.name for path in fast.iterdir()}
    assert {"config.json", "metrics.jsonl", "result.json", "report.html", "threshold.json"} <= names
    result = json.loads((fast / "result.json").read_text())
    contract = (
        "map50 map50_11point coco_ap precision recall f1 count_mae loss class_loss box_loss "
        "region_accuracy foreground_share"
    )
    assert set(contract.split()) <= set(result)
    # What the training set decided is the run's from then on.
    config = json.loads((fast / "config.json").read_text())
    assert len(config["box_means"]) == len(config["box_deviations"]) == 3 * 4
    assert min(config["box_deviations"]) > 0


def test_what_proposals_cover_is_told_first(photos, tmp_path, capsys):
    train(photos, tmp_path / "run", *FAST, "--steps", "1", "--no-multi-task", "--pooling", "align")
    captured = capsys.readouterr()
    told = captured.out + captured.err
    assert re.search(r"24\.0 proposals an image; .* of 6 objects in 5 evaluation images", told)
    last = re.search(r"^ +24( +[\d.]+ %){6}", told, re.M)
    assert last is not None
    shares = [float(x) for x in re.findall(r"[\d.]+(?= %)", last[0])]
    assert shares[0] > 50 and shares == sorted(shares[:-1], reverse=True) + shares[-1:]
    row = rows(tmp_path / "run")[-1]
    assert row["loss"] == row["class_loss"]


@pytest.mark.usefixtures("own_programs")
def test_fast_rcnn_repeats_and_resumes_with_the_same_bits(photos, fast, tmp_path):
    out = tmp_path / "again"
    train(photos, out, *FAST, "--box-statistics", "data")
    assert rows(out) == rows(fast)
    assert_same_bits(leaves(out), leaves(fast))
    break_off(out)
    detect.main(["--out", str(out), "--resume"])
    assert_same_bits(leaves(out), leaves(fast))
    assert rows(out)[-1] == rows(fast)[-1]


def test_the_short_form_with_full_ranks_detects_the_same(fast, photos, tmp_path):
    out = shutil.copytree(fast, tmp_path / "run")
    evaluated = [row for row in rows(out) if row["split"] == "eval"][-1]
    detect.main(["--eval-only", "--out", str(out), "--svd", "8", "8"])
    short = rows(out)[-1]
    assert short["loss"] == pytest.approx(evaluated["loss"], rel=1e-4)
    detect.main(["--eval-only", "--out", str(out), "--svd", "1", "1"])
    assert rows(out)[-1]["loss"] != pytest.approx(evaluated["loss"], rel=1e-4)
    with pytest.raises(UserError, match="fc6 has a rank of 1 to 8"):
        detect.main(["--eval-only", "--out", str(out), "--svd", "9", "8"])
    with pytest.raises(UserError, match="--svd: only used with --eval-only"):
        train(photos, tmp_path / "new", *FAST, "--svd", "8", "8")
    assert not (tmp_path / "new").exists()


def test_predictions_are_the_evaluation_s(photos, fast, capsys):
    files = [str(photos / "images" / f"val{i}.png") for i in range(2)]
    predict.main([str(fast), *files, "--json"])
    results = json.loads(capsys.readouterr().out)
    assert results
    boxes = np.array([r["bbox"] for r in results])
    assert (boxes >= -1e-4).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [24.001, 20.001]).all()


def test_without_any_object_and_without_proposals(photos, tmp_path):
    (tmp_path / "images").mkdir()
    for split, count in (("train", 6), ("val", 3)):
        write(tmp_path, split, count, empty=True)
    for number, low in enumerate(("0", "0.1")):
        out = tmp_path / f"run{number}"
        train(tmp_path, out, *FAST, "--steps", "2", "--background-iou", low, "0.5")
        row = rows(out)[-1]
        assert row["map50"] is None and row["box_loss"] == 0
        assert (row["loss"] == 0) == (low == "0.1")
    # Edge boxes want at least a pixel of a thousandth of the image; a plain image has no edges.
    for image in (tmp_path / "images").iterdir():
        Image.new("RGB", (24, 20)).save(image)
    arguments = ["--proposals", "edge_boxes", "--proposal-cache", str(tmp_path / "cache")]
    train(tmp_path, tmp_path / "plain", *FAST, *arguments, "--proposal-workers", "0")
    assert np.isfinite(rows(tmp_path / "plain")[-1]["loss"])
    assert list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def slow(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("slow") / "run"
    train(photos, out, *SLOW)
    return out


def test_rcnn_leaves_what_its_stages_found(slow):
    assert checkpoints.steps(slow / "finished") == (4,)
    assert len(list((slow / "features" / "4").glob("0*.safetensors"))) == 10
    found = leaves(slow, "finished")["params"]
    assert set(found) == {"network", "classes", "boxes"}
    weights = load_file(slow / "features/4/svms.safetensors")["weights"]
    np.testing.assert_array_equal(weights, found["classes"]["weights"])
    assert weights.shape == (16, 3)
    assert not weights[:, 2].any() and weights[:, 0].any()
    result = json.loads((slow / "result.json").read_text())
    assert result["step"] == 4 and np.isfinite(result["map50"])
    # The network's own evaluation half way, and the detector's.
    assert [row["split"] for row in rows(slow)] == ["train", "eval", "train", "eval"]


@pytest.mark.parametrize("stage", ["fine-tuning", "features", "svms", "whole"])
def test_rcnn_resumes_at_the_stage_it_was_in(slow, tmp_path, stage):
    out = shutil.copytree(slow, tmp_path / "run")
    expected = leaves(slow, "finished")
    shutil.rmtree(out / "finished")
    with pytest.raises(UserError, match="stages have not all ended; --resume"):
        detect.main(["--eval-only", "--out", str(out)])
    if stage == "svms":
        (out / "features/4/svms.safetensors").unlink()
    elif stage != "whole":
        for name in ("svms.safetensors", "box_regressions.safetensors"):
            (out / "features" / "4" / name).unlink()
        for path in sorted((out / "features" / "4").iterdir())[6:]:
            path.unlink()
    if stage == "fine-tuning":
        shutil.rmtree(out / "features")
        break_off(out)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    detect.main(["--out", str(out), "--resume"])
    assert_same_bits(leaves(out, "finished"), expected)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert rows(out)[-1] == rows(slow)[-1]


def test_rcnn_made_longer_goes_through_its_stages_again(slow, tmp_path):
    out = shutil.copytree(slow, tmp_path / "run")
    detect.main(["--out", str(out), "--resume", "--steps", "6"])
    assert checkpoints.steps(out / "finished") == (6,)
    assert (out / "features" / "6" / "svms.safetensors").exists()
    assert json.loads((out / "result.json").read_text())["step"] == 6
    with pytest.raises(UserError, match="--state: not used with --system rcnn"):
        detect.main(["--out", str(out), "--eval-only", "--state", "last"])
    with pytest.raises(UserError, match=r"--state last: .* has one state, which its last stage"):
        predict.main([str(out), "x.png", "--state", "last"])


def test_rcnn_s_last_evaluation_stands_once_in_its_rows(slow, tmp_path):
    """Also where a run is killed between the row and the result; a whole run is not evaluated."""
    out = shutil.copytree(slow, tmp_path / "run")
    detect.main(["--out", str(out), "--resume"])
    assert (out / "metrics.jsonl").read_bytes() == (slow / "metrics.jsonl").read_bytes()
    (out / "result.json").unlink()
    detect.main(["--out", str(out), "--resume"])
    assert rows(out) == rows(slow)
    assert json.loads((out / "result.json").read_text())["step"] == 4


@pytest.mark.parametrize("name", ["svms.safetensors", "0000003.safetensors"])
def test_what_a_stage_left_and_is_damaged_is_named(slow, tmp_path, name):
    out = shutil.copytree(slow, tmp_path / "run")
    shutil.rmtree(out / "finished")
    for fitted in ("svms.safetensors", "box_regressions.safetensors"):
        if name != fitted:
            (out / "features" / "4" / fitted).unlink()
    path = out / "features" / "4" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: damaged .*delete it, and --res"):
        detect.main(["--out", str(out), "--resume"])
    assert not checkpoints.steps(out / "finished")


def network_s_own(run):
    """Evaluate the fine-tuned network by itself, with nothing fitted on its features."""
    system = rcnn.RcnnSystem(flags.stored(detect.Options, run))
    held_out = system.open("eval")
    names = held_out.class_names
    evaluation = common.box_evaluation(system.options, names, system.image_size)
    network = system.build_task(names, evaluation).network
    state, _ = states.restored(network, run / "checkpoints")
    step = parallel.compile_evaluation_step(network)
    batches = system.evaluation_set(held_out)
    return evaluate(network, step, parallel.replicate(state), batches).metrics


def test_rcnn_judges_with_and_without_what_was_fitted(slow, photos, tmp_path, capsys):
    out = shutil.copytree(slow, tmp_path / "run")
    bare = shutil.copytree(slow, tmp_path / "bare")
    shutil.rmtree(bare / "finished")
    network = network_s_own(bare)
    plain = ["--classifier", "softmax", "--no-regress-boxes"]
    detect.main(["--eval-only", "--out", str(out), *plain])
    row = rows(out)[-1]
    for name in ("loss", "map50", "coco_ap"):
        assert row[name] == pytest.approx(network[name], rel=1e-5)
    capsys.readouterr()
    predict.main([str(slow), str(photos / "images" / "val0.png"), "--json"])
    assert json.loads(capsys.readouterr().out)
    with pytest.raises(UserError, match="--recalibrate: not used with --system rcnn"):
        detect.main(["--eval-only", "--out", str(out), "--recalibrate"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*FAST, "--stage", "stage9"], r"no map 'stage9'"),
        ([*FAST, "--pool-size", "0"], r"--pool-size 0"),
        ([*FAST, "--units", "0"], r"--units 0"),
        ([*FAST, "--svd", "3"], r"--svd: only used with --eval-only"),
        ([*FAST, "--box-means", "1"], r"--box-means and --box-deviations"),
        ([*FAST, "--regions", "0"], r"--regions 0"),
        ([*FAST, "--background-iou", "0.5", "0.1"], r"--background-iou"),
        ([*FAST, "--max-proposals", "0"], r"--max-proposals 0"),
        ([*FAST, "--train-examples", "0"], r"--train-examples 0"),
        ([*FAST, "--proposals", "guess"], r"guess"),
        ([*FAST, "--model", "yolo"], r"yolo is a grid detector, not a"),
        ([*SLOW, "--crop-size", "4"], r"--crop-size 4"),
        ([*SLOW, "--context", "6"], r"--context 6: nothing is left of --crop-size 12"),
        ([*SLOW, "--classifier", "forest"], r"forest"),
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


def test_a_class_that_is_not_there_is_told_before_the_search(photos, tmp_path):
    cache = tmp_path / "cache"
    search = ["--proposals", "edge_boxes", "--proposal-cache", str(cache)]
    with pytest.raises(UserError, match="no class 'bleu'"):
        train(photos, tmp_path / "out", *FAST, *search, "--similar", "red,bleu")
    assert not cache.exists()
