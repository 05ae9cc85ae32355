"""Upsampling against torch's frozen results, jax.image.resize, and worked examples."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from scipy import signal

from cnn_jax.errors import UserError
from cnn_jax.ops import upsampling
from cnn_jax.ops.pooling import max_pool, max_pool_with_indices, max_unpool

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "upsampling.npz")
X = jnp.asarray(GOLDEN["x"])
SMALL = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]


def plane(x):
    """The only map of a batch, as rows and columns."""
    return np.asarray(x)[0, :, :, 0]


def test_worked_example_of_nearest():
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(plane(upsampling.nearest(SMALL)), expected)


def test_worked_example_of_inserted_zeros():
    expected = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(plane(upsampling.insert_zeros(SMALL)), expected)


def test_worked_example_of_bilinear():
    expected = [
        [1.0, 1.25, 1.75, 2.0],
        [1.5, 1.75, 2.25, 2.5],
        [2.5, 2.75, 3.25, 3.5],
        [3.0, 3.25, 3.75, 4.0],
    ]
    np.testing.assert_allclose(plane(upsampling.bilinear(SMALL)), expected, rtol=1e-6)
    raw = [
        [0.5625, 0.9375, 1.3125, 1.125],
        [1.125, 1.75, 2.25, 1.875],
        [1.875, 2.75, 3.25, 2.625],
        [1.6875, 2.4375, 2.8125, 2.25],
    ]
    np.testing.assert_allclose(plane(upsampling.bilinear(SMALL, normalize=False)), raw, rtol=1e-6)


def test_worked_examples_of_gaussian_and_cubic():
    """As the docstrings show them."""
    for double in (upsampling.gaussian, upsampling.cubic):
        text = double.__doc__.split("::")[1]
        expected = [row.split("->")[-1].split()[-4:] for row in text.strip().splitlines()[:4]]
        np.testing.assert_allclose(plane(double(SMALL)), np.float64(expected), atol=0.005)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_gaussian_is_a_convolution_of_inserted_zeros(factor):
    """The lecture's form: convolve with the filter, then divide by what ones give."""
    x = np.random.default_rng(0).normal(size=(5, 7))
    taps = upsampling.gaussian_filter(factor)
    assert taps.shape == (3 * factor, 3 * factor)
    np.testing.assert_allclose(taps.sum(), 1)

    def blurred(x):
        zeros = np.zeros((factor * x.shape[0], factor * x.shape[1]))
        # A cell's centre is that of its block; of an even block it lies between two pixels.
        zeros[(factor - 1) // 2 :: factor, (factor - 1) // 2 :: factor] = x
        whole = signal.convolve2d(zeros, taps)
        first = (3 * factor - 1) // 2
        return whole[first : first + zeros.shape[0], first : first + zeros.shape[1]]

    expected = blurred(x) / blurred(np.ones_like(x))
    y = upsampling.gaussian(jnp.asarray(x, jnp.float32)[None, :, :, None], factor)
    np.testing.assert_allclose(plane(y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("double", [upsampling.gaussian, upsampling.cubic])
def test_filters_keep_a_constant_map_up_to_its_border(double):
    np.testing.assert_allclose(double(jnp.full((1, 3, 4, 2), 0.7), 3), 0.7, rtol=1e-6)


def test_cubic_is_keys_kernel_within_the_map():
    """Values between four cells: a = -1/2 gives -9/128, 111/128, 29/128 and -3/128."""
    x = np.random.default_rng(1).normal(size=8).astype(np.float32)
    y = plane(upsampling.cubic(jnp.asarray(np.tile(x, (8, 1)))[None, :, :, None]))[6]
    taps = np.array([-9, 111, 29, -3]) / 128
    expected = [np.dot(taps, x[i - 1 : i + 3]) for i in range(1, 6)]
    np.testing.assert_allclose(y[3:13:2], expected, rtol=1e-4, atol=1e-6)


def test_worked_example_of_transposed_convolution():
    kernel = jnp.array([[1.0, 10.0], [100.0, 1000.0]])[:, :, None, None]
    expected = np.kron([[1, 2], [3, 4]], [[1, 10], [100, 1000]])
    np.testing.assert_array_equal(plane(upsampling.transposed_conv(SMALL, kernel)), expected)


def test_worked_example_of_unpooling():
    indices = jnp.array([[4, 2], [12, 11]], jnp.int32)[None, :, :, None]
    expected = [[0, 0, 2, 0], [1, 0, 0, 0], [0, 0, 0, 4], [3, 0, 0, 0]]
    np.testing.assert_array_equal(plane(max_unpool(SMALL, indices, (4, 4))), expected)
    values, indices = max_pool_with_indices(
        jnp.array([[1.0, 2.0], [4.0, 3.0]])[None, :, :, None], (2, 2), (2, 2)
    )
    assert (values.item(), indices.item()) == (4, 2)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_nearest_and_bilinear_equal_torch(factor):
    np.testing.assert_array_equal(upsampling.nearest(X, factor), GOLDEN[f"nearest/{factor}"])
    np.testing.assert_allclose(
        upsampling.bilinear(X, factor), GOLDEN[f"bilinear/{factor}"], rtol=1e-5, atol=1e-6
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 8))
def test_bilinear_is_the_raw_form_divided_by_what_that_makes_of_ones(height, width, factor):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, height, width, 2)), jnp.float32)
    raw, gain = (upsampling.bilinear(a, factor, normalize=False) for a in (x, jnp.ones_like(x)))
    expected = raw / gain
    np.testing.assert_allclose(upsampling.bilinear(x, factor), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_raw_bilinear_is_zeros_inserted_filtered_and_multiplied(factor):
    """The definition, one channel at a time with NumPy; and what it is inside of the border."""
    filter_ = upsampling.bilinear_filter(factor)
    assert filter_.sum() == pytest.approx(1)
    size = len(filter_)
    zeros = np.asarray(upsampling.insert_zeros(X, factor), np.float64)
    before = size - 1 - upsampling.bilinear_padding(factor)
    around = ((0, 0), *[(before, size - 1 - before)] * 2, (0, 0))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(zeros, around), (size, size), (1, 2))
    expected = np.einsum("nhwcij,ij->nhwc", windows, filter_) * factor**2
    raw = np.asarray(upsampling.bilinear(X, factor, normalize=False))
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-6)
    inside = (slice(None), slice(factor, -factor), slice(factor, -factor))
    normalized = np.asarray(upsampling.bilinear(X, factor))
    np.testing.assert_allclose(raw[inside], normalized[inside], rtol=1e-5, atol=1e-6)
    assert np.abs(raw - normalized).max() > 0.1


