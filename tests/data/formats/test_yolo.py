"""YOLO's text files: shares of the image, lists of images, and lines that are wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.source import find_bad_images
from cnn_jax.errors import UserError

DATA = os.environ.get("CNN_JAX_DATA")
YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: person\n  1: dog\n"


@pytest.fixture
def place(tmp_path):
    for name in ("train/a", "train/b", "val/c"):
        image = tmp_path / "images" / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(image)
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 0.2\n\n0 0.25 0.5 0.5 1.0\n")
    (tmp_path / "labels/val/c.txt").write_text("")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def open_boxes(place, split="train", **settings):
    return data.open_source(f"yolo:{place}/data.yaml", split, formats=data.BOX_FORMATS, **settings)


def test_boxes_are_shares_of_the_image(place):
    source = open_boxes(place)
    assert source.class_names == ("person", "dog") and len(source) == 2
    np.testing.assert_allclose(source[0]["boxes"], [[10, 8, 30, 12], [0, 0, 20, 20]], atol=1e-5)
    np.testing.assert_array_equal(source[0]["labels"], [1, 0])
    np.testing.assert_allclose(source[0]["area"], [80, 400], atol=1e-3)
    assert source[1]["boxes"].shape == (0, 4)
    for split in ("eval", "test"):
        held_out = open_boxes(place, split)
        assert len(held_out) == 1 and len(held_out[0]["labels"]) == 0


def test_a_folder_stands_for_the_only_yaml_file_in_it(place):
    def open_folder():
        return data.open_source(f"yolo:{place}", "train", formats=data.BOX_FORMATS)

    assert [open_folder().describe(i) for i in range(2)] == [
        open_boxes(place).describe(i) for i in range(2)
    ]
    (place / "other.yml").write_text(YAML)
    with pytest.raises(UserError, match="2 YAML files"):
        open_folder()


def test_an_outline_stands_for_its_box(place):
    (place / "labels/train/a.txt").write_text("0 0.1 0.5 0.9 0.25 0.5 1.0\n")
    np.testing.assert_allclose(open_boxes(place)[0]["boxes"], [[4, 5, 36, 20]], atol=1e-5)


def test_lists_of_images_and_of_names(place):
    (place / "list.txt").write_text("images/train/b.jpg\n\nimages/val/c.jpg\n")
    (place / "data.yaml").write_text("train: [list.txt, images/train]\nnames: [x, y]\nnc: 2\n")
    source = open_boxes(place)
    assert [Path(source.describe(i)).stem for i in range(len(source))] == ["b", "c", "a", "b"]
    with pytest.raises(UserError, match="has no val or test"):
        open_boxes(place, "eval")


def test_bad_boxes_are_dropped_and_said(place):
    path = place / "labels/train/a.txt"
    path.write_text("0 0.5 0.5 0 0.2\n1 0.9 0.5 0.4 0.2\n1 1.7 0.5 0.4 0.2\n1 0.5 0.5 1.000001 1\n")
    source = open_boxes(place)
    np.testing.assert_allclose(source[0]["boxes"], [[28, 8, 40, 12], [0, 0, 40, 20]], atol=1e-4)
    assert set(source.notices) == {
        f"1 box without area, dropped (in {path}:1)",
        f"1 box beyond the image's border, cut off there (in {path}:2)",
        f"1 box outside the image, dropped (in {path}:3)",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.5", r"a\.txt:2: 4 numbers, expected 5: class cx cy w h"),
        ("dog 0.5 0.5 0.5 0.1", r"a\.txt:2: 'dog 0.5 0.5 0.5 0.1' contains words"),
        ("2 0.5 0.5 0.5 0.1", r"a\.txt:2: class 2 is none of the 2 in the YAML file"),
        ("0.5 0.5 0.5 0.5 0.1", r"a\.txt:2: class 0.5 is none"),
        ("1 0.5 inf 0.5 0.1", r"a\.txt:2: box .* is not finite"),
        ("1 0.1 0.2 0.3 0.4 0.5", r"a\.txt:2: 6 numbers, expected 5"),
    ],
)
def test_bad_lines_are_named(place, line, message):
    (place / "labels/train/a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(UserError, match=message):
        open_boxes(place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [images\nnames: [a]", r"data\.yaml:2: not YAML"),
        ("just words", r"data\.yaml: expected keys"),
        ("train: images/train\n", r"names must be a list"),
        ("train: images/train\nnames: {1: a}\n", "have the numbers from 0 on"),
        ("train: images/train\nnames: [a]\nnc: 2\n", "nc is 2, but there are 1 names"),
        ("train: nowhere\nnames: [a]\n", "nowhere: neither a folder nor a .txt file"),
        ("train: labels\nnames: [a]\n", "train: labels contains no images"),
    ],
)
def test_bad_yaml_is_named(place, text, message):
    (place / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        open_boxes(place)


def test_missing_files(place):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        data.open_source(f"yolo:{place}/none.yaml", "train", formats=data.BOX_FORMATS)
    with pytest.raises(UserError, match=r"give yolo:DATA\.yaml"):
        data.open_source("yolo:", "train", formats=data.BOX_FORMATS)


def test_fractions_are_of_the_upright_image(place):
    """Ultralytics turns images by EXIF and measures the fractions on the upright ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(place / "images/train/a.jpg", exif=exif)
    source = open_boxes(place)
    assert source[0]["image"].shape == (40, 20, 3) and source.notices == ()
    np.testing.assert_allclose(source[0]["boxes"], [[5, 16, 15, 24], [0, 0, 10, 40]], atol=1e-5)


