"""Boxes against torchvision's frozen results, plain arithmetic and their own inverses."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnn_jax.ops import boxes as ops

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "detection_ops.npz")
BOXES, OTHERS = jnp.asarray(GOLDEN["boxes/boxes"]), jnp.asarray(GOLDEN["boxes/others"])
COUNT = 5

coordinates = st.floats(-50, 50, width=32) | st.integers(-50, 50).map(float)
any_boxes = arrays(np.float32, (COUNT, 4), elements=coordinates)


def proper(boxes):
    """The same corners with the lower ones first, at least half a pixel apart."""
    lower = np.minimum(boxes[:, :2], boxes[:, 2:])
    upper = np.maximum(boxes[:, :2], boxes[:, 2:])
    return np.concatenate([lower, np.maximum(upper, lower + 0.5)], axis=1)


def iou_by_loop(box, other, offset):
    width = min(box[2], other[2]) - max(box[0], other[0]) + offset
    height = min(box[3], other[3]) - max(box[1], other[1]) + offset
    shared = max(width, 0) * max(height, 0)
    areas = [max(b[2] - b[0] + offset, 0) * max(b[3] - b[1] + offset, 0) for b in (box, other)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def test_iou_equals_torchvision():
    np.testing.assert_allclose(ops.iou(BOXES, OTHERS), GOLDEN["boxes/iou"], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(any_boxes, any_boxes, st.sampled_from([0.0, 1.0]))
def test_iou_equals_loops(boxes, others, offset):
    boxes = proper(boxes)
    expected = [[iou_by_loop(b, o, offset) for o in others.astype(float)] for b in boxes]
    result = jax.jit(ops.iou, static_argnums=2)(boxes, others, offset)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.all(result >= 0) and np.all(result <= 1 + 1e-6)


def test_a_box_of_one_pixel_has_area_only_where_pixels_are_counted():
    pixel = jnp.array([[3.0, 4.0, 3.0, 4.0]])
    assert ops.area(pixel)[0] == 0 and ops.area(pixel, 1.0)[0] == 1
    assert ops.iou(pixel, pixel)[0, 0] == 0 and ops.iou(pixel, pixel, 1.0)[0, 0] == 1


def test_the_share_of_a_box_inside_another():
    boxes = jnp.array([[0.0, 0, 4, 4], [2, 2, 2, 2]])
    others = jnp.array([[2.0, 0, 100, 100], [-1, -1, 5, 5]])
    np.testing.assert_allclose(ops.intersection_over_area(boxes, others), [[0.5, 1], [0, 0]])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_encoding_and_decoding_equal_torchvision(weights):
    name = "/".join(map(str, weights))
    encoded = ops.encode(BOXES, OTHERS, weights)
    np.testing.assert_allclose(encoded, GOLDEN[f"boxes/encode/{name}"], rtol=1e-5, atol=1e-5)
    decoded = ops.decode(jnp.asarray(GOLDEN[f"boxes/deltas/{name}"]), OTHERS, weights)
    np.testing.assert_allclose(decoded, GOLDEN[f"boxes/decode/{name}"], rtol=1e-4, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(any_boxes, any_boxes, st.sampled_from([0.0, 1.0]))
def test_decoding_undoes_encoding(boxes, references, offset):
    boxes, references = proper(boxes), proper(references)
    there = jax.jit(partial(ops.encode, weights=(10.0, 10.0, 5.0, 5.0), offset=offset))
    # Half a pixel to a hundred is a larger step than decoding takes by default.
    back = jax.jit(
        partial(ops.decode, weights=(10.0, 10.0, 5.0, 5.0), offset=offset, max_log_scale=10.0)
    )
    deltas = there(boxes, references)
    np.testing.assert_allclose(back(deltas, references), boxes, atol=2e-3)


def test_encoding_is_finite_for_padding():
    empty = jnp.zeros((2, 4))
    values, pullback = jax.vjp(lambda b: ops.encode(b, empty), empty)
    assert np.all(values == 0)
    assert np.all(np.isfinite(pullback(jnp.ones((2, 4)))[0]))


def test_gradients_of_overlaps_are_finite_everywhere():
    boxes = jnp.array([[0.0, 0, 0, 0], [0, 0, 4, 4], [5, 5, 1, 1], [0, 0, 4, 4]])
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(ops.iou(b, boxes))))(boxes)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[0] == 0)


def test_clipping():
    np.testing.assert_array_equal(ops.clip(BOXES, (40, 60)), GOLDEN["boxes/clip"])
    outside = jnp.array([-3.0, 10, 80, 90])
    np.testing.assert_array_equal(ops.clip(outside, (40, 60)), [0, 10, 60, 40])
    np.testing.assert_array_equal(ops.clip(outside, (40, 60), offset=1.0), [0, 10, 59, 39])
    np.testing.assert_array_equal(ops.clip(outside, jnp.array([40, 60])), [0, 10, 60, 40])


def test_sizes():
    boxes = jnp.array([[0.0, 0, 2, 9], [0, 0, 0, 9], [4, 4, 1, 9], [0, 0, 3, 3]])
    np.testing.assert_array_equal(ops.is_large(boxes), [True, False, False, True])
    np.testing.assert_array_equal(ops.is_large(boxes, 3.0), [False, False, False, True])
    np.testing.assert_array_equal(ops.is_large(boxes, offset=1.0), [True, True, False, True])


def test_centers_and_corners():
    corners = jnp.array([[1.0, 2, 5, 10]])
    np.testing.assert_array_equal(ops.to_center(corners), [[3, 6, 4, 8]])
    np.testing.assert_array_equal(ops.from_center(ops.to_center(corners)), corners)


def test_rounding_halves_away_from_zero():
    x = jnp.array([-2.5, -1.5, -0.5, -0.4, 0.49999997, 0.5, 1.5, 2.5, 8388609.0])
    np.testing.assert_array_equal(ops.round_half_away(x), [-3, -2, -1, 0, 0, 1, 2, 3, 8388609])


def test_map_boxes_gives_the_same_in_parts():
    boxes = jnp.arange(4.0 * 150).reshape(150, 4)
    np.testing.assert_array_equal(ops.map_boxes(lambda b: b[:2] * 2, boxes), boxes[:, :2] * 2)
