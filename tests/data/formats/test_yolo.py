"""YOLO's text files: shares of the image, lists of images, and lines that are wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
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


@pytest.mark.skipif(DATA is None, reason="CNN_JAX_DATA does not say where data lies")
def test_coco128():
    source = open_boxes(Path(DATA) / "coco128")
    assert len(source) == 128 and len(source.class_names) == 80
    example = source[0]
    assert np.all(example["boxes"][:, 2:] > example["boxes"][:, :2])
