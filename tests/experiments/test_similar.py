"""Look-alike search against a network applied by hand and full sorts; its page in a browser."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, index, segment, similar, states
from experiments.predict import load
from experiments.similarity.index_folder import Index
from experiments.similarity.quality import color_histogram
from experiments.similarity.regions import CONTEXT, Region, cut_out
from experiments.similarity.search import Search
from tests.drawn_runs import predictor_of, write_run

NAMES = ("circle", "square", "star")
SMALL = {"model": "resnet20", "width": 0.25, "image_size": 16}
YOLO = SMALL | {"image_size": 32, "score_threshold": 0.1, "boxes": "free", "grid": 8}
BOXES = {"0": "1 0.25 0.5 0.3 0.4\n0 0.7 0.5 0.5 0.9\n", "3": "2 0.5 0.5 0.2 0.2\n"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Class folders of photos, the same photos with boxes, and a run of each kind."""
    root = tmp_path_factory.mktemp("looks")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            pixels = rng.integers(0, 256, (5, 6, 3), np.uint8)
            photo = Image.fromarray(pixels).resize((48, 36), Image.Resampling.BICUBIC)
            for folder in (f"classes/{split}/{NAMES[number % 3]}", f"boxed/images/{split}"):
                (root / folder).mkdir(parents=True, exist_ok=True)
                photo.save(root / folder / f"{number}.png")
            label = root / "boxed/labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(BOXES.get(str(number), ""))
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(("</script>", *NAMES[1:])))
    yaml = f"path: .\ntrain: images/train\nval: images/test\nnames:\n{names}"
    (root / "boxed/data.yaml").write_text(yaml)
    recorded = {"class_names": NAMES}
    write_run(root / "classes_run", classify, SMALL | {"resize": 18}, recorded)
    write_run(root / "tags_run", annotate, SMALL, recorded)
    write_run(root / "boxes_run", detect, YOLO, recorded)
    return root


@pytest.fixture(scope="module")
def whole(place):
    """The index of all training photos."""
    photos = [str(place / "classes/train"), "--out", str(place / "whole")]
    index.main([str(place / "classes_run"), *photos, "--batch-size", "4"])
    return Index(place / "whole")


@pytest.fixture(scope="module")
def boxed(place):
    """The index of the boxes of the training photos."""
    data = f"yolo:{place / 'boxed/data.yaml'}"
    index.main([str(place / "classes_run"), "--data", data, "--out", str(place / "boxed_index")])
    return Index(place / "boxed_index")


def by_hand(run, pictures):
    """What the last layer of a run gets of each picture, as unit vectors."""
    predictor = predictor_of(run)
    state, _ = states.restored(predictor.task, run / states.CHECKPOINTS)
    images = np.stack([predictor.examples(picture)[0]["image"] for picture in pictures])
    task = predictor.task
    given = (np.float32(images) / 255 - np.float32(task.mean)) / np.float32(task.std)
    _, features = task.model.apply(state.variables, jnp.asarray(given), train=False)
    vectors = np.float64(features["pre_logits"])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pixels_of(region):
    return cut_out(np.asarray(Image.open(region.file)), region)


def sorted_by_cosine(vectors, query, left_out=()):
    cosines = np.float64(vectors) @ np.float64(query)
    return [row for row in np.argsort(-cosines, kind="stable") if row not in left_out], cosines


def test_an_index_has_the_features_before_the_last_layer(place, whole):
    assert [region.file for region in whole.regions] == sorted(
        str(path) for path in (place / "classes/train").rglob("*.png")
    )
    expected = by_hand(place / "classes_run", [pixels_of(r) for r in whole.regions])
    np.testing.assert_allclose(whole.vectors, expected, atol=1e-5)
    assert isinstance(whole.vectors, np.memmap)
    assert len(np.unique(np.round(whole.vectors, 4), axis=0)) == len(whole)


def test_an_annotator_s_features_are_indexed_too(place, tmp_path):
    index.main([str(place / "tags_run"), str(place / "classes/test"), "--out", str(tmp_path)])
    found = Index(tmp_path)
    expected = by_hand(place / "tags_run", [pixels_of(r) for r in found.regions])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


