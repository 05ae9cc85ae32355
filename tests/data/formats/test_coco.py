"""COCO's JSON: ids with gaps, crowds, held-out images, and files that are not as they should be."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cnn_jax import data
from cnn_jax.errors import UserError


def content():
    return {
        "images": [
            {"id": 7, "file_name": "seven.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "three.png", "width": 40, "height": 30},
            {"id": 0, "file_name": "zero.png"},
        ],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10.5, 20], "area": 55.5},
            {"id": 1, "image_id": 0, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [5, 5, 3, 4], "iscrowd": 0},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 2, "name": "bicycle"}],
    }


@pytest.fixture
def place(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("seven", "three", "zero"):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def open_boxes(place, written, split="train", spec="{0}/a.json,{0}/images", **settings):
    text = written if isinstance(written, str) else json.dumps(written)
    (place / "a.json").write_text(text)
    settings = {"holdout_fraction": 0.0, **settings}
    return data.open_source(
        f"coco:{spec.format(place)}", split, formats=data.BOX_FORMATS, **settings
    )


def test_category_ids_have_gaps_and_ids_may_be_zero(place):
    source = open_boxes(place, content())
    assert source.class_names == ("bicycle", "toothbrush") and len(source) == 3
    first, second, third = (source[i] for i in range(3))
    np.testing.assert_array_equal(first["boxes"], [[1, 2, 11.5, 22], [5, 5, 8, 9]])
    np.testing.assert_array_equal(first["labels"], [1, 0])
    np.testing.assert_array_equal(first["area"], [55.5, 12])
    assert len(second["boxes"]) == 0 and second["image"].shape == (30, 40, 3)
    assert third["crowd"].tolist() == [True] and third["area"].tolist() == [1200]
    assert source.notices == () and source.describe(0).endswith("seven.png")


def test_bad_boxes_are_dropped_and_said(place):
    changed = content()
    changed["annotations"][2]["bbox"] = [5, 5, 0, 4]
    changed["annotations"][0]["bbox"] = [30, 2, 30, 10]
    source = open_boxes(place, changed)
    np.testing.assert_array_equal(source[0]["boxes"], [[30, 2, 40, 12]])
    assert source.notices == (
        f"1 box without area, dropped (in {place}/a.json: annotations[2])",
        f"1 box beyond the image's border, cut off there (in {place}/a.json: annotations[0])",
    )


def test_images_are_held_out_by_name_or_have_a_file_of_their_own(place):
    train = open_boxes(place, content(), holdout_fraction=0.4)
    evaluated = open_boxes(place, content(), "eval", holdout_fraction=0.4)
    names = [{s.describe(i) for i in range(len(s))} for s in (train, evaluated)]
    assert len(names[0]) == 2 and len(names[1]) == 1 and not names[0] & names[1]
    (place / "b.json").write_text(json.dumps(content() | {"images": [], "annotations": []}))
    four = "{0}/a.json,{0}/images,{0}/b.json,{0}/images"
    assert len(open_boxes(place, content(), spec=four)) == 3
    assert len(open_boxes(place, content(), "test", spec=four)) == 0
    (place / "b.json").write_text(json.dumps(content() | {"categories": [{"id": 1, "name": "a"}]}))
    with pytest.raises(UserError, match=r"b\.json: its categories differ from those of .*a\.json"):
        open_boxes(place, content(), spec=four)
    with pytest.raises(UserError, match="too few images to hold any out"):
        open_boxes(place, content(), "eval", holdout_fraction=0.0)


def change(path, value):
    def changed():
        written = content()
        *way, last = path
        part = written
        for step in way:
            part = part[step]
        part[last] = value
        return written

    return changed


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (lambda: '{"images": [],\n"annotations": [', r"a\.json:2: not JSON"),
        (lambda: "[]", r"a\.json: has no list 'images'"),
        (change(["annotations"], None), "has no list 'annotations'"),
        (
            change(["annotations", 1, "image_id"], 5),
            r"annotations\[1\]: there is no image with id 5",
        ),
        (change(["annotations", 1, "category_id"], 5), r"\[1\]: there is no category with id 5"),
        (change(["annotations", 1, "bbox"], [1, 2, 3]), r"\[1\]: bbox is \[1, 2, 3\], expected"),
        (change(["annotations", 1, "bbox"], None), r"\[1\]: bbox is None, expected a list"),
        (change(["annotations", 1, "bbox"], [0, 0, float("nan"), 3]), r"\[1\]: box .* not finite"),
        (change(["annotations", 1], 4), r"annotations\[1\]: image_id is None"),
        (change(["images", 1, "file_name"], None), r"images\[1\]: file_name is None"),
        (change(["images", 1, "id"], 7), r"images\[1\]: a second image with id 7"),
        (change(["categories"], []), "categories must have ids and names"),
        (change(["categories", 0, "name"], "bicycle"), "ids and names, each once"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(place, written, message):
    with pytest.raises(UserError, match=message):
        open_boxes(place, written())


def with_annotation(**fields):
    """The content with one annotation, of the image `seven`."""
    one = {"id": 0, "image_id": 7, "category_id": 2, **fields}
    return content() | {"annotations": [one]}


RUNS = {"size": [30, 40], "counts": [30 * 2 + 3, 5, 25, 5, 30 * 40 - 98]}  # columns 2, 3; rows 3-7


@pytest.mark.parametrize(
    ("segmentation", "box", "area"),
    [
        ([[2, 3, 10, 3, 10, 9]], [2, 3, 10, 9], 24),
        ([[2, 3, 10, 3, 10, 9], [20, 20, 22, 20, 22, 22, 20, 22]], [2, 3, 22, 22], 28),
        ([2, 3, 10, 3, 10, 9], [2, 3, 10, 9], 24),
        (RUNS, [2, 3, 4, 8], 10),
        ({"size": [30, 40], "counts": "o15i01Wb05"}, None, None),
    ],
)
def test_a_missing_box_is_that_around_the_object(place, segmentation, box, area):
    if box is None:
        plain = {"size": RUNS["size"], "counts": list(RUNS["counts"])}
        packed = coco_mask.frPyObjects(plain, 30, 40)["counts"].decode()
        segmentation, box, area = {"size": [30, 40], "counts": packed}, [2, 3, 4, 8], 10
    for missing in ({}, {"bbox": None}, {"bbox": []}):
        source = open_boxes(place, with_annotation(segmentation=segmentation, **missing))
        np.testing.assert_array_equal(source[0]["boxes"], [box])
        np.testing.assert_array_equal(source[0]["area"], [area])
    own = open_boxes(place, with_annotation(segmentation=segmentation, bbox=[1, 1, 4, 4], area=7))
    np.testing.assert_array_equal(own[0]["boxes"], [[1, 1, 5, 5]])
    np.testing.assert_array_equal(own[0]["area"], [7])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "segmentation: an outline needs x and y of three points"),
        ([[1, 2, 3, 4, 5, float("inf")]], "segmentation: a coordinate is not finite"),
        (["abc"], r"segmentation: is \['abc'\], expected lists of x1, y1"),
        ({"size": [30, 40], "counts": [1201]}, "run lengths do not fit a mask of 40 x 30"),
        ({"size": [3, 4], "counts": [12]}, "its mask is 4 x 3, but the image's size is 40 x 30"),
        ({"size": [30, 0], "counts": [12]}, r"size is \[30, 0\], expected \[rows, columns\]"),
        ({"size": [30, 40], "counts": "~"}, "not compressed run lengths"),
        ({"size": [30, 40], "counts": None}, "counts is None, expected run lengths"),
        ([], r"bbox is None, expected a list"),
    ],
)
def test_an_object_without_a_box_or_shape_is_named(place, segmentation, message):
    with pytest.raises(UserError, match=rf"a\.json: annotations\[0\]: .*{message}"):
        open_boxes(place, with_annotation(segmentation=segmentation))


def test_ids_may_be_texts(place):
    written = content()
    for entry in written["images"]:
        entry["id"] = str(entry["id"])
    for entry in written["categories"]:
        entry["id"] = f"{entry['id']}"
    written["annotations"][0]["image_id"] = 7.0
    written["annotations"][1]["image_id"] = "0"
    source = open_boxes(place, written)
    assert source.class_names == ("bicycle", "toothbrush")
    np.testing.assert_array_equal(source[0]["labels"], [1, 0])
    for old, new in ((90, "b"), (2, "a")):
        for entry in written["categories"]:
            entry["id"] = new if entry["id"] == str(old) else entry["id"]
        for entry in written["annotations"]:
            entry["category_id"] = new if entry["category_id"] == old else entry["category_id"]
    assert open_boxes(place, written).class_names == ("bicycle", "toothbrush")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0", False),
        ("1", True),
        (True, True),
        (False, False),
        (None, False),
        ("true", True),
        ("", 0),
    ],
)
def test_marks_of_crowds_as_tools_write_them(place, written, expected):
    source = open_boxes(place, with_annotation(bbox=[1, 1, 4, 4], iscrowd=written))
    assert source[0]["crowd"].tolist() == [bool(expected)]


def test_a_heading_of_categories_is_no_class(place):
    written = with_annotation(bbox=[1, 1, 4, 4])
    written["categories"] = [
        {"id": 0, "name": "Mask", "supercategory": "none"},
        {"id": 1, "name": "Mask", "supercategory": "Mask"},
        {"id": 2, "name": "No-Mask", "supercategory": "Mask"},
    ]
    source = open_boxes(place, written)
    assert source.class_names == ("Mask", "No-Mask") and source[0]["labels"].tolist() == [1]
    assert len(source.notices) == 1 and "'Mask' (id 0) is left out" in source.notices[0]
    # One that is annotated, in either file, is a class; and a class needs no annotations.
    written["categories"][0]["name"] = "faces"
    for entry in written["categories"][1:]:
        entry["supercategory"] = "faces"
    assert open_boxes(place, written).class_names == ("Mask", "No-Mask")
    other = written | {"annotations": [{**written["annotations"][0], "category_id": 0}]}
    (place / "b.json").write_text(json.dumps(other))
    spec = "{0}/a.json,{0}/images,{0}/b.json,{0}/images"
    for split in ("train", "eval"):
        assert open_boxes(place, written, split, spec).class_names == ("faces", "Mask", "No-Mask")
    for entry in written["categories"]:
        entry["supercategory"] = entry["name"]
    assert len(open_boxes(place, written).class_names) == 3


def test_images_by_other_paths(place):
    written = content()
    names = ["images/seven.png", r"C:\data\images\three.png", "/mnt/x/images/0123abcd-zero.png"]
    for entry, name in zip(written["images"], names, strict=True):
        entry["file_name"] = name
    source = open_boxes(place, written)
    stems = [Path(source.describe(i)).name for i in range(3)]
    assert stems == ["seven.png", "three.png", "zero.png"]
    assert [notice.partition(" (")[0] for notice in source.notices] == [
        "2 images found by the last parts of their paths",
        "1 image found by their names without what Label Studio adds",
    ]
    written["images"][1]["file_name"] = "others/seven.png"
    with pytest.raises(UserError, match=r"images\[1\]: others/seven\.png: no such image"):
        open_boxes(place, written)
    (place / "images" / "a b.png").write_bytes((place / "images/three.png").read_bytes())
    written["images"][1]["file_name"] = "a%20b.png"
    assert open_boxes(place, written).describe(1).endswith("a b.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", r"images\[1\]: .*none\.png: cannot be read \(No such file"),
        ("", r"images\[1\]: .* is a folder, not a file"),
        ("/dev/zero", r"images\[1\]: /dev/zero: is a device, not a file"),
        ("../../../../../../dev/zero", r"images\[1\]: .*/dev/zero: is a device, not a file"),
        ("pipe", r"images\[1\]: .*pipe: is a named pipe, not a file"),
        ("a\0b", r"images\[1\]: .*a\\x00b: cannot be read \(.*embedded null .*\)"),
        ("x" * 300, r"images\[1\]: .*: cannot be read \(File name too long\)"),
        ("x" * 5000, r"images\[1\]: the name of an image has 5,000 characters"),
        ("a/" * 2000, r"images\[1\]: .*: cannot be read \(No such file"),
    ],
)
def test_images_that_are_no_files_are_found_at_once(place, name, message):
    os.mkfifo(place / "images/pipe")
    with pytest.raises(UserError, match=message):
        open_boxes(place, change(["images", 1, "file_name"], name)())


def test_images_above_the_folder_are_read(place):
    Image.new("RGB", (40, 30)).save(place / "up.png")
    source = open_boxes(place, change(["images", 1, "file_name"], "../up.png")())
    assert source[1]["image"].shape == (30, 40, 3) and source.notices == ()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["images", 0, "width"], float("nan"), r"images\[0\]: width is nan, expected a number of"),
        (["images", 0, "height"], float("inf"), r"images\[0\]: height is inf, expected a number"),
        (["images", 0, "height"], "tall", r"images\[0\]: height is 'tall', expected a number"),
        (["images", 0, "height"], 10**400, r"images\[0\]: height is 1000.*, expected a number"),
        (["images", 0, "width"], 300, r"images\[0\]: its size is 300 x 30, but .* has 40 x 30"),
        (["annotations", 0, "area"], float("nan"), r"annotations\[0\]: area is nan, expected"),
        (["annotations", 0, "area"], 1e308, r"annotations\[0\]: area is 1e\+308, expected"),
        (["annotations", 0, "bbox"], [0, 0, 10**400, 1], r"annotations\[0\]: box .* not finite"),
        (["annotations", 0, "iscrowd"], "many", r"annotations\[0\]: iscrowd is 'many', expected"),
        (["annotations", 0, "iscrowd"], [], r"annotations\[0\]: iscrowd is \[\], expected 0 or 1"),
        (
            ["annotations", 0, "image_id"],
            [[[]]],
            r"image_id is \[\[\[\]\]\], expected a whole",
        ),
        (["annotations", 0, "category_id"], 1e400, r"\[0\]: category_id is inf, expected a whole"),
        (["categories", 0, "id"], None, r"categories\[0\]: id is None, expected a whole number"),
    ],
)
def test_odd_values_are_named(place, path, value, message):
    with pytest.raises(UserError, match=rf"a\.json: .*{message}"):
        open_boxes(place, change(path, value)())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "not JSON"),
        ('{"images": ["\\ud800"]}', "half of a surrogate pair"),
        ('{"images": [' + "1e400" + "]}", "has no list 'annotations'"),
    ],
)
def test_json_that_is_made_to_do_harm(place, text, message):
    with pytest.raises(UserError, match=rf"a\.json: .*{message}"):
        open_boxes(place, text)


def test_boxes_of_the_stored_pixels_and_of_a_resized_copy(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(place / "images/seven.png", exif=exif)
    Image.new("RGB", (20, 15)).save(place / "images/three.png")
    written = content()
    written["annotations"][1].update(image_id=3, bbox=[10, 20, 8, 4], area=24)
    source = open_boxes(place, written)
    np.testing.assert_array_equal(source[0]["boxes"], [[8, 1, 28, 11.5], [21, 5, 25, 8]])
    np.testing.assert_array_equal(source[0]["area"], [55.5, 12])
    np.testing.assert_array_equal(source[1]["boxes"], [[5, 10, 9, 12]])
    np.testing.assert_array_equal(source[1]["area"], [6])
    assert len(source.notices) == 2


def test_a_box_that_stands_twice_is_read_once(place):
    written = content()
    written["annotations"].append(written["annotations"][0] | {"id": 9})
    written["annotations"].append(written["annotations"][2] | {"id": 10, "iscrowd": 1})
    source = open_boxes(place, written)
    assert source[0]["labels"].tolist() == [1, 0, 0]
    assert source.notices == (
        f"1 box standing twice in an image, read once (in {place}/a.json: annotations[3])",
    )


def test_bad_specs(place):
    for spec, message in (
        ("{0}/a.json", "give coco:JSON,IMAGES"),
        ("{0}/a.json,{0}/nowhere", "nowhere: no such folder"),
        ("{0}/none.json,{0}/images", r"none\.json: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            open_boxes(place, content(), spec=spec)
