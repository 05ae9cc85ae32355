"""PASCAL VOC's folders: splits, coordinates, repairs, and files that are not as they should be."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.source import find_bad_images
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


def test_a_mark_of_a_class_is_no_part_of_a_name_but_a_blank_may_be(folder):
    for name in ("img", "img 2", "img 1"):
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(("dog", (1, 1, 9, 9), 0)))
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{name}.jpg")
    listing = folder / "ImageSets/Main/train.txt"
    listing.write_text("img\nimg 2\nimg 1\na -1\nb  1\nc\t0\na.jpg\n")
    source = open_boxes(folder)
    names = [Path(source.describe(i)).stem for i in range(len(source))]
    assert names == ["img", "img 2", "img 1", "a", "b", "c", "a"] and source.notices == ()


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfa\r\nb\r\n\r\n", b"a\rb\r", b"a\nb", "a\nb\n".encode("utf-16")]
)
def test_lists_of_other_systems(folder, content):
    (folder / "ImageSets/Main/train.txt").write_bytes(content)
    source = open_boxes(folder)
    assert [Path(source.describe(i)).stem for i in range(len(source))] == ["a", "b"]


def test_a_list_in_another_encoding_is_named(folder):
    (folder / "ImageSets/Main/train.txt").write_bytes("a\ncafé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt:2: not text in utf-8 \(byte 0xe9\)"):
        open_boxes(folder)


def test_names_that_no_file_can_have(folder):
    listing = folder / "ImageSets/Main/train.txt"
    for name, message in (
        ("x" * 5000, r"train\.txt:2: the name of an image has 5,000 characters"),
        ("x" * 300, r"xxx\.xml: cannot be read: no such file, in .*train\.txt"),
        ("/dev/zero", r"Annotations//dev/zero\.xml: cannot be read: no such file, in .*train\.txt"),
    ):
        listing.write_text(f"a\n{name}\n")
        with pytest.raises(UserError, match=message):
            open_boxes(folder)


def test_folders_and_lists_in_other_cases_and_forms(folder):
    lists = folder / "ImageSets/Main"
    (folder / "Annotations").rename(folder / "annotations")
    (folder / "JPEGImages").rename(folder / "Images")
    (lists / "train.txt").rename(lists / "Training.TXT")
    (lists / "val.txt").rename(lists / "validation_set.txt")
    lists.rename(folder / "ImageSets/main")
    (folder / "ImageSets").rename(folder / "imagesets")
    assert [len(open_boxes(folder, split)) for split in ("train", "eval", "test")] == [2, 1, 1]
    (folder / "imagesets/main/test.txt").write_text("b\na\n")
    assert [len(open_boxes(folder, split)) for split in ("eval", "test")] == [1, 2]
    (folder / "imagesets/main/Training.TXT").rename(folder / "imagesets/main/TrainVal.txt")
    assert len(open_boxes(folder)) == 2
    for name in ("Train.txt", "training.txt"):
        (folder / "imagesets/main" / name).write_text("a\n")
    with pytest.raises(UserError, match="Train and training both mean the split 'train'"):
        open_boxes(folder)


def test_what_systems_leave_is_passed_over_and_the_rest_is_told(folder):
    (folder / "Annotations/._a.xml").write_bytes(b"\0\5\26\7")
    (folder / "ImageSets/Main/._train.txt").write_bytes(b"\0\5\26\7")
    (folder / "JPEGImages/Thumbs.db").write_bytes(b"x")
    (folder / "JPEGImages/._a.jpg").write_bytes(b"x")
    assert open_boxes(folder).notices == ()
    (folder / "JPEGImages/notes.csv").write_text("x")
    (notice,) = open_boxes(folder).notices
    assert "1 file was left out, as no images: 1 .csv" in notice


def test_of_two_images_of_one_name_one_is_read_and_told(folder):
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / "a.png")
    source = open_boxes(folder)
    assert source.describe(0).endswith("a.jpg")
    assert source.notices == (f"{folder}/JPEGImages: a.jpg and a.png have one name; a.jpg is read",)
    path = folder / "Annotations/a.xml"
    path.write_text(path.read_text().replace("<size>", "<filename>a.png</filename><size>"))
    assert open_boxes(folder).describe(0).endswith("a.png")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", False),
        ("0", False),
        ("1", True),
        ("true", True),
        ("False", False),
        ("Unspecified", False),
    ],
)
def test_marks_as_tools_write_them(folder, written, expected):
    text = annotation(("dog", (1, 1, 10, 20), "MARK"))
    mark = f"<difficult>{written}</difficult>" if written else "<difficult/>"
    text = text.replace("<difficult>MARK</difficult>", mark)
    (folder / "Annotations/a.xml").write_text(text)
    assert open_boxes(folder)[0]["difficult"].tolist() == [expected]


def test_an_unknown_size_is_that_of_the_image_and_a_strange_one_is_named(folder):
    path = folder / "Annotations/a.xml"
    text = annotation(("dog", (1, 1, 100, 20), 0))
    for empty in ("<width/>", "<width>0</width>", "<width> </width>"):
        path.write_text(text.replace(f"<width>{WIDTH}</width>", empty))
        np.testing.assert_array_equal(open_boxes(folder)[0]["boxes"], [[0, 0, WIDTH, 20]])
    for odd in ("nan", "inf", "1e400", "9" * 5000):
        path.write_text(text.replace(f"<width>{WIDTH}</width>", f"<width>{odd}</width>"))
        with pytest.raises(UserError, match=r"a\.xml:2: <width> is (nan|inf), expected pixels"):
            open_boxes(folder)
    for odd in ("1_0", "wide", "0x10"):
        path.write_text(text.replace(f"<width>{WIDTH}</width>", f"<width>{odd}</width>"))
        with pytest.raises(UserError, match=f"a.xml:2: <width> is '{odd}', expected a number"):
            open_boxes(folder)


def test_boxes_of_the_stored_pixels_and_of_a_resized_copy(folder):
    """The photo's object is at [35, 50, 50, 70] of the upright 60 x 80 picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(folder / "JPEGImages/a.jpg", exif=exif)
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(folder / "JPEGImages/b.jpg")
    stored = annotation(("dog", (51, 11, 70, 25), 0)).replace(str(WIDTH), "80")
    (folder / "Annotations/a.xml").write_text(stored.replace(str(HEIGHT), "60"))
    (folder / "Annotations/b.xml").write_text(annotation(("cat", (11, 21, 30, 28), 0)))
    source = open_boxes(folder)
    np.testing.assert_array_equal(source[0]["boxes"], [[35, 50, 50, 70]])
    assert source[0]["image"].shape == (80, 60, 3)
    np.testing.assert_array_equal(source[1]["boxes"], [[5, 10, 15, 14]])
    np.testing.assert_array_equal(source[1]["area"], [40])
    assert [n.partition(" (")[0] for n in source.notices] == [
        "boxes of 1 image are turned with the picture, as its EXIF orientation says: they count "
        "the pixels before that",
        "boxes of 1 image are scaled to the image's own size",
    ]
    (folder / "Annotations/b.xml").write_text(
        annotation(("cat", (1, 2, 3, 4), 0)).replace(str(WIDTH), "300")
    )
    with pytest.raises(UserError, match=r"b\.xml: its size is 300 x 30, but .*b\.jpg has 20 x 15"):
        open_boxes(folder)


