"""Colour operations against torchvision's frozen results and Pillow itself."""

import colorsys
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from cnn_jax.data.augment import color, normalize

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")
PIXELS = GOLDEN["image"]
IMAGE = jnp.array(PIXELS, jnp.float32) / 255
KEY = jax.random.key(0)
ADJUSTMENTS = ("brightness", "contrast", "saturation", "sharpness", "hue")


@pytest.mark.parametrize("name", [n for n in GOLDEN.files if n.startswith("color/")])
def test_adjustments_equal_torchvision_on_float_images(name):
    _, adjustment, factor = name.split("/")
    result = getattr(color, f"adjust_{adjustment}")(IMAGE[:12, :14], float(factor))
    # torchvision's weight of red is 0.2989 for tensors, 0.299 for Pillow images, as here.
    tolerance = 1.1e-4 if adjustment in ("contrast", "saturation") else 2e-6
    np.testing.assert_allclose(result, GOLDEN[name], atol=tolerance)


def test_grey_is_pillow_s_and_grey_images_stay_as_they_are():
    expected = np.asarray(Image.fromarray(PIXELS).convert("L"))
    np.testing.assert_allclose(255 * color.grayscale(IMAGE)[..., 0], expected, atol=0.51)
    exact = PIXELS @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(color.grayscale(IMAGE)[..., 0], exact, atol=1e-6)
    np.testing.assert_allclose(color.adjust_saturation(IMAGE, 0.0)[..., 1], exact, atol=1e-6)
    np.testing.assert_allclose(color.adjust_contrast(IMAGE, 0.0), exact.mean(), atol=1e-6)
    grey = jnp.full((3, 3, 3), 0.7)
    for change in (color.adjust_saturation, color.adjust_contrast):
        for factor in (0.0, 0.5, 2.0):
            np.testing.assert_allclose(change(grey, factor), grey, atol=1e-6)


def _random_levels(seed, shape=(20, 30)):
    """Images whose channels have few or many levels, or one."""
    rng = np.random.default_rng(seed)
    spans = [rng.integers(0, 256, 2) for _ in range(3)]
    spans[seed % 3] = spans[seed % 3][[0, 0]] if seed % 4 == 0 else spans[seed % 3]
    channels = [rng.integers(span.min(), span.max() + 1, shape) for span in spans]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_histogram_operations_equal_pillow(seed):
    pixels = _random_levels(seed, ((20, 30), (7, 9), (64, 33))[seed % 3])
    image, pillow = jnp.array(pixels, jnp.float32) / 255, Image.fromarray(pixels)

    def levels(result):
        return np.asarray(result) * 255

    np.testing.assert_allclose(levels(color.equalize(image)), ImageOps.equalize(pillow), atol=1e-3)
    # Pillow rounds autocontrast down.
    difference = levels(color.autocontrast(image)) - np.asarray(ImageOps.autocontrast(pillow))
    assert difference.min() >= -1e-3
    assert difference.max() < 1 + 1e-3
    for bits in range(1, 9):
        expected = ImageOps.posterize(pillow, bits)
        np.testing.assert_allclose(levels(color.posterize(image, bits)), expected, atol=1e-3)
    for threshold in (0.0, 8.5, 127.0, 128.0, 255.0):
        expected = ImageOps.solarize(pillow, threshold)
        np.testing.assert_allclose(levels(color.solarize(image, threshold)), expected, atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    rgb=st.tuples(*[st.floats(0, 1, width=32)] * 3),
    shift=st.floats(-0.5, 0.5, width=32),
)
def test_hue_equals_colorsys(rgb, shift):
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    expected = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
    result = _jitted_hue(jnp.array(rgb, jnp.float32)[None, None], shift)
    np.testing.assert_allclose(result[0, 0], expected, atol=1e-5)


_jitted_hue = jax.jit(lambda image, shift: color.adjust_hue(image, shift))