def test_the_filter_of_factor_two():
    taps = np.array([1, 3, 3, 1])
    np.testing.assert_allclose(upsampling.bilinear_filter(2), np.outer(taps, taps) / 64)
    kernel = upsampling.bilinear_kernel(3)
    assert kernel[..., 0, 0].sum() == pytest.approx(4)
    assert kernel[..., 0, 1].sum() == 0


@pytest.mark.parametrize(
    "name", [k for k in GOLDEN if k.startswith("transposed/") and k[-1] in "01"]
)
def test_transposed_convolution_equals_torch(name):
    _, stride, padding = map(int, name.split("/")[1:])
    kernel = jnp.asarray(GOLDEN[f"{name}/kernel"])
    y = upsampling.transposed_conv(X, kernel, stride, padding)
    np.testing.assert_allclose(y, GOLDEN[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(4, 2, 1), (2, 2, 0), (3, 2, 1), (2, 3, 0)]
)
def test_a_transposed_convolution_has_the_derivatives_of_its_definition(size, stride, padding):
    """A convolution over the map with zeros between its cells, the kernel turned by 180 degrees."""

    def defined(x, kernel):
        margin = (size - 1 - padding,) * 2
        return lax.conv_general_dilated(
            x,
            lax.rev(kernel, (0, 1)),
            (1, 1),
            [margin, margin],
            lhs_dilation=(stride, stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def function(x, kernel):
        return upsampling.transposed_conv(x, kernel, stride, padding)

    keys = jax.random.split(jax.random.key(0), 5)
    shapes = (2, 5, 4, 3), (size, size, 3, 6)
    point, tangent = (
        [jax.random.normal(k, shape) for k, shape in zip(pair, shapes, strict=True)]
        for pair in (keys[:2], keys[2:4])
    )
    expected, expected_pushed = jax.jvp(defined, point, tangent)
    y, pushed = jax.jvp(function, point, tangent)
    cotangent = jax.random.normal(keys[4], y.shape)
    pulled = jax.vjp(function, *point)[1](cotangent)
    expected_pulled = jax.vjp(defined, *point)[1](cotangent)
    for ours, theirs in zip(
        (y, pushed, *pulled), (expected, expected_pushed, *expected_pulled), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_transposed_convolution_starts_as_raw_bilinear(factor):
    size = len(upsampling.bilinear_filter(factor))
    kernel = upsampling.bilinear_init(None, (size, size, 3, 3))
    y = upsampling.transposed_conv(X, kernel, factor, upsampling.bilinear_padding(factor))
    raw = upsampling.bilinear(X, factor, normalize=False)
    np.testing.assert_allclose(y, raw, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_indices_and_unpooling_equal_torch(ceil_mode):
    """Odd sizes with ties: the first largest wins, and the recorded size comes back."""
    x = jnp.asarray(GOLDEN["ties"])
    values, indices = max_pool_with_indices(x, (2, 2), (2, 2), ceil_mode=ceil_mode)
    np.testing.assert_array_equal(values, max_pool(x, (2, 2), (2, 2), ceil_mode=ceil_mode))
    np.testing.assert_array_equal(indices, GOLDEN[f"indices/{ceil_mode}"])
    unpooled = max_unpool(values + 1, indices, (7, 9))
    np.testing.assert_array_equal(unpooled, GOLDEN[f"unpooled/{ceil_mode}"])


def test_indices_of_overlapping_padded_windows_equal_torch():
    x = jnp.asarray(GOLDEN["ties"])
    _, indices = max_pool_with_indices(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(indices, GOLDEN["indices/padded"])


def test_unpooling_restores_45_rows_from_23():
    x = jax.random.normal(jax.random.key(0), (1, 45, 4, 2))
    values, indices = max_pool_with_indices(x, (2, 2), (2, 2), ceil_mode=True)
    assert values.shape == (1, 23, 2, 2)
    unpooled = np.asarray(max_unpool(values, indices, (45, 4)))
    assert unpooled.shape == x.shape
    kept = unpooled != 0
    assert kept.sum() == values.size
    np.testing.assert_array_equal(unpooled[kept], np.asarray(x)[kept])


@pytest.mark.parametrize("window", [(3, 2), (2, 2), (5, 5)])
def test_unpooling_refuses_another_window_than_its_pooling_s(window):
    x = jax.random.normal(jax.random.key(0), (1, 9, 9, 2))
    values, indices = max_pool_with_indices(x, (3, 3), (3, 3))
    expected = r"^window \d \d: must be that of the pooling from \(9, 9\)"
    with pytest.raises(UserError, match=expected):
        max_unpool(values, indices, (9, 9), window)
    np.testing.assert_array_equal(
        np.sort(np.asarray(max_unpool(values, indices, (9, 9), (3, 3))).ravel())[-3:],
        np.sort(np.asarray(values).ravel())[-3:],
    )


def test_gradients_gather_what_unpooling_set_and_scatter_what_pooling_took():
    x = jnp.asarray(GOLDEN["ties"])
    values, indices = max_pool_with_indices(x, (2, 2), (2, 2), ceil_mode=True)
    cotangent = jax.random.normal(jax.random.key(1), x.shape)
    (gathered,) = jax.vjp(lambda v: max_unpool(v, indices, (7, 9)), values)[1](cotangent)
    flat = np.asarray(cotangent).reshape(2, -1, 2)
    picked = np.take_along_axis(flat, np.asarray(indices).reshape(2, -1, 2), axis=1)
    np.testing.assert_array_equal(gathered, picked.reshape(values.shape))
    pool = lambda x: max_pool_with_indices(x, (2, 2), (2, 2), ceil_mode=True)[0]  # noqa: E731
    (scattered,) = jax.vjp(pool, x)[1](values)
    np.testing.assert_array_equal(scattered, max_unpool(values, indices, (7, 9)))
