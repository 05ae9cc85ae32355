"""R-CNN's warp against the same steps done with slices and OpenCV's resize."""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.warping import warp_crops

HEIGHT, WIDTH = 23, 31
IMAGE = np.random.default_rng(0).random((HEIGHT, WIDTH, 3)).astype(np.float32)


def round_half_away(x):
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def warp_by_slices(image, box, size, context, fill):
    crop = np.full((size, size, 3), fill, np.float32)
    spans = []
    for start, stop, length in ((box[1], box[3], HEIGHT), (box[0], box[2], WIDTH)):
        center, half = (start + stop) / 2, (stop - start) / 2 * size / (size - 2 * context)
        start, stop = round_half_away(center - half), round_half_away(center + half)
        scale = size / max(stop - start, 1)
        low, high = min(max(start, 0), length), min(max(stop, 0), length)
        before = round_half_away((low - start) * scale)
        covered = min(round_half_away((high - low) * scale), size - before)
        spans.append((low, high, before, covered))
    (top, bottom, above, rows), (left, right, beside, columns) = spans
    if rows > 0 and columns > 0 and bottom > top and right > left:
        part = image[top:bottom, left:right]
        crop[above : above + rows, beside : beside + columns] = cv2.resize(
            part, (columns, rows), interpolation=cv2.INTER_LINEAR
        )
    return crop


@pytest.mark.parametrize(("size", "context"), [(16, 0), (16, 2), (19, 4), (64, 16)])
def test_equals_slices_and_resizes(size, context):
    rng = np.random.default_rng(size)
    corners = rng.integers(-8, 36, (70, 2, 2)) / 1.0
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    boxes[:3] = [[0, 0, WIDTH, HEIGHT], [100, 100, 120, 130], [4, 4, 4, 4]]
    fill = (0.1, 0.2, 0.3)
    crops = jax.jit(warp_crops, static_argnums=(2, 3, 4))(IMAGE, boxes, size, context, fill)
    assert crops.shape == (70, size, size, 3)
    for crop, box in zip(crops, boxes, strict=True):
        expected = warp_by_slices(IMAGE, box, size, context, fill)
        np.testing.assert_allclose(crop, expected, atol=2e-4)


def test_the_box_lies_inside_a_frame_of_context():
    image = np.zeros((40, 40, 3), np.float32)
    image[10:30, 12:28] = 1
    (crop,) = warp_crops(jnp.asarray(image), jnp.array([[12.0, 10, 28, 30]]), 40, 10)
    inside = np.asarray(crop[..., 0]) > 0.5
    assert inside[10:30, 10:30].all() and inside.sum() == 400


def test_outside_is_the_fill_and_has_no_gradient():
    boxes = jnp.array([[-50.0, -50, -40, -40]])
    image = jnp.asarray(IMAGE)
    assert np.all(warp_crops(image, boxes, 8, 2, fill=0.25) == 0.25)
    assert not jax.grad(lambda x: warp_crops(x, boxes, 8, 2).sum())(image).any()
    inside = jnp.array([[5.0, 5, 15, 15], [-5, -5, 10, 10]])
    gradient = jax.grad(lambda x: warp_crops(x, inside, 8, 2).sum())(image)
    assert np.all(np.isfinite(gradient)) and gradient.sum() > 0


def test_images_side_by_side():
    images = jnp.stack([jnp.asarray(IMAGE), 1 - jnp.asarray(IMAGE)])
    boxes = jnp.array([[[0.0, 0, 9, 9]], [[5.0, 5, 40, 20]]])
    crops = jax.vmap(lambda image, box: warp_crops(image, box, 12, 3))(images, boxes)
    np.testing.assert_allclose(crops[1], warp_crops(images[1], boxes[1], 12, 3), atol=1e-6)
