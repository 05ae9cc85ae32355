"""The inspect command: its page and facts on planted faults, and on every format."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.formats.shapes import scene
from cnn_jax.errors import UserError
from experiments import inspect
from tests.faults import boxes, images, packs


def inspected(out, *argv):
    """The facts and the page that the command writes."""
    inspect.main([*argv, "--out", str(out)])
    page = (out / inspect.PAGE).read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # self-contained
    return json.loads((out / inspect.FACTS).read_text()), page


def finding(facts, start):
    """The only finding that begins so."""
    (line,) = (line for line in facts["findings"] if line.startswith(start))
    return line


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Class folders of scenes, of which some are planted faults."""
    root = tmp_path_factory.mktemp("planted")
    pictures = [Image.fromarray(scene(0, index, 64).image) for index in range(34)]
    places = {
        **{f"train/cat/{i}.png": pictures[i] for i in range(12)},
        **{f"train/dog/{i}.png": pictures[i] for i in range(12, 24)},
        **{f"train/cow/{i}.png": pictures[i] for i in range(24, 26)},
        **{f"test/cat/{i}.png": pictures[i] for i in range(26, 30)},
        **{f"test/dog/{i}.png": pictures[i] for i in range(30, 34)},
        "test/cat/leak.jpg": pictures[3],
        "test/dog/leak.png": pictures[13],
        "train/dog/doubled.png": pictures[4],
        "train/dog/plain.png": Image.new("L", (80, 80), 7),
    }
    for name, picture in places.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)
    (root / "train/cat/broken.png").write_bytes(b"no picture")
    (root / "train/cat/notes.txt").write_text("a companion")
    return root


def test_planted_faults_are_found_leaks_first(planted, tmp_path, capsys):
    facts, page = inspected(tmp_path, "--data", f"folder:{planted}")
    leaks = facts["findings"][0]
    assert leaks.startswith("2 of 10 images of eval are in train too (1 with the same pixels, 1 as")
    assert facts["findings"][1].startswith("train: 1 image of 29 cannot be read (the first: ")
    repeated = finding(facts, "train: 1 image of 29 repeats an earlier one")
    assert "doubled.png is" in repeated and repeated.endswith("1 of them with other labels")
    assert finding(facts, "eval: no image") == "eval: no image of cow"
    assert finding(facts, "train: fewer than") == "train: fewer than 10 images of cow (2)"
    assert finding(facts, "train: 1 picture of a single colour").endswith("plain.png)")
    assert len(facts["findings"]) == 6
    training = facts["splits"]["train"]
    assert dict(zip(facts["class_names"], training["images_by_class"], strict=True)) == {
        "cat": 12, "cow": 2, "dog": 14,
    }  # fmt: skip
    assert training["forms"] == {"PNG L": 1, "PNG RGB": 27}
    assert training["sizes"] == [
        {"height": 64, "width": 64, "images": 27},
        {"height": 80, "width": 80, "images": 1},
    ]
    across, *_ = facts["repeated"]
    assert (across["split"], across["in"], across["exact"], across["near"]) == (
        "eval",
        "train",
        1,
        1,
    )
    assert across["first"][0] == {
        "picture": f"{planted}/test/dog/leak.png",
        "repeats": f"{planted}/train/dog/13.png",
        "exact": True,
        "similarity": 1.0,
        "other_labels": False,
    }
    assert across["first"][1]["picture"] == f"{planted}/test/cat/leak.jpg"
    assert page.index("Pictures of eval that are in train too") < page.index("Samples: train")
    assert "test: has the examples of eval" in facts["notices"]
    assert any("1 file was left out, as no images: 1 .txt" in line for line in facts["notices"])
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "data: train 28 images, eval 10 images; 3 classes"
    assert leaks in told and told[-1].startswith(f"{tmp_path / inspect.PAGE}: ")


def test_twice_is_the_same_page(planted, tmp_path):
    pages = [inspected(tmp_path / "out", "--data", f"folder:{planted}") for _ in range(2)]
    assert pages[0] == pages[1]


def test_other_data_to_evaluate_on_and_fewer_images(planted, tmp_path):
    spec = f"folder:{planted}/train"
    facts, _ = inspected(tmp_path, "--data", spec, "--eval-data", f"folder:{planted}")
    assert list(facts["splits"]) == ["train", "eval"]
    assert facts["splits"]["train"]["examples"] == 29  # nothing is held out
    assert facts["splits"]["eval"]["examples"] == 10
    facts, _ = inspected(tmp_path, "--data", spec, "--most", "5")
    assert facts["splits"]["train"]["looked_at"] == 5