def test_poses_have_a_box_and_key_points(place):
    (place / "data.yaml").write_text(f"{YAML}kpt_shape: [2, 3]\n")
    path = place / "labels/train/a.txt"
    path.write_text("1 0.5 0.5 0.5 0.2 0.1 0.2 2 0.9 0.9 1\n0 0.25 0.5 0.5 1.0\n")
    source = open_boxes(place)
    np.testing.assert_allclose(source[0]["boxes"], [[10, 8, 30, 12], [0, 0, 20, 20]], atol=1e-5)
    assert source.notices == ()
    # Outlines would have such counts, but a set of poses has none.
    path.write_text("1 0.5 0.5 0.5 0.2 0.1 0.2 0.3 0.4\n")
    with pytest.raises(UserError, match=r"a\.txt:1: 9 numbers, expected 5: .*, or 11 with"):
        open_boxes(place)
    for wrong in ("[17]", "[2, 4]", "[0, 3]", "many", "[a, b]", "3", "[1, 2, 3]", "[[2], 3]"):
        (place / "data.yaml").write_text(f"{YAML}kpt_shape: {wrong}\n")
        with pytest.raises(UserError, match=r"kpt_shape is .*, expected \[points, 2 or 3\]"):
            open_boxes(place)


def test_of_oriented_boxes_and_outlines_the_upright_box_is_read_and_told(place):
    path = place / "labels/train/a.txt"
    path.write_text(
        "1 0.5 0.5 0.5 0.2\n0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n1 0.1 0.1 0.2 0.1 0.2 0.4\n"
    )
    source = open_boxes(place)
    expected = [[10, 8, 30, 12], [4, 2, 36, 18], [4, 2, 8, 8]]
    np.testing.assert_allclose(source[0]["boxes"], expected, atol=1e-5)
    assert source.notices == (
        "2 labels are outlines or oriented boxes: the upright box around each is read (the first "
        f"in {path}:2)",
    )


def test_pixels_are_told_from_fractions(place):
    path = place / "labels/train/a.txt"
    for line in ("0 20 10 8 4", "0 0.5 0.5 640 0.2", "0 0.1 0.1 12 8 0.3 0.4", "0 -30 0.5 0.1 0.1"):
        path.write_text(f"{line}\n")
        with pytest.raises(UserError, match=r"a\.txt:1: -?\d+ looks like pixels, expected"):
            open_boxes(place)