def test_the_boxes_of_data_are_rows_with_their_classes(place, boxed):
    file = str(place / "boxed/images/train/0.png")
    assert [(r.file, r.label) for r in boxed.regions[:2]] == [(file, "square"), (file, "</script>")]
    np.testing.assert_allclose(boxed.region(0).box, [4.8, 10.8, 19.2, 25.2], atol=0.01)
    expected = by_hand(place / "classes_run", [pixels_of(r) for r in boxed.regions])
    np.testing.assert_allclose(boxed.vectors, expected, atol=1e-5)


def test_the_objects_of_a_detector_are_rows_and_are_searched_by_number(place, tmp_path, capsys):
    photos = sorted(map(str, (place / "classes/test").rglob("*.png")))
    run, detector = str(place / "classes_run"), str(place / "boxes_run")
    index.main([run, *photos, "--objects", detector, "--out", str(tmp_path)])
    found = Index(tmp_path)
    expected = [
        (file, name, box)
        for file, one in zip(photos, load(detector).predict(photos), strict=True)
        for name, box, counts in zip(one["names"], one["boxes"], one["counted"], strict=True)
        if counts
    ]
    assert len(expected) > 3
    assert [(r.file, r.label) for r in found.regions] == [one[:2] for one in expected]
    np.testing.assert_allclose([r.box for r in found.regions], [e[2] for e in expected], atol=0.01)
    capsys.readouterr()
    similar.main([str(tmp_path), photos[0], "--object", "2", "--k", "2"])
    lines = capsys.readouterr().out.splitlines()
    own = found.rows_of_file(photos[0])[1]
    order, _ = sorted_by_cosine(found.vectors, found.vectors[own], [own])
    assert lines[0] == f"object 2: {found.region(own)}"
    assert [line.split("  ")[-1] for line in lines[1:]] == [str(found.region(r)) for r in order[:2]]
    with pytest.raises(
        UserError, match=r"^--object 999: the detector finds \d+ objects in .*--box"
    ):
        similar.main([str(tmp_path), photos[0], "--object", "999"])


def test_neighbours_are_printed_and_drawn(place, whole, capsys):
    photo = next((place / "classes/test").rglob("*.png"))
    similar.main([str(whole.folder), str(photo), "--k", "3"])
    lines = capsys.readouterr().out.splitlines()
    (query,) = by_hand(place / "classes_run", [np.asarray(Image.open(photo))])
    order, cosines = sorted_by_cosine(whole.vectors, query)
    assert lines[0] == str(photo)
    assert lines[1:] == [
        f"{i:3d}  {cosines[row]:.3f}  {whole.region(row)}" for i, row in enumerate(order[:3], 1)
    ]
    picture = np.asarray(Image.open(whole.folder / "similar" / f"{photo.stem}.png"))
    assert picture.shape[1] > 4 * 160 and picture.std() > 10


