"""The pack command, and runs on what it wrote: the same bits as from the data itself."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, pack, predict, segment
from tests.checks import assert_same_bits
from tests.commands import leaves, rows

pytestmark = pytest.mark.usefixtures("shared_programs")

EVERY = ["--batch-size", "4", "--eval-batch-size", "4", "--steps", "3", "--eval-every", "3"]
COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEG photos of several sizes, some turned by EXIF, with what each task knows of them."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    listed, annotations, table = [], [], ["file,light,dark"]
    for number in range(COUNT):
        height, width = rng.integers(130, 170, 2).tolist()
        pixels = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
        x, y = rng.integers(0, 20, 2).tolist()
        mask = np.zeros((height, width), np.uint8)
        mask[y : y + 58, x : x + 45] = 1 + number % 2
        pixels[mask > 0] += np.uint8(80 * (1 + number % 2))
        exif = Image.Exif()
        exif[0x0112] = 3 if number % 5 == 0 else 1
        image = Image.fromarray(pixels[::-1, ::-1] if number % 5 == 0 else pixels)
        name = f"{number}.jpg"
        split = "val" if number % 3 == 0 else "train"
        for place in (f"classes/{split}/{'ab'[number % 2]}", "images", f"masks/images/{split}"):
            (root / place).mkdir(parents=True, exist_ok=True)
            image.save(root / place / name, exif=exif)
        (root / f"masks/labels/{split}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / f"masks/labels/{split}/{number}.png")
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
        for box in [[x, y, 45, 58]] * (number != 4):
            own = {"image_id": number, "category_id": number % 2, "bbox": box}
            annotations.append({"id": len(annotations), **own})
        table.append(f"{name},{number % 2},{number % 3 % 2}")
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    (root / "labels.csv").write_text("\n".join(table))
    return root


def command(task, photos):
    """The command of a task, its data, the flags of its canvases, and its other flags."""
    small = ["--model", "airbench94", "--width", "0.1"]
    whole = ["--image-size", "16", "--crop", "resized"]
    table = {
        "classify": (classify, f"folder:{photos}/classes", whole, [*small, "--flip"]),
        "annotate": (annotate, f"csv:{photos}/labels.csv,{photos}/images", whole, small),
        "detect": (
            detect,
            f"coco:{photos}/boxes.json,{photos}/images",
            ["--image-size", "64", "--model", "fast_yolo"],
            # The base boxes come from the training set's boxes.
            ["--width", "0.03", "--grid", "4", "--max-objects", "3", "--max-detections", "20"],
        ),
        "segment": (
            segment,
            f"masks:{photos}/masks",
            ["--image-shape", "16", "24", "--model", "unet_same"],
            # The weights come from the pixels of the training set's masks.
            ["--width", "0.05", "--class-weights", "median_frequency", "--border-weight", "2"],
        ),
    }
    return table[task]


def packed_at(folder, task, photos):
    _, data, canvases, _ = command(task, photos)
    pack.main(["--task", task, "--data", data, *canvases, "--out", str(folder)])


@pytest.mark.parametrize("task", ["classify", "annotate", "detect", "segment"])
def test_a_training_from_packed_data_is_that_from_the_data(photos, tmp_path, task, capsys):
    verb, data, canvases, others = command(task, photos)
    packed_at(tmp_path / "packed", task, photos)
    told = capsys.readouterr().out
    assert "examples" in told and "free" in told
    flags = [*EVERY, *canvases, *others]
    verb.main(["--data", data, "--out", str(tmp_path / "source"), *flags])
    spec = f"packed:{tmp_path / 'packed'}"
    verb.main(["--data", spec, "--out", str(tmp_path / "run"), *flags])
    assert_same_bits(leaves(tmp_path / "run"), leaves(tmp_path / "source"))
    assert rows(tmp_path / "run") == rows(tmp_path / "source")
    assert (tmp_path / "run" / "report.html").exists()
    # The split `test` is packed too.
    again = ["--out", str(tmp_path / "run"), "--eval-only", "--split", "test"]
    verb.main(again)
    pack.main(["--out", str(tmp_path / "packed"), "--verify"])
    assert "are as written" in capsys.readouterr().out
    # Predictions need no data.
    shutil.rmtree(tmp_path / "packed")
    told = []
    for run in ("run", "source"):
        predict.main([str(tmp_path / run), str(photos / "images" / "1.jpg"), "--json"])
        told.append(capsys.readouterr().out.replace(str(tmp_path / run), "RUN"))
    assert told[0] == told[1] and told[0]


@pytest.mark.slow
@pytest.mark.fused
def test_every_way_to_read_and_to_keep_gives_the_same_checkpoint(photos, tmp_path):
    verb, data, canvases, others = command("classify", photos)
    packed_at(tmp_path / "packed", "classify", photos)
    flags = [*EVERY, "--steps", "5", *canvases, *others]
    expected = None
    for number, (spec, workers, cache) in enumerate(
        (spec, workers, cache)
        for spec in (data, f"packed:{tmp_path / 'packed'}")
        for workers in ("0", "1", "2")
        for cache in ("host", "none", "device")
    ):
        out = tmp_path / str(number)
        readers = ["--workers", workers, "--cache", cache]
        verb.main(["--data", spec, "--out", str(out), *flags, *readers])
        found = leaves(out)
        expected = found if expected is None else expected
        assert_same_bits(found, expected)


def test_built_in_scenes_are_packed_and_read(tmp_path):
    flags = ["--image-size", "16", "--model", "resnet20"]

    def few(count):
        return {"train": count, "eval": 6, "test": 6}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_jax.data.formats.shapes.EXAMPLES_PER_EPOCH", few(16))
        pack.main(["--data", "shapes", *flags, "--out", str(tmp_path / "packed")])
        others = [*EVERY, "--preset", "shapes", *flags, "--width", "0.25"]
        for name, spec in (("a", "shapes"), ("b", f"packed:{tmp_path / 'packed'}")):
            classify.main(["--data", spec, "--out", str(tmp_path / name), *others])
    assert_same_bits(leaves(tmp_path / "b"), leaves(tmp_path / "a"))


def test_what_cannot_be_packed_or_read_ends_with_one_line(photos, tmp_path):
    packed_at(tmp_path, "classify", photos)
    spec = f"packed:{tmp_path}"

    def refused(verb, *argv):
        with pytest.raises(UserError) as caught:
            verb.main([*argv])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    flags = [*EVERY, "--crop", "resized", "--width", "0.25", "--out", str(tmp_path / "run")]
    message = refused(classify, "--data", spec, *flags, "--image-size", "24")
    assert "packed with resize 16, not 24, crop 16, not 24 as this run needs" in message
    assert f"(--data folder:{photos}/classes --image-size 16 --crop resized)" in message
    assert "--holdout-fraction" in refused(
        classify, "--data", spec, *flags, "--holdout-fraction", "0.2"
    )
    assert "was packed for classify" in refused(segment, "--data", spec, *EVERY, *flags[-2:])
    assert "is packed already" in refused(pack, "--data", spec, "--out", str(tmp_path / "two"))
    assert "--out" in refused(pack, "--data", f"folder:{photos}/classes")
    assert "other data is packed there" in refused(
        pack, "--data", f"folder:{photos}/classes", "--image-size", "24", "--out", str(tmp_path)
    )
    assert "--task" in refused(pack, "--task", "translate", "--out", str(tmp_path))
    masks = ["--task", "segment", "--data", f"masks:{photos}/masks"]
    message = refused(pack, *masks, "--out", str(tmp_path / "masks"))
    assert "give --image-shape" in message
    boxes = tmp_path / "boxes"
    packed_at(boxes, "detect", photos)
    regions = ["--data", f"packed:{boxes}", "--system", "fast_rcnn", *flags[-2:]]
    assert "has no proposals" in refused(detect, *regions)