@pytest.mark.parametrize("adjustment", ADJUSTMENTS)
def test_results_stay_in_range(adjustment):
    extremes = jnp.array(list(itertools.product([0.0, 1.0], repeat=3)))
    image = jnp.tile(extremes[None], (4, 1, 1))
    for factor in (-0.5, 0.5) if adjustment == "hue" else (0.0, 2.0):
        result = getattr(color, f"adjust_{adjustment}")(image, factor)
        assert result.dtype == jnp.float32
        assert result.min() >= 0
        assert result.max() <= 1


def test_normalize_takes_an_image_or_a_batch():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    expected = (np.asarray(IMAGE) - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(IMAGE, mean, std), expected, rtol=1e-5, atol=1e-6)
    batch = jnp.stack([IMAGE, 1 - IMAGE])[:, None]
    np.testing.assert_allclose(normalize(batch, mean, std)[0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strength", ["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_covers_its_range(strength):
    """With only one strength, the result is that adjustment at a factor within its range."""
    amount = 0.3
    low, high = (-amount, amount) if strength == "hue" else (1 - amount, 1 + amount)
    image = IMAGE[:6, :6] * 0.5 + 0.2
    jitter = jax.jit(jax.vmap(lambda key: color.color_jitter(key, image, **{strength: amount})))
    results = jitter(jax.random.split(KEY, 200))
    grid = jnp.linspace(low, high, 601)
    adjust = getattr(color, f"adjust_{strength}")
    candidates = jax.vmap(lambda factor: adjust(image, factor))(grid)
    errors = jnp.abs(results[:, None] - candidates[None]).max(axis=(2, 3, 4))
    assert errors.min(axis=1).max() < 2e-3
    drawn = np.asarray(grid[errors.argmin(axis=1)])
    assert drawn.min() < low + 0.05 * (high - low)
    assert drawn.max() > high - 0.05 * (high - low)
    assert abs(drawn.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 200)


def test_jitter_applies_its_changes_in_every_order():
    image = IMAGE[:6, :6]
    strengths = {"brightness": 0.9, "contrast": 0.9, "saturation": 0.9}
    key_orders = jax.random.split(KEY, 60)
    seen = set()
    adjust = {name: getattr(color, f"adjust_{name}") for name in strengths}
    jitter = jax.jit(lambda key: color.color_jitter(key, image, **strengths))
    for key in key_orders:
        # The draws of each do not depend on the others.
        factors = {
            name: float(jax.random.uniform(jax.random.fold_in(key, i), minval=0.1, maxval=1.9))
            for i, name in enumerate(strengths)
        }
        result = jitter(key)
        fitting = []
        for order in itertools.permutations(strengths):
            expected = image
            for name in order:
                expected = adjust[name](expected, factors[name])
            if np.abs(np.asarray(expected - result)).max() < 1e-5:
                fitting.append(order)
        assert fitting
        if len(fitting) == 1:
            seen.add(fitting[0])
    assert len(seen) == 6


def test_no_jitter_changes_nothing():
    np.testing.assert_array_equal(color.color_jitter(KEY, IMAGE), IMAGE)


def test_principal_colours_are_orthonormal_and_drawn_at_their_scales():
    np.testing.assert_allclose(color.PCA_VECTORS.T @ color.PCA_VECTORS, np.eye(3), atol=5e-4)
    grey = jnp.full((2, 2, 3), 0.5)
    results = jax.vmap(lambda key: color.pca_color(key, grey))(jax.random.split(KEY, 4000))
    shifts = np.asarray(results - 0.5)
    assert (shifts == shifts[:, :1, :1]).all()
    covariance = np.cov(shifts[:, 0, 0].T)
    scales = np.diag((0.1 * color.PCA_SCALES) ** 2)
    expected = color.PCA_VECTORS @ scales @ color.PCA_VECTORS.T
    np.testing.assert_allclose(covariance, expected, rtol=0.1, atol=1e-6)
