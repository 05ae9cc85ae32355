"""Images with several labels: tables of them, scenes of shapes, and patches under masks."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn_jax import data
from cnn_jax.data.formats.shapes import CLASS_NAMES, scene
from cnn_jax.data.source import find_bad_images
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
        ("1.png,0,1\n2.png,1,1\n", "its first row is for the image 1.png; put a header"),
        ("file,a,b\n1.png,0,1\n2.png,-1,1\n", "row 3, column a: '-1' is not 0 or 1"),
        ("file,a,b\n1.png,0,1\n,1,1\n", "row 3 has no file name"),
        ("file,a,b\n1.png,0,1\0\n2.png,1,1\n", "not text (it holds zero bytes)"),
        ('file,tags\n1.png,"car\n2.png,bus\n', "cannot be read as a table (row 3: "),
        (f"file,tags\n1.png,{'x' * 200_000}\n2.png,bus\n", "(row 2: field larger than field"),
        (
            'file,tags\n1.png,"a,b"\n2.png,c|d\n',
            "commas in the tags of row 2, vertical bars in those of row 3; one of them must",
        ),
        ("file,tags\n1.png,a b;c|d\n2.png,c d\n", "one of them must separate tags in all rows"),
        ("file,tags\n1.png,['a']\n2.png,b\n", "row 2 are a list in brackets, those of row 3"),
        ("file,tags\n1.png,\"['a' 'b']\"\n2.png,[]\n", "row 2: \"['a' 'b']\" is not a list"),
        ("file,tags\n1.png,\"['a', ['b']]\"\n2.png,[]\n", "row 2: \"['a', ['b']]\" is not a l"),
        ("file,tags\n1.png,\"('a', 'b')\"\n2.png,a\n", "row 2: \"('a'\" is no tag; separate"),
        ('file,tags\n1.png,"{a,b}"\n2.png,a\n', "row 2: '{a' is no tag"),
        ("file,tags\n1.png,'a'\n2.png,b\n", "is no tag"),
        ('file,tags\n1.png,"a,b\nc"\n2.png,b\n', "row 3: 'b\\nc' is no tag"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, message):
    spec = table(tmp_path, text, 2)
    result = problem(spec, holdout_fraction=0.0)
    assert message in result
    assert str(tmp_path / "labels.csv") in result


@pytest.mark.parametrize(
    "cells",
    [
        ("traffic light, car", "car", "stop sign,traffic light", ""),
        ("traffic light|car", "car", "stop sign | traffic light", ""),
        ("traffic light;car;", "car", "stop sign; traffic light", ""),
        ("['traffic light', 'car']", "['car']", "['stop sign', 'traffic light']", "[]"),
        ('["traffic light", "car"]', '["car"]', '["stop sign","traffic light"]', ""),
        ("[traffic light, car]", "[car]", "[stop sign,traffic light]", "[]"),
    ],
)
def test_tags_may_contain_blanks_where_something_else_separates(tmp_path, cells):
    quoted = ['"{}"'.format(cell.replace('"', '""')) for cell in cells]
    rows = [f"{n},{cell}" for n, cell in enumerate(quoted, start=1)]
    source = open_tags(table(tmp_path, "\n".join(["file,tags", *rows]), 4), holdout_fraction=0.0,
                       test_every=9)  # fmt: skip
    assert source.class_names == ("car", "stop sign", "traffic light")
    np.testing.assert_array_equal(source.labels, [[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]])


def test_how_tags_are_separated_is_told(tmp_path):
    spec = table(tmp_path, "file,tags\n1,haze clear\n2,haze\n3,clear primary\n")
    assert open_tags(spec).notices == (f"{tmp_path}/labels.csv: 3 tags, separated by blanks",)
    spec = table(tmp_path, "file,tags\n1,haze|clear\n2,haze\n3,clear|primary\n")
    assert open_tags(spec).notices == (
        f"{tmp_path}/labels.csv: 3 tags, separated by vertical bars",
    )


@pytest.mark.parametrize(
    ("yes", "no"),
    [("True", "False"), ("true", "FALSE"), ("1.0", "0.0"), ("1", "0.0"), ("1.", "0"),
     ("yes", "No"), ("1", "-1"), ("1.0", "-1.0"), ("+1", "0")],
)  # fmt: skip
def test_columns_of_truth_in_many_forms(tmp_path, yes, no):
    truth = [(True, False), (False, True), (True, True), (False, False)]
    rows = [
        ",".join([f"{n}.png", *(yes if t else no for t in row)]) for n, row in enumerate(truth, 1)
    ]
    spec = table(tmp_path, "\n".join(["file,haze,primary", *rows]), 4)
    source = open_tags(spec, holdout_fraction=0.0)
    assert source.class_names == ("haze", "primary")
    np.testing.assert_array_equal(source.labels, truth)
    # A single column of truth is a label, not tags.
    rows = [f"{n}.png,{yes if t else no}" for n, (t, _) in enumerate(truth, 1)]
    source = open_tags(table(tmp_path, "\n".join(["file,haze", *rows]), 4), holdout_fraction=0.0)
    assert source.class_names == ("haze",)
    np.testing.assert_array_equal(source.labels, np.array(truth)[:, :1])


@pytest.mark.parametrize(
    "text",
    [
        "file;a;b\n1.png;1;0\n2.png;0;1\n",
        "file\ta\tb\n1.png\t1\t0\n2.png\t0\t1\n",
        "file|a|b\n1.png|1|0\n2.png|0|1\n",
        "\ufefffile,a,b\r\n1.png,1,0\r\n\r\n2.png,0,1\r\n",
        "file,a,b\r1.png,1,0\r2.png,0,1\r",
        '"file","a","b"\n"1.png","1","0"\n"2.png","0","1"',
        ",file,a,b\n0,1.png,1,0\n1,2.png,0,1\n",
        "file,a,b,,\n1.png,1,0,,\n2.png,0,1,,\n,,,,\n",
        '"file; name",a,b\n1.png,1,0\n2.png,0,1\n',
        "file , a , b\n1.png , 1 , 0\n2.png , 0 , 1\n",
    ],
)
def test_tables_in_many_forms(tmp_path, text):
    spec = table(tmp_path, "", 2)
    (tmp_path / "labels.csv").write_text(text, newline="", encoding="utf-8")
    source = open_tags(spec, holdout_fraction=0.0)
    assert source.class_names == ("a", "b") and numbers(source) == [1, 2]
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, 1]])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_tables_with_a_byte_order_mark(tmp_path, encoding):
    spec = table(tmp_path, "", 2)
    text = "file,tags\n1,été|नमस्ते\n2,été\n"
    (tmp_path / "labels.csv").write_text(text, encoding=encoding)
    assert open_tags(spec, holdout_fraction=0.0).class_names == ("été", "नमस्ते")
    (tmp_path / "labels.csv").write_text("file,tags\n1,été\n", encoding="latin-1")
    assert "labels.csv:2: not text in utf-8" in problem(spec)


@pytest.mark.parametrize(
    "name",
    ["/home/me/set/images/sub/a b.png", "C:\\set\\images\\sub\\a b.png", "sub/a%20b.png",
     "images/sub/a b.png", "./sub/a b", "/data/sub/a%20b.png"],
)  # fmt: skip
def test_files_of_other_machines_are_found_by_their_last_parts(tmp_path, name):
    spec = table(tmp_path, f"file,tags\n{name},x\n", 0)
    picture(tmp_path / "images/sub/a b.png")
    source = open_tags(spec, holdout_fraction=0.0)
    assert os.path.samefile(source.describe(0), tmp_path / "images/sub/a b.png")


def test_names_of_no_file_end_with_a_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "images").mkdir()
    os.symlink("loop.png", tmp_path / "images/loop.png")
    for name in ("/dev/zero", str(tmp_path / "pipe.png"), "loop.png", "x" * 5000, "..", "%00.png"):
        message = problem(table(tmp_path, f"file,tags\n{name},x\n", 0), holdout_fraction=0.0)
        assert "row 2: no image" in message
    # Where bad images are left out, a missing one is found when it is read.
    spec = table(tmp_path, "file,tags\n1,x\ngone,x\n", 1)
    source = open_tags(spec, holdout_fraction=0.0, keep_bad_images=True)
    assert list(find_bad_images(source)) == [1]


@given(data=st.data(), form=st.sampled_from(["columns", ",", "|", ";", " ", "json", "python"]))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory, data, form):
    root = tmp_path_factory.mktemp("csv")
    letters = "abzé猫न-_&/" + ("" if form == " " else " ")
    letters += ",;|'()[" if form in ("columns", "json", "python") else ""
    name = st.text(letters, min_size=1, max_size=8).map(str.strip).filter(bool)
    class_names = data.draw(st.lists(name, min_size=1, max_size=5, unique=True).map(sorted))
    row = st.lists(st.booleans(), min_size=len(class_names), max_size=len(class_names))
    labels = np.array(data.draw(st.lists(row, min_size=2, max_size=6)))
    labels[0] = True
    with (root / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=data.draw(st.sampled_from(",;\t")))
        writer.writerow(["file", *(class_names if form == "columns" else ["tags"])])
        for number, row in enumerate(labels.tolist()):
            picture(root / f"{number}.png")
            tags = [name for name, holds in zip(class_names, row, strict=True) if holds]
            cells = {"json": [json.dumps(tags)], "python": [repr(tags)], "columns": map(int, row)}
            # One tag among several in each row shows what separates.
            joined = form.join(tags) + (form if form in ",|;" else "")
            writer.writerow([f"{number}.png", *cells.get(form, [joined])])
    source = open_tags(f"csv:{root / 't.csv'},{root}", holdout_fraction=0.0)
    assert source.class_names == tuple(class_names)
    np.testing.assert_array_equal(source.labels, labels)


def test_requests_that_cannot_be_meant(tmp_path):
    spec = one_hot(tmp_path)
    assert "give csv:FILE,IMAGES" in problem("csv:x.csv")
    assert "no such folder of images" in problem(f"{spec}x")
    assert "nothing.csv: cannot be read" in problem(f"csv:nothing.csv,{tmp_path / 'images'}")
    assert "test_every 1: must be in [2, 2147483647]" in problem(spec, test_every=1)
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
    assert "patch_size 0: must be in [1, " in problem(spec, patch_size=0, **request)
    assert "min_area 1.0: must be in [0, 1)" in problem(spec, patch_size=4, min_area=1.0, **request)
    result = problem(spec, patch_size=4, class_names=("a", "b"), **request)
    assert "a.png: value 2" in result
    assert "--eval-folders tile_9" in problem(spec, eval_folders=("tile_9",))