def test_a_box_that_stands_twice_is_read_once(place):
    path = place / "labels/train/a.txt"
    path.write_text("1 0.5 0.5 0.5 0.2\n0 0.5 0.5 0.5 0.2\n1 0.5 0.5 0.5 0.2\n")
    source = open_boxes(place)
    assert source[0]["labels"].tolist() == [1, 0]
    assert source.notices == (f"1 box standing twice in an image, read once (in {path}:3)",)


def test_places_as_roboflow_writes_them(place):
    (place / "images").rename(place / "moved")
    for split in ("train", "valid"):
        source = place / "moved" / ("val" if split == "valid" else split)
        (place / split).mkdir()
        source.rename(place / split / "images")
        labels = place / "labels" / ("val" if split == "valid" else split)
        labels.rename(place / split / "labels")
    text = "train: ../train/images\nvalid: ../valid/images\ntest: ../test/images\n"
    (place / "data.yaml").write_text(f"{text}names: [person, dog]\n")
    source = open_boxes(place)
    assert len(source) == 2 and source.object_count(0) == 2
    (notice,) = source.notices
    assert "train: ../train/images is found as " in notice and notice.endswith("/train/images")
    assert len(open_boxes(place, "eval")) == 1
    with pytest.raises(UserError, match=r"\.\./test/images: neither a folder nor"):
        open_boxes(place, "test")
    # A folder above, where it exists, is what was written.
    above = place / "below"
    above.mkdir()
    (place / "data.yaml").rename(above / "data.yaml")
    assert open_boxes(above).notices == ()


def test_places_of_another_machine(place):
    text = "names: [person, dog]\ntrain: {0}train\nval: {0}val\n"
    for prefix in ("/content/data/images/", "D:\\data\\images\\"):
        (place / "data.yaml").write_text(text.format(prefix))
        assert [len(open_boxes(place, split)) for split in ("train", "eval")] == [2, 1]
    (place / "data.yaml").write_text(f"path: /content/data\n{text.format('images/')}")
    assert len(open_boxes(place)) == 2
    # Both would be the same folder, which is no split of either.
    (place / "data.yaml").write_text(
        "names: [person, dog]\ntrain: /x/train/images\nval: /x/val/images\n"
    )
    with pytest.raises(UserError, match=r"/x/val/images: no such folder, and .* is /x/train/"):
        open_boxes(place)


@pytest.mark.parametrize("key", ["valid", "validation", "Val", "dev"])
def test_other_names_of_splits(place, key):
    (place / "data.yaml").write_text(YAML.replace("val:", f"{key}:"))
    assert len(open_boxes(place, "eval")) == 1
    (place / "data.yaml").write_text(YAML + f"{key}: labels\n")
    assert len(open_boxes(place, "eval")) == 1


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_and_labels_of_other_systems(place, end, mark):
    lines = ("./images/train/b.jpg", "/home/x/data/images/val/c.jpg", r"C:\d\images\train\a.jpg")
    (place / "list.txt").write_bytes((mark + end.join(lines) + end * 2).encode())
    label = place / "labels/train/a.txt"
    label.write_bytes((mark + label.read_text().replace("\n", end)).encode())
    (place / "classes.txt").write_bytes((mark + f"person{end}dog{end}{end}").encode())
    for names in ("names: classes.txt\n", ""):
        (place / "data.yaml").write_text(f"train: list.txt\n{names}")
        source = open_boxes(place)
        assert source.class_names == ("person", "dog")
        assert [Path(source.describe(i)).stem for i in range(3)] == ["b", "c", "a"]
        assert source[2]["labels"].tolist() == [1, 0]
        assert "2 images found by the last parts" in source.notices[-1]
    assert "has no names; those of" in source.notices[0]


