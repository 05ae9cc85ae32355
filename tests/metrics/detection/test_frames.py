"""Counts over frames, on boxes whose counts are known; points and lines against plain geometry."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.metrics.detection.frames import count_frame, crossing, inside
from cnn_jax.ops.nms import Detections

ROOM = 4


def objects(*rows):
    """Detections of rows (label, x, y) whose boxes are 10 pixels wide and high around (x, y)."""
    boxes, labels = np.zeros((ROOM, 4), np.float32), np.full(ROOM, -1, np.int32)
    for place, (label, x, y) in enumerate(rows):
        boxes[place], labels[place] = (x - 5, y - 5, x + 5, y + 5), label
    scores = np.linspace(1, 0.5, ROOM, dtype=np.float32)
    return Detections(*map(jnp.asarray, (boxes, scores, labels, labels >= 0)))


def totals(frames, **settings):
    """The counts of all frames: arrays [frames, classes]."""
    count = jax.jit(partial(count_frame, num_classes=2, **settings))
    before, counted = objects(), []
    for frame in frames:
        counts, before = count(before, frame)
        counted.append(counts)
    return jax.tree.map(lambda *rows: np.stack(rows), *counted)


def test_an_object_that_moves_a_little_appears_once():
    frames = [objects((0, 20 + 3 * i, 20), (1, 60, 60)) for i in range(10)]
    counts = totals(frames)
    np.testing.assert_array_equal(counts.present, [[1, 1]] * 10)
    np.testing.assert_array_equal(counts.appeared.sum(0), [1, 1])
    assert not counts.to_left.any() and not counts.to_right.any()


def test_a_jump_another_class_and_a_gap_are_appearances():
    frames = [
        objects((0, 20, 20)),
        objects((0, 40, 20)),  # too far
        objects((1, 40, 20)),  # another class
        objects(),
        objects((1, 40, 20)),  # it was gone
    ]
    np.testing.assert_array_equal(totals(frames).appeared, [[1, 0], [1, 0], [0, 1], [0, 0], [0, 1]])


def test_each_object_is_matched_once():
    frames = [objects((0, 20, 20)), objects((0, 21, 20), (0, 19, 20))]
    np.testing.assert_array_equal(totals(frames).appeared[:, 0], [1, 1])


def test_what_crosses_the_line_counts_in_its_direction():
    """The line goes down at x = 50 from y = 0 to 40: the left of the picture is its right."""
    line = jnp.array([[50.0, 0.0], [50.0, 40.0]])
    frames = [
        objects((0, 32 + 4 * i, 20), (1, 68 - 4 * i, 30), (0, 32 + 4 * i, 60)) for i in range(10)
    ]
    counts = totals(frames, line=line)
    np.testing.assert_array_equal(counts.to_left.sum(0), [1, 0])
    np.testing.assert_array_equal(counts.to_right.sum(0), [0, 1])
    # Centres at 48 and 52: between the frames 4 and 5.
    assert counts.to_left[5, 0] == 1 and counts.to_right[5, 1] == 1


def test_an_object_on_the_line_crosses_once():
    line = jnp.array([[50.0, 0.0], [50.0, 40.0]])
    there = [objects((0, x, 20)) for x in (46, 48, 50, 50, 52, 54)]
    back = [objects((0, x, 20)) for x in (54, 52, 50, 50, 50, 53)]
    counts = totals(there, line=line)
    assert (counts.to_left.sum(), counts.to_right.sum()) == (1, 0)
    counts = totals(back, line=line)  # it touches the line, and goes back
    assert (counts.to_left.sum(), counts.to_right.sum()) == (1, 1)


def test_only_what_is_in_the_region_counts():
    region = jnp.array([[41.0, 0.0], [80.0, 0.0], [80.0, 80.0], [41.0, 80.0]])
    frames = [objects((0, 32 + 4 * i, 20), (1, 20, 60)) for i in range(5)]
    counts = totals(frames, region=region)
    np.testing.assert_array_equal(counts.present[:, 0], [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(counts.appeared.sum(0), [1, 0])


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=6),
    st.integers(-2, 42),
    st.integers(-2, 42),
)
def test_points_are_inside_as_opencv_says(corners, x, y):
    center = np.mean(corners, axis=0)
    # Sorted by angle the sides do not cross.
    angle = [np.arctan2(b - center[1], a - center[0]) for a, b in corners]
    polygon = np.array([corners[i] for i in np.argsort(angle)], np.float32)
    expected = cv2.pointPolygonTest(polygon.reshape(-1, 1, 2), (x + 0.5, y + 0.25), False)
    point = jnp.array([x + 0.5, y + 0.25], jnp.float32)
    if expected:  # not on a side
        assert bool(jax.jit(inside)(point, jnp.asarray(polygon))) == (expected > 0)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ((0, -1), (0, 1), 1),  # downwards, across a line to the right of the picture
        ((0, 1), (0, -1), -1),
        ((0, -1), (9, 1), 1),  # through its end
        ((11, -1), (11, 1), 0),  # beside it
        ((0, -1), (5, -1), 0),
        ((0, 0), (0, 1), 0),  # it was on the line, which is the right side
        ((0, -1), (0, 0), 1),
        ((0, 1), (0, 1), 0),
    ],
)
def test_crossings(start, end, expected):
    line = jnp.array([[-5.0, 0.0], [4.5, 0.0]])
    points = (jnp.array(point, jnp.float32) for point in (start, end))
    assert int(crossing(*points, line)) == expected