def test_a_box_that_stands_twice_is_read_once(folder):
    path = folder / "Annotations/a.xml"
    path.write_text(
        annotation(
            ("dog", (1, 1, 9, 9), 0),
            ("cat", (1, 1, 9, 9), 0),
            ("dog", (1, 1, 9, 9), 1),
            ("dog", (2, 1, 9, 9), 0),
        )
    )
    source = open_boxes(folder)
    np.testing.assert_array_equal(source[0]["labels"], [1, 0, 1])
    assert source.notices == (f"1 box standing twice in an image, read once (in {path}:13)",)


def test_names_as_label_studio_changes_them(folder):
    (folder / "Annotations/a.xml").rename(folder / "Annotations/0123abcd-a.xml")
    (folder / "JPEGImages/b.jpg").rename(folder / "JPEGImages/ü b.jpg")
    (folder / "Annotations/b.xml").rename(folder / "Annotations/89abcdef-%C3%BC%20b.xml")
    (folder / "ImageSets/Main/train.txt").write_text("a\n89abcdef-%C3%BC%20b\n")
    source = open_boxes(folder)
    assert [Path(source.describe(i)).name for i in range(2)] == ["a.jpg", "ü b.jpg"]
    assert source.object_count(0) == 2
    assert source.notices == (
        "1 annotation found by Label Studio's names (the first: a as 0123abcd-a)",
        "1 image found by Label Studio's names (the first: 89abcdef-%C3%BC%20b as ü b)",
    )


def test_missing_and_unreadable_images_are_found_at_once_or_kept_to_be_left_out(folder):
    image = folder / "JPEGImages/a.jpg"
    image.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.xml: .*a\.jpg: not an image"):
        open_boxes(folder)
    image.unlink()
    os.mkfifo(image)
    with pytest.raises(UserError, match=r"a\.jpg: no such image, train lists it"):
        open_boxes(folder)
    source = open_boxes(folder, keep_bad_images=True)
    assert len(source) == 2 and list(find_bad_images(source)) == [0]


@pytest.mark.skipif(DATA is None, reason="CNN_JAX_DATA does not say where data lies")
def test_blood_cells():
    folder = Path(DATA) / "bccd"
    sources = {split: open_boxes(folder, split) for split in ("train", "eval", "test")}
    assert [len(source) for source in sources.values()] == [205, 87, 72]
    assert sources["train"].class_names == ("Platelets", "RBC", "WBC")
    assert sum(source.object_counts().sum() for source in sources.values()) == 4888 - 2
    notices = [notice for source in sources.values() for notice in source.notices]
    assert sum("without area" in notice for notice in notices) >= 1
