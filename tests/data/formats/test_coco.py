"""COCO's JSON: ids with gaps, crowds, held-out images, and files that are not as they should be."""

import json

import numpy as np
import pytest
from PIL import Image

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


def test_bad_specs(place):
    for spec, message in (
        ("{0}/a.json", "give coco:JSON,IMAGES"),
        ("{0}/a.json,{0}/nowhere", "nowhere: no such folder"),
        ("{0}/none.json,{0}/images", r"none\.json: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            open_boxes(place, content(), spec=spec)
