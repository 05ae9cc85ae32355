"""Crops, flips, affine maps and erasing against torchvision's frozen results and distributions."""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.augment import geometry
from cnn_jax.errors import UserError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")
PIXELS = GOLDEN["image"]
IMAGE = jnp.array(PIXELS, jnp.float32) / 255
LEVEL = 1 / 255
KEY = jax.random.key(0)


_affine = jax.jit(geometry.affine, static_argnums=2)
_matrix = jax.jit(geometry.inverse_affine_matrix)
_crop_and_resize = jax.jit(geometry.crop_and_resize, static_argnums=2)
_sample_crop = jax.jit(geometry.sample_crop, static_argnums=(2, 3))


def _golden(prefix):
    return [name for name in GOLDEN.files if name.startswith(prefix)]


def _many(function, count=4000):
    return np.asarray(jax.jit(jax.vmap(function))(jax.random.split(KEY, count)))


@pytest.mark.parametrize("name", _golden("affine/"))
def test_affine_equals_pillow(name):
    *numbers, interpolation = name.removeprefix("affine/").split("/")
    angle, move_x, move_y, scale, shear_x, shear_y = map(float, numbers)
    matrix = _matrix(
        jnp.deg2rad(angle),
        jnp.array([move_x, move_y]),
        jnp.array(scale),
        jnp.deg2rad(jnp.array([shear_x, shear_y])),
        jnp.array([PIXELS.shape[1] / 2, PIXELS.shape[0] / 2]),
    )
    result = np.asarray(_affine(IMAGE, matrix, interpolation))
    error = np.abs(result - GOLDEN[name] / 255).max(axis=-1)
    # Pillow rounds down to whole levels, and its fixed-point arithmetic decides ties at the
    # borders between pixels its own way.
    assert (error <= LEVEL + 1e-5).mean() >= 0.99
    if interpolation == "bilinear":
        assert error.max() <= LEVEL + 1e-5


@pytest.mark.parametrize("name", _golden("box/"))
def test_crop_and_resize_equals_pillow(name):
    *box, size = map(int, name.removeprefix("box/").split("/"))
    result = _crop_and_resize(IMAGE, jnp.array(box), (size, size))
    # Pillow rounds twice, after either direction.
    np.testing.assert_allclose(result, GOLDEN[name] / 255, atol=1.01 * LEVEL)


def test_crop_and_resize_of_the_whole_is_the_image():
    whole = jnp.array([0, 0, *PIXELS.shape[:2]])
    result = _crop_and_resize(IMAGE, whole, PIXELS.shape[:2])
    np.testing.assert_allclose(result, IMAGE, atol=1e-6)


@pytest.mark.parametrize("extent", [0.01, 0.7, 1.3])
def test_boxes_smaller_than_a_pixel_stay_finite(extent):
    for corner in (0.0, 3.49, 3.5, 11.995):
        box = jnp.array([corner, corner, extent, extent])
        result = _crop_and_resize(IMAGE, box, (4, 4))
        assert np.isfinite(result).all()
        nearby = IMAGE[
            int(corner) : int(corner + extent) + 1, int(corner) : int(corner + extent) + 1
        ]
        assert result.min() >= nearby.min() - 1e-6
        assert result.max() <= nearby.max() + 1e-6


@pytest.mark.parametrize("shape", [(32, 32), (60, 100)])
def test_random_boxes_are_distributed_as_torchvisions(shape):
    sample = partial(geometry.sample_crop, image_size=jnp.array(shape))
    boxes = _many(lambda key: sample(key), 20_000)
    expected = GOLDEN[f"crop/{shape[0]}/{shape[1]}"]
    quantiles = np.quantile(boxes, GOLDEN["quantiles"], axis=0)
    # Two samples of 20,000: half a percent of the range, and one pixel of rounding.
    tolerance = 1 + 0.015 * np.array([shape[0], shape[1], shape[0], shape[1]])
    assert (np.abs(quantiles - expected) <= tolerance).all()
    top, left, height, width = boxes.T
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= shape[0]
    assert (left + width).max() <= shape[1]


@pytest.mark.parametrize("name", _golden("fallback/"))
def test_a_box_that_never_fits_becomes_the_central_one(name):
    shape = tuple(map(int, name.split("/")[1:]))
    box = _sample_crop(KEY, jnp.array(shape), (4.0, 4.0))
    np.testing.assert_array_equal(box, GOLDEN[name])


def test_a_squashed_canvas_is_cropped_like_its_original():
    """A smooth image squashed to a square gives the crops that the original would have given."""
    rows, columns = np.mgrid[0:60, 0:160] + 0.5
    smooth = np.stack([np.sin(rows / 20), np.cos(columns / 30), (rows + columns) / 220], -1)
    original = (127.5 + 127.4 * smooth * [1, 1, 0.5]).astype(np.uint8)
    canvas = np.array(Image.fromarray(original).resize((64, 64), Image.Resampling.BILINEAR))
    crop = jax.jit(partial(geometry.random_resized_crop, size=24, scale=(0.2, 1.0)))
    squashed, size = jnp.array(canvas, jnp.float32) / 255, jnp.array(original.shape[:2])
    for seed in range(8):
        key = jax.random.key(seed)
        top, left, height, width = np.asarray(_sample_crop(key, size, (0.2, 1.0)))
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(original).crop(box).resize((24, 24), Image.Resampling.BILINEAR)
        result = crop(key, squashed, original_size=size)
        # The canvas has blurred the original; a wrong box or aspect ratio is far off.
        assert np.abs(np.asarray(result) - np.asarray(expected) / 255).mean() < 2 * LEVEL
    wrong = crop(key, squashed, original_size=jnp.array([160, 60]))
    assert np.abs(np.asarray(wrong) - np.asarray(expected) / 255).mean() > 5 * LEVEL


