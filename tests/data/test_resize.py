"""Resizing and crops against torchvision's frozen results on Pillow images."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.data.resize import (
    center_crop,
    resize,
    resize_shorter_side,
    ten_crop,
    to_canvas,
    to_square,
)
from cnn_jax.errors import UserError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resize.npz")
SHAPES = [name.split("/")[1] for name in GOLDEN.files if name.startswith("image/")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizes_equal_torchvision(shape, interpolation):
    image = GOLDEN[f"image/{shape}"]
    expected = GOLDEN[f"resize/{shape}/{interpolation}"]
    # Pillow's releases may round a filter's weights differently by one unit.
    np.testing.assert_allclose(resize(image, (24, 19), interpolation), expected, atol=1)
    for size in (16, 33):
        expected = GOLDEN[f"shorter/{shape}/{interpolation}/{size}"]
        resized = resize_shorter_side(image, size, interpolation)
        assert resized.shape == expected.shape
        np.testing.assert_allclose(resized, expected, atol=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_equal_torchvision(shape):
    image = GOLDEN[f"image/{shape}"]
    for size in (9, 16, 25, 50):
        np.testing.assert_array_equal(center_crop(image, size), GOLDEN[f"center/{shape}/{size}"])
    np.testing.assert_array_equal(ten_crop(image, 8), GOLDEN[f"ten/{shape}"])


def test_to_square_keeps_the_whole_image_and_its_mean():
    image = GOLDEN["image/37x52"]
    squashed = to_square(image, 12)
    assert squashed.shape == (12, 12, 3)
    np.testing.assert_allclose(squashed.mean((0, 1)), image.mean((0, 1)), atol=2)
    corners = to_square(
        np.kron([[0, 80], [160, 240]], np.ones((20, 9)))[..., None].repeat(3, -1).astype(np.uint8),
        4,
    )
    np.testing.assert_array_equal(corners[[0, 0, 3, 3], [0, 3, 0, 3], 0], [0, 80, 160, 240])


def test_reduction_is_antialiased():
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    reduced = resize(checkerboard[..., None].repeat(3, axis=-1), (16, 16))
    assert np.abs(reduced.astype(int) - 127).max() <= 4


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 24))
def test_shapes_hold_for_any_image(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = resize_shorter_side(image, size)
    assert min(resized.shape[:2]) == size
    assert center_crop(image, size).shape == (size, size, 3)
    if min(height, width) >= size:
        crops = ten_crop(image, size)
        np.testing.assert_array_equal(crops[5], ten_crop(image[:, ::-1], size)[0])
        np.testing.assert_array_equal(crops[:, :, ::-1].sum(), crops.sum())
    else:
        with pytest.raises(UserError, match=f"not {height} x {width}"):
            ten_crop(image, size)


def test_a_resize_to_its_own_size_changes_nothing():
    image = GOLDEN["image/20x20"]
    np.testing.assert_array_equal(resize(image, (20, 20), "bicubic"), image)


@pytest.mark.parametrize("side", [7, 16, 20, 33])
def test_a_smaller_canvas_is_antialiased(side):
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    reduced = to_square(checkerboard[..., None].repeat(3, axis=-1), side)
    assert np.abs(reduced.astype(int) - 127).max() <= 10


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    new=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_a_canvas_is_near_pillow_s_on_smooth_pictures(size, new):
    rows, columns = np.linspace(0, 120, size[0]), np.linspace(0, 120, size[1])
    image = np.add.outer(rows, columns).round().astype(np.uint8)[..., None].repeat(3, -1)
    canvas = to_canvas(image, new)
    assert canvas.shape == (*new, 3)
    # The steeper the picture, the more a filter's width shows at its borders.
    steepness = max(120 / max(side - 1, 1) for side in size if side > 1) if max(size) > 1 else 0
    # So it does between the few pixels of a small canvas.
    steepness += 0.1 * max(120 / side for side in new)
    np.testing.assert_allclose(canvas.astype(int), resize(image, new), atol=2 + steepness)
