"""What a prediction reads and writes: files, folders, patterns and lists; lines, JSON and CSV."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.image_reading import RGB
from cnn_jax.errors import UserError
from experiments.options import PredictOptions
from experiments.predict.inputs import expanded
from experiments.predict.output import flat_row, shown
from experiments.predict.predictor import ImagePredictor, Result


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/1.png", "b/deep/3.jpg", "a[1].png"):
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(name)
    (tmp_path / "b/notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("b/2.png\n\n  a[1].png\r\n")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["b/2.png", "b/2.png"], ["b/2.png", "b/2.png"]),
        (["b"], ["b/1.png", "b/2.png", "b/deep/3.jpg"]),
        (["b/*.png"], ["b/1.png", "b/2.png"]),
        (["**/*.jpg"], ["b/deep/3.jpg"]),
        (["a[1].png"], ["a[1].png"]),  # a file, though it looks like a pattern
        (["@list.txt"], ["b/2.png", "a[1].png"]),
        (["none.png"], ["none.png"]),  # told by who reads it
    ],
)
def test_inputs_are_files_folders_patterns_and_lists(photos, given, names):
    assert expanded(given) == names
    assert expanded([*given, "b/1.png"], "list.txt") == [*names, "b/1.png", "b/2.png", "a[1].png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("empty", "empty: no images"),
        ("*.gif", r"\*.gif: no file has such a name"),
        ("@none.txt", "none.txt: cannot be read"),
    ],
)
def test_what_stands_for_nothing_is_told(photos, given, message):
    with pytest.raises(UserError, match=message):
        expanded([given])


def test_sentences_stand_for_themselves(photos):
    assert expanded(["What is b?", "@you", "b"], images=False) == ["What is b?", "@you", "b"]
    assert expanded(["@list.txt"], images=False) == ["b/2.png", "a[1].png"]


CONTENT = [
    {"image": "a,1.png", "tags": ["sea", "sand"], "shares": {"ä": 0.25}, "bbox": [1, 2.5]},
    {"image": "b.png", "tags": [], "shares": {"ä": 0.75}, "bbox": [3, 4.5]},
]
RESULTS = [Result("first", CONTENT[:1]), Result("none", []), Result("second", CONTENT[1:])]


def test_a_row_has_a_cell_for_each_value():
    assert flat_row({"predictions": [{"label": "x", "probability": 0.5}], "name": None}) == {
        "predictions.1.label": "x",
        "predictions.1.probability": 0.5,
        "name": None,
    }


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_what_is_written_is_what_is_printed(tmp_path, capsys, ending):
    path = tmp_path / f"found.{ending}"
    with shown(PredictOptions(predictions=str(path))) as show:
        for result in RESULTS:
            show(result)
            assert not path.exists()
    text = path.read_text()
    if ending == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert rows[0] == {
            "image": "a,1.png",
            "tags": "sea;sand",
            "shares.ä": "0.25",
            "bbox.1": "1",
            "bbox.2": "2.5",
        }
        assert [row["shares.ä"] for row in rows] == ["0.25", "0.75"]
    elif ending == "json":
        assert text == json.dumps(CONTENT, indent=2, ensure_ascii=False) + "\n"
    else:
        assert [json.loads(line) for line in text.splitlines()] == CONTENT
    if ending != "jsonl":
        capsys.readouterr()
        with shown(PredictOptions(**{ending: True})) as show:
            for result in RESULTS:
                show(result)
        assert capsys.readouterr().out == text
    with shown(PredictOptions()) as show:
        for result in RESULTS:
            show(result)
    assert capsys.readouterr().out == "first\nnone\nsecond\n"


def test_a_table_that_is_not_finished_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text("earlier")
    with (
        pytest.raises(UserError, match="damaged"),
        shown(PredictOptions(predictions=str(path))) as s,
    ):
        s(RESULTS[0])
        raise UserError("damaged")
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["found.csv"]
    with (
        pytest.raises(UserError, match=r"--predictions found.txt: must end in \.csv"),
        shown(PredictOptions(predictions="found.txt")),
    ):
        pass


def test_nothing_found_is_an_empty_list(capsys):
    with shown(PredictOptions(json=True)):
        pass
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")]
)
def test_arrays_are_images_of_eight_bits_in_colour(pixels):
    predictor = ImagePredictor()
    predictor.reading = RGB
    with pytest.raises(UserError, match=r"must be uint8 \[height, width, 3\], RGB"):
        predictor.read(pixels)
