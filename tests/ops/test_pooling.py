"""Pooling against plain loops over the windows, and against torch where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.ops import pooling
from cnn_jax.ops.pooling import adaptive_avg_pool, global_avg_pool

# Compiled whole: one operation at a time, every new shape would compile each of them.
max_pool = jax.jit(pooling.max_pool, static_argnums=(1, 2, 3, 4))
avg_pool = jax.jit(pooling.avg_pool, static_argnums=(1, 2, 3, 4, 5))


@st.composite
def poolings(draw):
    """A window, its strides, padding of at most half the window, and a map that holds it."""
    window = draw(st.tuples(*[st.integers(1, 4)] * 2))
    strides = draw(st.tuples(*[st.integers(1, 3)] * 2))
    padding = tuple(draw(st.tuples(*[st.integers(0, size // 2)] * 2)) for size in window)
    size = tuple(draw(st.integers(cells, 9)) for cells in window)
    return size, window, strides, padding, draw(st.booleans())


def starts(length, cells, stride, padding, ceil_mode):
    """Compute the starts of windows along one axis; in ceil mode the last one may stick out."""
    last = length + padding[1] - cells
    if ceil_mode:
        last = min(last + stride - 1, length - 1)
    return range(-padding[0], last + 1, stride)


def pool_by_loops(x, window, strides, padding, ceil_mode, reduce):
    """`reduce(values, number of cells in the padded map)` of every window of x [H, W]."""
    (height, width), ((_, below), (_, right)) = x.shape, padding
    return np.array(
        [
            [
                reduce(
                    x[max(i, 0) : i + window[0], max(j, 0) : j + window[1]],
                    (min(i + window[0], height + below) - i)
                    * (min(j + window[1], width + right) - j),
                )
                for j in starts(width, window[1], strides[1], padding[1], ceil_mode)
            ]
            for i in starts(height, window[0], strides[0], padding[0], ceil_mode)
        ]
    )


def random_map(size, channels=2):
    return np.random.default_rng(0).normal(size=(1, *size, channels)).astype(np.float32)


def each_channel(function, x):
    return np.stack([function(x[0, :, :, c]) for c in range(x.shape[-1])], axis=-1)[None]


@settings(max_examples=25, deadline=None)
@given(poolings())
def test_max_pool_equals_loops(pooling):
    size, *settings = pooling
    x = random_map(size)
    expected = each_channel(
        lambda plane: pool_by_loops(plane, *settings, lambda values, _: values.max()), x
    )
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), *settings), expected)


@settings(max_examples=25, deadline=None)
@given(poolings(), st.booleans())
def test_avg_pool_equals_loops(pooling, count_include_pad):
    size, *settings = pooling
    x = random_map(size)

    def mean(values, padded_cells):
        return values.sum() / (padded_cells if count_include_pad else values.size)

    expected = each_channel(lambda plane: pool_by_loops(plane, *settings, mean), x)
    ours = avg_pool(jnp.asarray(x), *settings, count_include_pad)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [((2, 2), (2, 2), 0), ((3, 3), (2, 2), 0), ((3, 3), (2, 2), 1), ((3, 3), (1, 1), 1)],
)
def test_max_pool_sends_the_gradient_to_the_first_largest(window, strides, padding):
    """Torch's rule, on maps of few values so that most windows have ties."""
    x = np.random.default_rng(0).integers(0, 3, (1, 8, 9, 1)).astype(np.float32)
    pads = ((padding, padding),) * 2
    y = max_pool(jnp.asarray(x), window, strides, pads)
    cotangent = np.random.default_rng(1).integers(1, 9, y.shape).astype(np.float32)

    expected = np.zeros_like(x)
    rows = starts(x.shape[1], window[0], strides[0], pads[0], False)
    columns = starts(x.shape[2], window[1], strides[1], pads[1], False)
    for row, i in enumerate(rows):
        for column, j in enumerate(columns):
            cells = [
                (r, c)
                for r in range(max(i, 0), min(i + window[0], x.shape[1]))
                for c in range(max(j, 0), min(j + window[1], x.shape[2]))
            ]
            r, c = max(cells, key=lambda cell: x[0, cell[0], cell[1], 0])
            expected[0, r, c, 0] += cotangent[0, row, column, 0]

    @jax.jit
    def gradient(x, cotangent):
        _, pullback = jax.vjp(lambda x: pooling.max_pool(x, window, strides, pads), x)
        return pullback(cotangent)[0]

    np.testing.assert_array_equal(gradient(x, cotangent), expected)


def test_max_pool_keeps_nan():
    """A network that has diverged must not look as if it had not."""
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan).at[0, 1, 0, 0].set(9.0)
    assert np.isnan(max_pool(x, (2, 2), (2, 2))[0, 0, 0, 0])


@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 8)] * 2))
@settings(max_examples=25, deadline=None)
def test_adaptive_avg_pool_equals_loops(size, grid):
    x = random_map(size)

    def cell(plane, i, j):
        """Torch's documentation: from floor(i H / h) to ceil((i + 1) H / h)."""
        (height, width), (rows, columns) = size, grid
        top, bottom = int(np.floor(i * height / rows)), int(np.ceil((i + 1) * height / rows))
        left, right = int(np.floor(j * width / columns)), int(np.ceil((j + 1) * width / columns))
        return plane[top:bottom, left:right].mean()

    expected = each_channel(
        lambda plane: np.array(
            [[cell(plane, i, j) for j in range(grid[1])] for i in range(grid[0])]
        ),
        x,
    )
    ours = adaptive_avg_pool(jnp.asarray(x), grid)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_adaptive_avg_pool_leaves_a_map_of_that_size_alone():
    x = jnp.asarray(random_map((6, 7)))
    assert adaptive_avg_pool(x, (6, 7)) is x


def test_global_avg_pool_is_the_mean_over_the_map():
    x = random_map((3, 5))
    np.testing.assert_allclose(global_avg_pool(jnp.asarray(x)), x.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_type_is_kept(pool):
    x = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    assert pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))).dtype == jnp.bfloat16
    assert adaptive_avg_pool(x, (3, 3)).dtype == jnp.bfloat16
    assert global_avg_pool(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("length", range(5, 12))
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 2, 0), (2, 3, 1)]
)
def test_pooling_equals_torch(length, window, stride, padding, ceil_mode):
    torch = pytest.importorskip("torch")
    x = random_map((length, length + 1))
    y = torch.from_numpy(x).permute(0, 3, 1, 2)
    geometry = ((window, window), (stride, stride), ((padding, padding),) * 2, ceil_mode)
    for ours, theirs in (
        (
            max_pool(jnp.asarray(x), *geometry),
            torch.nn.functional.max_pool2d(y, window, stride, padding, ceil_mode=ceil_mode),
        ),
        (
            avg_pool(jnp.asarray(x), *geometry),
            torch.nn.functional.avg_pool2d(y, window, stride, padding, ceil_mode),
        ),
    ):
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