@pytest.mark.parametrize("bits", ["8", "16"])
def test_bands_beyond_the_third_tell_pictures_apart(bits, tmp_path):
    """Four bands as they are stored; two pictures differ in the fourth alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 4)).astype(np.uint8)
    pixels[1, ..., :3] = pixels[0, ..., :3]
    pixels[3] = pixels[2]
    for number, each in enumerate(pixels):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    spec = f"folder:{tmp_path / 'data'}"
    options = ("--data", spec, "--channels", "4", "--bits", bits, "--holdout-fraction", "0")
    facts, _ = inspected(tmp_path / "out", *options)
    assert facts["splits"]["train"]["unreadable"]["count"] == 0
    assert "(1 with the same pixels, 1 as near copy;" in finding(facts, "train: 2 images of 4")


def test_boxes_are_drawn_and_suspicious_ones_named(tmp_path):
    images_, annotations = [], []
    for number in range(4):
        pixels = scene(0, number, 64).image
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        images_.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        for box in [[5, 5, 40, 40]] + [[0, 0, 64, 64], [1, 1, 1, 30], [5, 5, 40, 39]] * (
            number == 0
        ):
            own = {"id": len(annotations), "image_id": number, "category_id": 0, "bbox": box}
            annotations.append(own)
    content = {"images": images_, "annotations": annotations}
    content["categories"] = [{"id": 0, "name": "shape"}]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path}/boxes.json,{tmp_path}/images"
    facts, page = inspected(tmp_path / "out", "--data", spec, "--eval-data", spec)
    assert facts["findings"][0].startswith("4 of 4 images of eval are in train too (4 with the")
    for kind in ("tiny", "doubled", "very long or tall"):
        line = finding(facts, f"train: 1 {kind} box (the first in ")
        assert line.endswith("/0.png)")
    assert all(f"<h2>train: {what}</h2>" in page for what in facts["splits"]["train"]["suspicious"])
    assert finding(facts, "train: 1 box of nearly the whole image")
    assert facts["splits"]["train"]["amounts_by_class"] == [7]


def _spec(name, place):
    """The data spec of what a writer wrote, and the other flags that it needs."""
    table = {
        "folder": (f"folder:{place}",),
        "csv": (f"csv:{place}/labels.csv,{place}/images",),
        "masks": (f"masks:{place}",),
        "voc": (f"voc:{place}",),
        "coco": (f"coco:{place}/train.json,{place}/images,{place}/val.json,{place}/images",),
        "yolo": (f"yolo:{place}/data.yaml",),
        "packed": (f"packed:{place}",),
        "shapes": ("shapes", "--most", "4"),
    }
    return ["--data", *table[name]]


WRITERS = {
    **{name: name for name in ("folder", "masks", "voc", "coco", "yolo", "packed")},
    **{"csv": "csv_columns", "shapes": None, "tfds": "tfds"},
}
"""The writer of each format, of those that search for faults."""

CASES = [
    (task, name)
    for task, formats in data.TASK_FORMATS.items()
    for name in formats
    if name not in ("tfds", "packed")
]


@pytest.mark.parametrize(("task", "name"), CASES)
def test_every_format_of_every_task(task, name, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    if WRITERS[name]:
        write, _ = {**images.formats(), **boxes.formats(), **packs.formats()}[WRITERS[name]]
        write(place, np.random.default_rng(3))
    more = ["--patch-size", "4"] if (task, name) == ("annotate", "masks") else []
    facts, page = inspected(tmp_path / "out", "--task", task, *_spec(name, place), *more)
    assert facts["task"] == task
    kinds = {"classify": "class", "annotate": "tags", "detect": "boxes", "segment": "mask"}
    assert facts["splits"]["train"]["truth"] == kinds[task]
    assert facts["splits"]["train"]["unreadable"]["count"] == 0
    assert sum(facts["splits"]["train"]["amounts_by_class"]) > 0
    assert "Samples: train" in page


@pytest.mark.parametrize(
    ("writer", "task"),
    [
        ("packed", "classify"),
        ("packed_tags", "annotate"),
        ("packed_boxes", "detect"),
        ("packed_masks", "segment"),
    ],
)
def test_packed_data_is_of_the_task_that_it_was_packed_for(writer, task, tmp_path):
    packs.formats()[writer][0](tmp_path / "data", np.random.default_rng(3))
    facts, _ = inspected(tmp_path / "out", "--data", f"packed:{tmp_path}/data")
    assert facts["task"] == task
    assert sum(facts["splits"]["train"]["amounts_by_class"]) > 0


def test_tfds(tmp_path):
    images.write_tfds_masks(tmp_path, np.random.default_rng(0))
    argv = ["--task", "segment", "--data", f"tfds:{images.FaultsMasks.name}"]
    argv += ["--data-dir", str(tmp_path), "--class-names", "even", "odd"]
    facts, _ = inspected(tmp_path / "out", *argv)
    assert facts["splits"]["train"]["truth"] == "mask"
    assert facts["splits"]["train"]["forms"] == {"decoded": 4}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "folder:nowhere"], "--out: name the folder of the page"),
        (["--data", "folder:nowhere", "--out", "x"], "--data folder:nowhere: no such folder"),
        (["--data", "fodler:x", "--out", "x"], "unknown format 'fodler'; did you mean folder?"),
        (["--task", "detect", "--data", "folder:x", "--out", "x"], "unknown format 'folder'"),
        (["--data", "folder:x", "--patch-size", "9", "--out", "x"], "--patch-size: only used with"),
        (["--data", "voc:x", "--test-every", "9", "--out", "x"], "--test-every: only used with"),
        (["--data", "voc:x", "--image-size", "9", "--out", "x"], "--image-size: only used with"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        inspect.main(argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_splits_of_other_classes_are_refused(planted, tmp_path):
    place = tmp_path / "other"
    for name in ("ant", "bee"):
        (place / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / name / "1.png")
    argv = ["--data", f"folder:{planted}", "--eval-data", f"folder:{place}", "--out", "x"]
    with pytest.raises(UserError, match="the classes of train and eval differ: cat, cow, dog; ant"):
        inspect.main(argv)
