"""Notices about training boxes, and the clustering of their shapes."""

import numpy as np
import pytest

from cnn_jax.data.formats.boxes import BoxSource
from cnn_jax.data.surveys import boxes as box_survey
from cnn_jax.errors import UserError


class Boxes:
    """Images of 100 x 200 pixels; half of all objects are crowds or difficult."""

    class_names = ("a",)
    notices = ("1 box without area, dropped (in x.xml)",)

    def __init__(self, counts):
        self.counts = counts

    def __len__(self):
        return len(self.counts)

    def __getitem__(self, index):
        count = self.counts[index]
        boxes = np.tile(np.array([[20, 10, 40, 30]], np.float32), (count, 1))
        return {
            "image": np.zeros((100, 200, 3), np.uint8),
            "boxes": boxes,
            "labels": np.zeros(count, np.int32),
            "difficult": np.arange(count) % 4 == 1,
            "crowd": np.arange(count) % 4 == 3,
            "area": np.ones(count, np.float32),
        }

    def describe(self, index):
        return f"boxes[{index}]"


def test_a_survey_is_of_what_is_trained_on_in_shares_of_the_sides():
    surveyed = box_survey.survey(Boxes([3, 0, 8]))
    assert [len(boxes) for boxes in surveyed.boxes] == [2, 0, 4]
    np.testing.assert_allclose(surveyed.boxes[0][0], [0.1, 0.1, 0.2, 0.3], rtol=1e-6)
    assert surveyed.counts == [3, 0, 8]
    assert surveyed.sample() == ""
    few = box_survey.survey(Boxes([1] * 50), most=7)
    assert len(few.boxes) == 7
    assert few.sample() == " (in 7 of 50 images)"


def test_notices_name_repairs_empty_images_and_what_is_left_out():
    source = Boxes([3, 0, 8])
    lines = box_survey.notices(source, box_survey.survey(source), 5)
    assert lines[0] == source.notices[0]
    assert lines[1] == "1 of 3 training images have no objects"
    assert lines[2].startswith("3 of 11 objects are left out, in 1 images")
    assert box_survey.notices(BoxSource(("a",), []), box_survey.BoxSurvey([], 0, []), 5) == []


def test_boxes_are_lost_to_cells_that_hold_another():
    boxes = [
        np.array([[0, 0, 0.2, 0.2], [0.02, 0, 0.2, 0.2], [0.9, 0.9, 1, 1.0]]),
        np.zeros((0, 4)),
        np.array([[0.4, 0.4, 0.6, 0.6]]),
    ]
    surveyed = box_survey.BoxSurvey(boxes, 3, [3, 0, 1])
    assert box_survey.lost_to_collisions(surveyed, 7) == (1, 4)
    assert box_survey.lost_to_collisions(surveyed, 1) == (2, 4)
    assert box_survey.lost_to_collisions(surveyed, 100) == (0, 4)


def test_shapes_are_found_where_boxes_gather():
    rng = np.random.default_rng(0)
    true = np.array([[0.05, 0.1], [0.3, 0.1], [0.4, 0.6]])
    sides = true[rng.integers(0, 3, 300)] * rng.uniform(0.95, 1.05, (300, 2))
    corner = rng.uniform(0, 0.3, (300, 2))
    boxes = np.concatenate([corner, corner + sides], axis=1)
    surveyed = box_survey.BoxSurvey(np.split(boxes, 100), 100, [3] * 100)
    best = max(
        (box_survey.prior_shapes(surveyed, 3, seed) for seed in range(5)),
        key=lambda shapes: box_survey.mean_overlap(surveyed, shapes),
    )
    np.testing.assert_allclose(best, true, rtol=0.02)
    assert box_survey.mean_overlap(surveyed, best) > 0.9
    assert box_survey.prior_shapes(surveyed, 3, 1) == box_survey.prior_shapes(surveyed, 3, 1)
    # Fewer boxes than shapes asked for: some are alike.
    one = box_survey.BoxSurvey([boxes[:1]], 1, [1])
    assert len(box_survey.prior_shapes(one, 4)) == 4
    with pytest.raises(UserError, match="no boxes to take shapes from"):
        box_survey.prior_shapes(box_survey.BoxSurvey([boxes[:0]], 1, [0]), 2)