def test_an_image_of_the_index_is_no_neighbour_of_itself(place, boxed, tmp_path, capsys):
    file = str(place / "boxed/images/train/0.png")
    similar.main([str(boxed.folder), file, "--object", "2", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("object 2: ") and len(lines) == len(boxed)
    assert all(str(boxed.region(1)) not in line for line in lines[1:])
    similar.main([str(boxed.folder), file, "--box", "0", "0", "40", "999", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"object 1: {file} at 0 0 40 36" and len(lines) == len(boxed) + 1


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_of_any_size_find_the_same(block):
    rng = np.random.default_rng(0)
    vectors, queries = (rng.integers(-2, 3, (n, 8)).astype(np.float32) for n in (64, 9))
    left_out = [[int(row)] for row in rng.integers(0, 64, 9)]
    found = list(Search(vectors, block).neighbors(queries, 5, left_out))
    for query, own, near in zip(queries, left_out, found, strict=True):
        order, cosines = sorted_by_cosine(vectors, query, own)
        assert near == [(row, cosines[row]) for row in order[:5]]


def test_a_cut_out_is_a_square_around_the_object_inside_the_image():
    image = np.arange(30 * 40).reshape(30, 40, 1)
    cut = cut_out(image, Region("a", (20.0, 10.0, 27.0, 14.0)))
    side = round(CONTEXT * 7)
    np.testing.assert_array_equal(cut, image[8 : 8 + side, 20 : 20 + side])
    corner = cut_out(image, Region("a", (36.0, 0.0, 40.0, 2.0)))
    np.testing.assert_array_equal(corner, image[:5, 35:])
    assert cut_out(image, Region("a", (0.0, 0.0, 40.0, 30.0))).shape == image.shape
    assert cut_out(image, Region("a", (3.2, 3.2, 3.2, 3.2))).shape == (1, 1, 1)
    assert cut_out(image, Region("a")) is image


def test_a_search_is_measured_beside_what_knows_nothing(place, tmp_path, capsys):
    data = f"folder:{place / 'classes'}"
    index.main([str(place / "classes_run"), "--data", data, "--out", str(tmp_path)])
    capsys.readouterr()
    queries = ["--queries", data, "--split", "test", "--baselines"]
    similar.main([str(tmp_path), *queries])
    count, header, *rows = capsys.readouterr().out.splitlines()
    assert count == "3 queries, 6 rows"
    assert header.split() == ["vectors", "recall_at_1", "recall_at_5", "recall_at_10", "map"]
    figures = {re.split(r"  +", row)[0]: re.findall(r"[\d.]+(?= %)", row) for row in rows}
    assert list(figures) == ["trained", "random", "colour histograms", "untrained network"]
    found = Index(tmp_path)
    photos = sorted((place / "classes/test").rglob("*.png"), key=lambda path: str(path))
    hits, precisions = [], []
    vectors = by_hand(place / "classes_run", [np.asarray(Image.open(photo)) for photo in photos])
    for photo, query in zip(photos, vectors, strict=True):
        order, _ = sorted_by_cosine(found.vectors, query)
        right = [found.region(row).label == photo.parent.name for row in order]
        hits.append([any(right[:k]) for k in (1, 5, 10)])
        ranks = np.flatnonzero(right)
        precisions.append(np.mean([(i + 1) / (rank + 1) for i, rank in enumerate(ranks)]))
    expected = [*np.mean(hits, axis=0), np.mean(precisions)]
    np.testing.assert_allclose(np.float64(figures["trained"]) / 100, expected, atol=1e-4)


def test_a_query_of_the_index_does_not_find_itself(place, tmp_path, capsys):
    data = f"folder:{place / 'classes'}"
    args = ["--data", data, "--split", "test", "--out", str(tmp_path)]
    index.main([str(place / "classes_run"), *args])
    with pytest.raises(UserError, match=r"has no row of their classes"):
        similar.main([str(tmp_path), "--queries", data])  # one photo a class, and it is the query


def test_colour_histograms_equal_numpy_s():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    counts, _ = np.histogramdd(pixels.reshape(-1, 3), bins=8, range=[(0, 256)] * 3)
    np.testing.assert_allclose(color_histogram(pixels) ** 2, counts.ravel() / 600, atol=1e-6)


@pytest.fixture(scope="module")
def page(boxed):
    """The page of the boxes, and the data in it."""
    path = boxed.folder / "page.html"
    similar.main([str(boxed.folder), "--page", str(path), "--k", "2"])
    text = path.read_text()
    (content,) = re.findall(r'id="similar-data">(.*?)</script>', text, re.S)
    return path, text, json.loads(content)


def test_a_page_has_the_neighbours_of_every_object(boxed, page):
    _, text, content = page
    assert [item["name"] for item in content["items"]] == [r.label for r in boxed.regions]
    for row, near in enumerate(content["neighbors"]):
        order, cosines = sorted_by_cosine(boxed.vectors, boxed.vectors[row], [row])
        assert [other for other, _ in near] == order[:2]
        np.testing.assert_allclose([c for _, c in near], cosines[order[:2]], atol=1e-4)
    assert sorted(map(int, re.findall(r'data-item="(\d+)"', text))) == list(range(len(boxed)))
    assert text.count("<img") == len({region.file for region in boxed.regions})
    assert not re.search(r'(src|href)="(?!data:)', text)


CLICK = """
import sys
from PySide6.QtCore import QTimer, QUrl
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

app = QApplication(sys.argv)
view = QWebEngineView()
view.show()
page = view.page()
SHOWN = "[...document.querySelectorAll('.strip button')].map((b) => b.dataset.shows).join()"

def looked(shown):
    print("shown", shown)
    app.quit()

def clicked(_):
    QTimer.singleShot(500, lambda: page.runJavaScript(SHOWN, looked))

def loaded(ok):
    page.runJavaScript("document.querySelector('[data-item=\\"1\\"]').click(); 1", clicked)

view.loadFinished.connect(loaded)
view.load(QUrl.fromLocalFile(sys.argv[1]))
QTimer.singleShot(60000, app.quit)
app.exec()
"""


@pytest.mark.skipif(find_spec("PySide6") is None, reason="clicking needs a browser: PySide6")
def test_a_click_shows_what_looks_alike_in_a_browser(page, monkeypatch):
    path, _, content = page
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.setenv("QTWEBENGINE_DISABLE_SANDBOX", "1")
    monkeypatch.setenv("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")
    command = [sys.executable, "-c", CLICK, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    near = [other for other, _ in content["neighbors"][1]]
    assert f"shown {','.join(map(str, [1, *near]))}\n" in ended.stdout, ended.stderr[-2000:]


@pytest.mark.parametrize(
    ("verb", "argv", "message"),
    [
        (index, ["{classes_run}", "--out", "{new}"], "^give a run's folder, and images or --data"),
        (index, ["{classes_run}", "{classes}"], "^--out: name the folder"),
        (index, ["{segment_run}", "{classes}", "--out", "{new}"], "a run of segment; pictures"),
        (
            index,
            ["{classes_run}", "{classes}", "--objects", "{tags_run}", "--out", "{new}"],
            "--objects .*: a run of annotate; objects are found by one of detect",
        ),
        (
            index,
            ["{classes_run}", "--data", "shapes", "--out", "{new}"],
            "unknown format 'shapes'; .*known: folder, voc, coco, yolo",
        ),
        (index, ["{classes_run}", "none.png", "--out", "{new}"], "none.png: "),
        (similar, ["{whole}"], "^give an index and an image, or --page or --queries"),
        (similar, ["{classes}", "a.png"], "no index: index.json is missing"),
        (similar, ["{whole}", "{photo}", "--box", "9", "9", "3", "12"], "^box 9.0 9.0 3.0 12.0: "),
        (
            similar,
            ["{whole}", "{photo}", "--object", "1"],
            "^--object 1: the index knows 0 objects",
        ),
        (similar, ["{whole}", "{photo}", "--object", "1", "--box", "0", "0", "9", "9"], "--object"),
        (similar, ["{whole}", "{photo}", "--run", "{tags_run}"], "has other parameters than when"),
        (similar, ["{whole}", "{photo}", "--run", "{new}"], "is not there; --run says where"),
    ],
)
def test_mistakes_are_told_in_one_line(place, whole, verb, argv, message):
    if not (place / "segment_run").exists():
        values = {"model": "resnet20", "width": 0.25, "image_shape": (16, 24)}
        recorded = {"class_names": NAMES, "evaluated_size": [16, 24]}
        write_run(place / "segment_run", segment, values, recorded)
    names = ("classes_run", "tags_run", "segment_run", "classes", "whole", "new")
    places = {name: place / name for name in names}
    photo = next((place / "classes/test").rglob("*.png"))
    with pytest.raises(UserError, match=message) as caught:
        verb.main([text.format(**places, photo=photo) for text in argv])
    assert "\n" not in str(caught.value)
    assert not (place / "new").exists() or not list((place / "new").iterdir())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("index.json", b'{"version": 2}', "index.json: version 2: must be 1"),
        ("index.json", b'{"version": 1, "rows": -1}', "index.json: rows -1: must be"),
        ("vectors.npy", b"\x93NUMPY", "vectors.npy: cannot be read"),
        ("rows.jsonl", b"{}\n", "differ; make the index anew"),
        ("rows.jsonl", b"{}\n" * 6, "rows.jsonl:1: must have a file"),
    ],
)
def test_a_damaged_index_is_told(place, whole, tmp_path, file, content, message):
    for path in whole.folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        similar.main([str(tmp_path), "--page", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()