def test_flips_half_of_the_images():
    flipped = _many(lambda key: geometry.random_flip(key, IMAGE[:2, :2]))
    mirrored = (flipped == np.asarray(IMAGE[:2, :2])[None, :, ::-1]).all(axis=(1, 2, 3))
    equal = (flipped == np.asarray(IMAGE[:2, :2])).all(axis=(1, 2, 3))
    assert (mirrored ^ equal).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / math.sqrt(len(mirrored))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_pad_and_crop_gives_every_window_equally_often(mode):
    image = IMAGE[:6, :6, :1]
    crops = _many(lambda key: geometry.pad_and_crop(key, image, 2, mode), 5000)
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), mode=mode)
    windows = [padded[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    counts = np.array([(crops == window).all(axis=(1, 2, 3)).sum() for window in windows])
    assert counts.sum() == 5000
    assert ((counts - 200) ** 2 / 200).sum() < 52.6  # chi-squared, 24 degrees, 1 in 1500


def test_random_crop_takes_windows_of_the_image():
    crops = _many(lambda key: geometry.random_crop(key, IMAGE[:4, :5], 3), 500)
    windows = [np.asarray(IMAGE[i : i + 3, j : j + 3]) for i in range(2) for j in range(3)]
    counts = [(crops == window).all(axis=(1, 2, 3)).sum() for window in windows]
    assert sum(counts) == 500
    assert min(counts) > 40
    with pytest.raises(UserError, match="not 24 x 30"):
        geometry.random_crop(KEY, IMAGE, 25)


@pytest.mark.parametrize("shape", [(32, 32), (60, 100)])
def test_erased_rectangles_are_distributed_as_torchvisions(shape):
    image = jnp.ones((*shape, 1))
    erase = partial(geometry.random_erasing, image=image, probability=1.0)

    def corner_and_sides(key):
        erased = erase(key)[..., 0] == 0
        rows, columns = erased.any(axis=1), erased.any(axis=0)
        return jnp.stack([jnp.argmax(rows), jnp.argmax(columns), rows.sum(), columns.sum()])

    boxes = _many(corner_and_sides, 4000)
    assert boxes[:, 2:].min() > 0
    expected = GOLDEN[f"erase/{shape[0]}/{shape[1]}"]
    quantiles = np.quantile(boxes, GOLDEN["quantiles"], axis=0)
    tolerance = 1 + 0.03 * np.array([shape[0], shape[1], shape[0], shape[1]])
    assert (np.abs(quantiles - expected) <= tolerance).all()


def test_erasing_paints_a_rectangle_with_the_colour_at_its_probability():
    colour = (0.1, 0.2, 0.3)
    erase = partial(geometry.random_erasing, image=IMAGE, probability=0.25, fill=colour)
    results = _many(lambda key: erase(key), 1000)
    changed = (results != np.asarray(IMAGE)).any(axis=-1)
    assert abs(changed.any(axis=(1, 2)).mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 1000)
    for image, mask in zip(results[:100], changed[:100], strict=True):
        np.testing.assert_allclose(image[mask], np.broadcast_to(colour, (mask.sum(), 3)))
        assert mask.sum() == mask.any(axis=1).sum() * mask.any(axis=0).sum()


def test_random_affine_at_rest_changes_nothing():
    np.testing.assert_array_equal(geometry.random_affine(KEY, IMAGE), IMAGE)


def test_random_affine_stays_within_its_ranges():
    """The positions of two marks reveal the drawn angle, scale and displacement."""
    rows, columns = np.mgrid[0:64, 0:64]
    marks = [
        np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18) for y, x in ((31.5, 31.5), (31.5, 45))
    ]
    image = jnp.array(np.stack(marks, axis=-1), jnp.float32)
    results = _many(lambda key: geometry.random_affine(key, image, 20.0, 0.1, (0.8, 1.2)), 300)
    weights = results / results.sum(axis=(1, 2), keepdims=True)
    y = (weights * rows[None, :, :, None]).sum(axis=(1, 2))
    x = (weights * columns[None, :, :, None]).sum(axis=(1, 2))
    arm_x, arm_y = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    angles = np.degrees(np.arctan2(arm_y, arm_x))
    scales = np.hypot(arm_x, arm_y) / 13.5
    for values, low, high in (
        (angles, -20, 20),
        (scales, 0.8, 1.2),
        (x[:, 0] - 31.5, -6.4, 6.4),
        (y[:, 0] - 31.5, -6.4, 6.4),
    ):
        slack = 0.02 * (high - low)
        assert low - slack <= values.min() <= low + 3 * slack
        assert high - 3 * slack <= values.max() <= high + slack
