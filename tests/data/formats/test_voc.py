"""PASCAL VOC's folders: splits, coordinates, repairs, and files that are not as they should be."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.errors import UserError

WIDTH, HEIGHT = 40, 30
DATA = os.environ.get("CNN_JAX_DATA")


def annotation(*objects, size=True):
    parts = [
        f"<object>\n<name>{name}</name>\n<difficult>{difficult}</difficult>\n<bndbox>"
        + "".join(
            f"<{tag}>{value}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox>\n</object>\n"
        for name, box, difficult in objects
    ]
    extent = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>\n" if size else ""
    return f"<annotation>\n{extent}{''.join(parts)}</annotation>\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    contents = {
        "a": annotation(("dog", (1, 1, 10, 20), 0), ("cat", (5, 6, 40, 30), 1)),
        "b": annotation(size=False),
        "c": annotation(("zebra", (2, 2, 9, 9), 0)),
    }
    for name, text in contents.items():
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("c\n")
    return tmp_path


def open_boxes(folder, split="train", **settings):
    return data.open_source(f"voc:{folder}", split, formats=data.BOX_FORMATS, **settings)


def test_boxes_begin_before_their_first_pixel_and_end_after_their_last(folder):
    source = open_boxes(folder)
    assert source.class_names == ("cat", "dog", "zebra") and len(source) == 2
    first, second = source[0], source[1]
    np.testing.assert_array_equal(first["boxes"], [[0, 0, 10, 20], [4, 5, 40, 30]])
    np.testing.assert_array_equal(first["labels"], [1, 0])
    np.testing.assert_array_equal(first["difficult"], [False, True])
    np.testing.assert_array_equal(first["area"], [200, 900])
    assert first["image"].shape == (HEIGHT, WIDTH, 3) and not first["crowd"].any()
    assert second["boxes"].shape == (0, 4) and second["labels"].dtype == np.int32
    assert source.describe(1) == str(folder / "JPEGImages" / "b.jpg") and source.notices == ()
    np.testing.assert_array_equal(source.object_counts(), [2, 0])


def test_splits_stand_in_for_each_other_and_have_the_same_classes(folder):
    for split in ("eval", "test"):
        source = open_boxes(folder, split)
        assert len(source) == 1 and source.class_names == open_boxes(folder).class_names
    (folder / "ImageSets/Main/test.txt").write_text("b 1\na -1\n")
    assert len(open_boxes(folder, "test")) == 2 and len(open_boxes(folder, "eval")) == 1


def test_bad_boxes_are_put_right_or_dropped_and_said(folder):
    path = folder / "Annotations" / "a.xml"
    path.write_text(
        annotation(
            ("dog", (5, 5, 5, 20), 0),
            ("dog", (50, 5, 60, 20), 0),
            ("dog", (-9, 5, 20, 20), 0),
            ("dog", (20, 20, 10, 5), 0),
            ("dog", (0, 0, 40, 30), 0),
            ("dog", (7, 5, 7, 5), 0),
        )
    )
    source = open_boxes(folder)
    expected = [[0, 4, 20, 20], [9, 4, 20, 20], [0, 0, 40, 30]]
    np.testing.assert_array_equal(source[0]["boxes"], expected)
    assert set(source.notices) == {
        f"2 boxes without area, dropped (the first in {path}:3)",
        f"1 box outside the image, dropped (in {path}:8)",
        f"1 box beyond the image's border, cut off there (in {path}:13)",
        f"1 box with swapped corners, put in order (in {path}:18)",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<annotation>\n<object>\n</annotation>",
            r"a\.xml:3: not well-formed XML \(mismatched tag",
        ),
        ("", r"a\.xml:1: not well-formed XML \(no element found"),
        ("<annotation>\n\n<object>\n</object></annotation>", r"a\.xml:3: <object> has no <name>"),
        (
            "<annotation><object>\n<name>x</name>\n</object></annotation>",
            r"a\.xml:1: <object> has no <bndbox>",
        ),
        (
            "<annotation><object><name>x</name>\n<bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>2</xmax></bndbox></object></annotation>",
            r"a\.xml:2: <bndbox> has no <ymax>",
        ),
        (annotation(("x", (1, "two", 3, 4), 0)), r"a\.xml:6: <ymin> is 'two', expected a number"),
        (annotation((" ", (1, 2, 3, 4), 0)), r"a\.xml:4: <name> is empty, expected a class"),
        (annotation(("x", (1, 2, "nan", 4), 0)), r"a\.xml:3: box .* is not finite"),
    ],
)
def test_bad_annotations_are_named_with_their_line(folder, text, message):
    (folder / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        open_boxes(folder)


def test_missing_parts_are_named(folder, tmp_path_factory):
    with pytest.raises(UserError, match=r"lacks a folder, give voc:DIR"):
        open_boxes("")
    with pytest.raises(UserError, match="Annotations: no such folder"):
        open_boxes(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UserError, match="--holdout-groups: voc"):
        open_boxes(folder, holdout_groups="x")
    listing = folder / "ImageSets/Main/train.txt"
    listing.write_text("a\nmissing\n")
    with pytest.raises(UserError, match=r"missing\.xml: cannot be read"):
        open_boxes(folder)
    (folder / "Annotations" / "missing.xml").write_text(annotation())
    with pytest.raises(UserError, match=r"missing\.jpg: no such image, train lists it"):
        open_boxes(folder)
    listing.write_text("\n")
    with pytest.raises(UserError, match=r"train\.txt: names no images"):
        open_boxes(folder)
    listing.unlink()
    with pytest.raises(UserError, match=r"has neither train\.txt nor trainval\.txt"):
        open_boxes(folder)


@pytest.mark.skipif(DATA is None, reason="CNN_JAX_DATA does not say where data lies")
def test_blood_cells():
    folder = Path(DATA) / "bccd"
    sources = {split: open_boxes(folder, split) for split in ("train", "eval", "test")}
    assert [len(source) for source in sources.values()] == [205, 87, 72]
    assert sources["train"].class_names == ("Platelets", "RBC", "WBC")
    assert sum(source.object_counts().sum() for source in sources.values()) == 4888 - 2
    notices = [notice for source in sources.values() for notice in source.notices]
    assert sum("without area" in notice for notice in notices) >= 1
