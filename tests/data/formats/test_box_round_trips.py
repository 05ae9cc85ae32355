"""What is written in VOC's, COCO's and YOLO's formats is read back the same."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import boxes as written

NAMES = ["cat", "dog", "naïve", "猫"]
SPLITS = {"train": "train", "val": "eval", "test": "test"}


@st.composite
def picture(draw, number, split):
    height, width = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x1, y1 = draw(st.floats(0, width - 2)), draw(st.floats(0, height - 2))
        # A side of one pixel has no length in VOC: its files count the last pixel.
        x2, y2 = draw(st.floats(x1 + 1.5, width)), draw(st.floats(y1 + 1.5, height))
        boxes.append((x1, y1, x2, y2))
    boxes = list(dict.fromkeys(boxes))
    labels = draw(st.lists(st.integers(0, 3), min_size=len(boxes), max_size=len(boxes)))
    marked = draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
    return written.Picture(f"{split} {number}", split, (height, width), boxes, labels, marked)


@st.composite
def pictures(draw):
    drawn = [draw(picture(number, split)) for number, split in enumerate(SPLITS)]
    # Each class is in training, as VOC has no other list of them.
    all_classes = [(float(i), 0.0, i + 2.0, 2.0) for i in range(len(NAMES))]
    first = written.Picture("all", "train", (9, 9), all_classes, range(4), [False] * 4)
    return [first, *drawn]


FORMATS = {
    "voc": (written.write_voc, written.open_voc, "difficult"),
    "coco": (written.write_coco, written.open_coco, "crowd"),
    "yolo": (written.write_yolo, written.open_yolo, None),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(drawn=pictures())
def test_boxes_labels_and_flags_come_back(name, drawn):
    write, open_split, flag = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), drawn, NAMES)
        for split, used in SPLITS.items():
            source = open_split(Path(folder), used)
            assert source.class_names == tuple(NAMES) and source.notices == ()
            # COCO's file of evaluation holds both splits.
            held = ("val", "test") if name == "coco" and split != "train" else (split,)
            expected = [picture for picture in drawn if picture.split in held]
            found = {Path(source.describe(i)).stem: source[i] for i in range(len(source))}
            assert set(found) == {picture.name for picture in expected}
            for picture in expected:
                compare(found[picture.name], picture, name, flag)


def compare(example, picture, name, flag):
    boxes = np.array(picture.boxes, np.float64).reshape(-1, 4)
    assert example["image"].shape == (*picture.size, 3)
    np.testing.assert_allclose(example["boxes"], boxes, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(example["labels"], picture.labels)
    for each in ("difficult", "crowd"):
        expected = picture.marked if each == flag else [False] * len(boxes)
        np.testing.assert_array_equal(example[each], np.array(expected, bool))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (2 if name == "coco" else 1)
    np.testing.assert_allclose(example["area"], area, rtol=1e-4, atol=1e-2)


def test_outlines_and_run_lengths_give_the_same_boxes(tmp_path):
    rng = np.random.default_rng(3)
    drawn = written.pictures(rng, NAMES)
    written.write_coco(tmp_path, drawn, NAMES)
    before = [written.open_coco(tmp_path, "train")[i] for i in range(2)]
    content = json.loads((tmp_path / "train.json").read_text())
    kinds = {
        type(a.get("segmentation")) for a in written.with_run_lengths(content, rng)["annotations"]
    }
    assert kinds == {type(None), list, dict}
    (tmp_path / "train.json").write_text(json.dumps(content))
    for index, expected in enumerate(before):
        example = written.open_coco(tmp_path, "train")[index]
        np.testing.assert_array_equal(example["boxes"], expected["boxes"])


@pytest.mark.parametrize("name", written.formats())
@pytest.mark.parametrize("seed", range(4))
def test_the_writers_of_the_campaign_write_what_is_read(tmp_path, name, seed):
    write, read = written.formats()[name]
    write(tmp_path, np.random.default_rng(seed))
    read(tmp_path)