def test_listed_images_that_do_not_exist_are_found_at_once_or_kept_to_be_left_out(place):
    (place / "list.txt").write_text("images/train/b.jpg\nimages/train/none.jpg\n")
    (place / "data.yaml").write_text("train: list.txt\nnames: [person, dog]\n")
    with pytest.raises(UserError, match=r"list\.txt:2: .*none\.jpg: cannot be read \(No such file"):
        open_boxes(place)
    assert list(find_bad_images(open_boxes(place, keep_bad_images=True))) == [1]
    os.mkfifo(place / "images/train/none.jpg")
    with pytest.raises(UserError, match=r"none\.jpg: is a named pipe, not a file"):
        open_boxes(place)


def test_labels_as_label_studio_names_them(place):
    (place / "images/train/b.jpg").rename(place / "images/train/ü b.jpg")
    (place / "labels/train/a.txt").rename(place / "labels/train/0123abcd-a.txt")
    (place / "labels/train/89abcdef-%C3%BC%20b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    source = open_boxes(place)
    assert [source.object_count(i) for i in range(2)] == [2, 1]
    assert source.notices == (
        "2 label files found by Label Studio's names (the first: a as 0123abcd-a)",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 10, r"a\.txt:1: not text \(it holds zero bytes\)"),
        ("0 0.5 0.5 0.5 0.5 é".encode("latin-1"), r"a\.txt:1: not text in utf-8"),
        (b"0 1_0 0.5 0.5 0.5", r"a\.txt:1: '0 1_0 0.5 0.5 0.5' contains words"),
        (b"0 " + b"9" * 5000 + b" 0.5 0.5 0.5", r"a\.txt:1: box .* is not finite"),
        (b"0 1e400 0.5 0.5 0.5", r"a\.txt:1: box .* is not finite"),
        (b"nan 0.5 0.5 0.5 0.5", r"a\.txt:1: class nan is none of the 2"),
        (b"0 0.5 0.5 0.5 0.5\x0b1 0.5 0.5 0.5 0.5", "contains words"),
        (b"0 " + b"0.5 " * 300_000, r"a\.txt:1: the line has 1,200,002 characters"),
    ],
)
def test_odd_labels_are_named(place, content, message):
    (place / "labels/train/a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_boxes(place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a, x: b}\ntrain: images/train", "have the numbers from 0 on"),
        ("names: [a, [b]]\ntrain: images/train", r"name 1 is \['b'\], expected a text"),
        ("names: [a, ~]\ntrain: images/train", "name 1 is None, expected a text"),
        ("names: [a]\ntrain: {a: b}", r"train is \{'a': 'b'\}, expected a folder"),
        ("names: [a]\npath: [b]\ntrain: images/train", r"path is \['b'\], expected a folder"),
        ("names: none.txt\ntrain: images/train", r"none\.txt: cannot be read"),
        ("names: [a]\nnc: 2024-99-99\ntrain: images/train", "nc is 2024-99-99, but there are 1"),
        ("names: [a]\ntrain: ''\nval: images/val", "has no train"),
        ("names: " + "[" * 2000, "nested too deeply"),
        ("names: [a]\ntrain: " + "x" * 5000, "neither a folder nor"),
    ],
)
def test_odd_yaml_is_named(place, text, message):
    (place / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        open_boxes(place)


def test_names_stay_as_they_are_written(place):
    (place / "data.yaml").write_text("names: [no, 1.0]\ntrain: images/train\n")
    assert open_boxes(place).class_names == ("no", "1.0")


@pytest.mark.skipif(DATA is None, reason="CNN_JAX_DATA does not say where data lies")
def test_coco128():
    source = open_boxes(Path(DATA) / "coco128")
    assert len(source) == 128 and len(source.class_names) == 80
    example = source[0]
    assert np.all(example["boxes"][:, 2:] > example["boxes"][:, :2])
