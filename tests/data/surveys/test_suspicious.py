"""Suspicious boxes, masks, pictures and names of classes."""

import numpy as np
import pytest

from cnn_jax.data.surveys.suspicious import (
    similar_names,
    suspicious_boxes,
    suspicious_mask,
    suspicious_picture,
)


def found(boxes, labels=None, crowd=None, size=(100.0, 200.0)):
    """The numbers of the boxes that are marked, by what is suspicious."""
    count = len(boxes)
    marks = suspicious_boxes(
        np.array(boxes, float).reshape(-1, 4),
        np.array(labels if labels is not None else range(count), int),
        np.array(crowd or [False] * count, bool),
        size,
    )
    return {what: np.flatnonzero(each).tolist() for what, each in marks.items() if each.any()}


@pytest.mark.parametrize(
    ("box", "what"),
    [
        ((10, 10, 12.5, 40), "tiny boxes"),  # 2.5 pixels wide
        ((0, 0, 200, 95), "boxes of nearly the whole image"),
        ((150, 10, 202, 60), "boxes beyond the image"),
        ((-2, 10, 50, 60), "boxes beyond the image"),
        ((10, 10, 110, 19), "very long or tall boxes"),
        ((10, 10, 16, 75), "very long or tall boxes"),
    ],
)
def test_one_box_is_suspicious(box, what):
    assert what in found([(20, 20, 60, 60), box])
    assert found([(20, 20, 60, 60), box])[what] == [1]


def test_usual_boxes_are_not():
    assert found([(0, 0, 199, 94), (10, 10, 109, 21), (150, 10, 200.9, 60), (5, 5, 9, 9)]) == {}
    assert found([]) == {}
    assert found([(10, 10, 13.5, 13.5)], size=(1000.0, 2000.0)) == {
        "tiny boxes": [0]
    }  # by its share


def test_boxes_around_one_object():
    boxes = [(10, 10, 60, 60), (11, 10, 60, 60), (10, 10, 60, 61), (30, 30, 80, 80)]
    assert found(boxes, [0, 0, 1, 0]) == {
        "doubled boxes": [1],
        "boxes of one object with two classes": [2],
    }
    assert found(boxes, [0, 0, 1, 0], [True, False, True, False]) == {}


def test_masks():
    assert suspicious_mask(np.array([60, 40]), 100) == []
    assert suspicious_mask(np.array([100, 0]), 100) == ["masks of a single class"]
    assert suspicious_mask(np.array([20, 20]), 100) == ["masks with more ignored than other pixels"]
    assert suspicious_mask(np.array([0, 0]), 100) == ["masks of ignored pixels alone"]


def test_pictures():
    picture = np.zeros((20, 30, 3), np.uint8)
    assert suspicious_picture(picture) == ["pictures of a single colour"]
    picture[3, 4] = 1
    assert suspicious_picture(picture) == []
    assert suspicious_picture(np.tile(picture, (1, 4, 1))) == ["very long or tall pictures"]


def test_names_that_differ_in_case_and_marks():
    names = ["Stop sign", "car", "stop_sign", "CAR", "cart", "!", "?"]
    assert similar_names(names) == [["Stop sign", "stop_sign"], ["car", "CAR"]]
