"""Images with several labels: tables of them, scenes of shapes, and patches under masks."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.formats.shapes import CLASS_NAMES, scene
from cnn_jax.errors import UserError


def open_tags(spec, split="train", **settings):
    return data.open_source(spec, split, formats=data.TAG_FORMATS, **settings)


def problem(spec, split="train", **settings):
    with pytest.raises(UserError) as caught:
        open_tags(spec, split, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(path: Path, value=0, size=(4, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def table(tmp_path, text, count=12, ending=".png"):
    for number in range(1, count + 1):
        picture(tmp_path / "images" / f"{number}{ending}", number)
    (tmp_path / "labels.csv").write_text(text)
    return f"csv:{tmp_path / 'labels.csv'},{tmp_path / 'images'}"


def one_hot(tmp_path, count=12):
    rows = [f"{n}.png,{n % 2},{int(n > 3)},0" for n in range(1, count + 1)]
    return table(tmp_path, "\n".join(["file,odd,large,never", *rows]) + "\n", count)


def numbers(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_a_column_for_each_label(tmp_path):
    source = open_tags(one_hot(tmp_path), holdout_fraction=0.0, test_every=6)
    assert isinstance(source, data.Source)
    assert source.class_names == ("odd", "large", "never")
    assert numbers(source) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    labels = source[4]["labels"]
    assert labels.dtype == bool
    np.testing.assert_array_equal(labels, [True, True, False])
    assert not source[1]["labels"].any()  # An image without a label.
    assert source.describe(0) == str(tmp_path / "images" / "1.png")


@pytest.mark.parametrize("separator", [" ", ",", ", "])
def test_a_column_of_tags_and_names_without_ending(tmp_path, separator):
    tags = [("haze", "primary"), ("clear",), (), ("clear", "primary", "haze")]
    rows = [f'{n},"{separator.join(t)}"' for n, t in enumerate(tags, start=1)]
    spec = table(tmp_path, "\n".join(["image_name,tags", *rows]), 4, ".jpg")
    source = open_tags(spec, holdout_fraction=0.0, test_every=4)
    assert source.class_names == ("clear", "haze", "primary")
    np.testing.assert_array_equal(
        [source[i]["labels"] for i in range(3)], [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    )


def test_splits_of_a_table(tmp_path):
    spec = one_hot(tmp_path, 40)
    names = ("train", "eval", "test")
    parts = [numbers(open_tags(spec, s, test_every=4, holdout_fraction=0.2)) for s in names]
    assert parts[2] == list(range(4, 41, 4))
    assert [len(part) for part in parts] == [24, 6, 10]
    assert sorted(n for part in parts for n in part) == list(range(1, 41))
    again = open_tags(spec, "eval", test_every=4, holdout_fraction=0.2, seed=5)
    assert numbers(again) == parts[1]
    # Without the one or the other, one held-out part serves as both.
    no_holdout = [numbers(open_tags(spec, s, test_every=4, holdout_fraction=0.0)) for s in names]
    assert no_holdout[1] == no_holdout[2] == parts[2]
    assert len(no_holdout[0]) == 30
    no_test = [numbers(open_tags(spec, s)) for s in names]
    assert no_test[1] == no_test[2] and len(no_test[1]) == 4
    assert sorted(no_test[0] + no_test[1]) == list(range(1, 41))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header"),
        ("file,a\n", "needs a header"),
        ("file,a,b\n1.png,0,1\n2.png,1\n", "row 3 has 2 fields, the header 3"),
        ("file,a,b\n1.png,0,2\n", r"row 2, column b: '2' is not 0 or 1"),
        ("file,a,a\n1.png,0,1\n", "must be named and distinct"),
        ("file,a,b\n1.png,0,1\n1.png,1,1\n", "rows 2 and 3 are both for 1.png"),
        ("file,tags\n1.png,\n", "column of tags is empty"),
        ("file,a,b\n1.png,0,1\n77.png,1,1\n", "row 3: no image"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, message):
    spec = table(tmp_path, text, 2)
    result = problem(spec, holdout_fraction=0.0)
    assert message in result
    assert str(tmp_path / "labels.csv") in result


def test_requests_that_cannot_be_meant(tmp_path):
    spec = one_hot(tmp_path)
    assert "give csv:FILE,IMAGES" in problem("csv:x.csv")
    assert "no such folder of images" in problem(f"{spec}x")
    assert "cannot be read as a table" in problem(f"csv:nothing.csv,{tmp_path / 'images'}")
    assert "--test-every 1: must be 2 or more" in problem(spec, test_every=1)
    assert "no rows for the split eval" in problem(spec, "eval", holdout_fraction=0.0)
    assert "known: shapes, csv, masks" in problem("folder:x")


def test_scenes_of_shapes_with_tags():
    source = open_tags("shapes", seed=3, image_size=32)
    assert source.class_names == CLASS_NAMES
    example = source[5]
    drawn = scene(3, 5, 32, objects=(1, 3), clutter=(0, 2))
    np.testing.assert_array_equal(example["image"], drawn.image)
    np.testing.assert_array_equal(example["labels"], drawn.tags)
    assert {int(source[i]["labels"].sum()) for i in range(40)} == {1, 2, 3}
    assert "shapes takes no argument" in problem("shapes:3")


@pytest.fixture
def aerial(tmp_path):
    """Two tiles; patches of 4 pixels of the first: one class, a corner of another, ignored."""
    mask = np.zeros((4, 13), np.uint8)
    mask[0, 4] = 1  # 1 of 16 pixels.
    mask[:, 8:12] = 255
    mask[0, 8:10] = 2
    for tile, values in (("tile_1", mask), ("tile_2", np.full((5, 4), 2, np.uint8))):
        for part in ("images", "labels"):
            (tmp_path / part / tile).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "labels" / tile / "a.png")
        shade = np.arange(values.size, dtype=np.uint8).reshape(values.shape)
        Image.fromarray(np.stack([shade] * 3, -1)).save(tmp_path / "images" / tile / "a.png")
    return tmp_path


def test_patches_are_tagged_by_area(aerial):
    request = {"patch_size": 4, "eval_folders": ("tile_2",), "class_names": ("a", "b", "c")}
    source = open_tags(f"masks:{aerial}", **request)
    assert source.class_names == ("a", "b", "c")
    assert len(source) == 3
    labels = [source[i]["labels"].astype(int).tolist() for i in range(3)]
    assert labels == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(source[1]["image"][..., 0], np.arange(52).reshape(4, 13)[:, 4:8])
    # Above the share, not at it.
    strict = open_tags(f"masks:{aerial}", min_area=1 / 16, **request)
    assert strict[1]["labels"].tolist() == [True, False, False]
    held_out = open_tags(f"masks:{aerial}", "eval", **request)
    assert len(held_out) == 1
    assert held_out[0]["labels"].tolist() == [False, False, True]
    assert os.path.join("tile_2", "a.png at row 0, column 0") in held_out.describe(0)


def test_patches_that_cannot_be_cut(aerial):
    spec, request = f"masks:{aerial}", {"eval_folders": ("tile_2",)}
    assert "--patch-size 14: larger than every image" in problem(spec, patch_size=14, **request)
    assert "--patch-size 0" in problem(spec, patch_size=0, **request)
    assert "--min-area 1" in problem(spec, patch_size=4, min_area=1.0, **request)
    result = problem(spec, patch_size=4, class_names=("a", "b"), **request)
    assert "a.png: value 2" in result
    assert "--eval-folders tile_9" in problem(spec, eval_folders=("tile_9",))
