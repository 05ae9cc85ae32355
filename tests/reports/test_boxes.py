"""Boxes drawn into pictures."""

import numpy as np

from cnn_jax.reports.boxes import MISSED, Mark, Scene, Scenes, draw_boxes, sheet
from cnn_jax.reports.pictures import RIGHT


def box(*corners):
    return np.array(corners, np.float32)


def count(picture, color):
    return int((picture == np.array(color, np.uint8)).all(axis=-1).sum())


def test_a_box_is_drawn_at_its_edges_and_nowhere_else():
    image = np.zeros((400, 600, 3), np.uint8)
    drawn = draw_boxes(image, [Mark(box(100, 50, 200, 150), "", RIGHT)])
    assert drawn.shape == image.shape
    assert (drawn[50, 100:200] == RIGHT).all()
    assert (drawn[149, 100:200] == RIGHT).all()
    assert (drawn[50:150, 199] == RIGHT).all()
    assert not drawn[:50].any() and not drawn[150:].any() and not drawn[60:140, 110:190].any()
    assert not image.any()


def test_small_pictures_are_enlarged_by_a_whole_factor():
    image = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)
    drawn = draw_boxes(image, [])
    factor = drawn.shape[0] // 20
    assert factor > 4
    np.testing.assert_array_equal(drawn[::factor, ::factor], image)


def test_texts_stay_in_the_picture_and_tiny_boxes_are_seen():
    image = np.full((320, 320, 3), 255, np.uint8)
    without = draw_boxes(image, [Mark(box(318, 0, 320, 2), "", MISSED)])
    assert count(without, MISSED) > 0
    drawn = draw_boxes(image, [Mark(box(318, 0, 320, 2), "a long name 0.97", MISSED)])
    # As much of it as there is: its ground is wider than the box by far.
    assert count(drawn[:, :300], MISSED) > 500
    degenerate = draw_boxes(image, [Mark(box(5, 5, 5, 5), "", RIGHT)])
    assert count(degenerate, RIGHT) > 0


def test_scenes_say_what_is_wrong():
    picture = np.zeros((50, 60, 3), np.uint8)
    scenes = [Scene(picture, "1 wrong <b>", "a.png", right=False), Scene(picture, "0 wrong")]
    page = Scenes("Sample", scenes, "note").html()
    assert page.count("<figure") == 2
    assert 'class="wrong"' in page and 'class="right"' in page
    assert "1 wrong &lt;b&gt;" in page and "a.png" in page
    assert sheet(scenes).size[0] > 2 * 320
    assert sheet([]).size[0] > 0
