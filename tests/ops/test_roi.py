"""RoI pooling and RoIAlign against torchvision's frozen results and loops over the bins."""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.roi_align import roi_align
from cnn_jax.ops.roi_pooling import roi_pool

pytestmark = pytest.mark.optimized  # Compares bits between different programs.

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "detection_ops.npz")
FEATURES, BOXES = jnp.asarray(GOLDEN["regions/features"]), jnp.asarray(GOLDEN["regions/boxes"])
SCALE = 1 / 16


def equal_with_gradient(function, case, **tolerance):
    pooled, pullback = jax.jit(lambda x: jax.vjp(function, x))(FEATURES)
    np.testing.assert_allclose(pooled, GOLDEN[f"{case}/pooled"], **tolerance)
    (gradient,) = pullback(jnp.asarray(GOLDEN[f"{case}/weights"]))
    np.testing.assert_allclose(gradient, GOLDEN[f"{case}/gradient"], atol=1e-4)


@pytest.mark.parametrize("size", [(7, 7), (2, 3)])
def test_max_pooling_and_its_gradient_equal_torchvision(size):
    function = partial(roi_pool, boxes=BOXES, size=size, spatial_scale=SCALE)
    equal_with_gradient(function, f"roi_pool/{size[0]}x{size[1]}", rtol=0)
    # Without a gradient the cells are not looked up: the values are the same.
    expected = GOLDEN[f"roi_pool/{size[0]}x{size[1]}/pooled"]
    np.testing.assert_array_equal(jax.jit(function)(FEATURES), expected)


def test_the_last_bin_is_as_long_as_in_float32():
    features = jnp.arange(130.0).reshape(1, 130, 1)
    boxes, expected = jnp.asarray(GOLDEN["rounding/boxes"]), GOLDEN["rounding/pooled"]
    pooled = jax.jit(partial(roi_pool, size=(1, 7)))(features, boxes)
    np.testing.assert_array_equal(pooled[..., 0], expected)
    np.testing.assert_array_equal(expected[:, 0, -1], [58, 60, 60, 117, 124])


def pool_by_loops(features, box, size, scale):
    """The Caffe layer, cell by cell: values and cells, of each bin's first maximum."""
    height, width, channels = features.shape
    x1, y1, x2, y2 = (math.copysign(math.floor(abs(v * scale) + 0.5), v) for v in box.tolist())
    values = np.zeros((*size, channels), np.float32)
    cells = np.full((*size, channels), -1)
    for p in range(size[0]):
        for q in range(size[1]):
            edges = []
            for number, first, last, bins, length in (
                (p, y1, y2, size[0], height),
                (q, x1, x2, size[1], width),
            ):
                bin_size = np.float32(max(last - first + 1, 1)) / np.float32(bins)
                start = math.floor(np.float32(number) * bin_size) + first
                stop = math.ceil(np.float32(number + 1) * bin_size) + first
                edges += [int(min(max(edge, 0), length)) for edge in (start, stop)]
            for channel in range(channels):
                largest = -math.inf
                for row in range(edges[0], edges[1]):
                    for column in range(edges[2], edges[3]):
                        if features[row, column, channel] > largest:
                            largest = features[row, column, channel]
                            cells[p, q, channel] = row * width + column
                if largest > -math.inf:
                    values[p, q, channel] = largest
    return values, cells


@pytest.mark.parametrize("seed", range(4))
def test_max_pooling_equals_loops(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    size = tuple(int(n) for n in rng.integers(1, 6, 2))
    features = rng.integers(0, 4, (height, width, 2)).astype(np.float32)
    corners = rng.integers(-40, 140, (70, 2, 2)) / rng.choice([1, 2, 3])
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes = jnp.asarray(boxes, jnp.float32)
    pool = partial(roi_pool, boxes=boxes, size=size, spatial_scale=0.125)
    pooled, pullback = jax.jit(lambda x: jax.vjp(pool, x))(jnp.asarray(features))
    weights = rng.integers(-3, 4, pooled.shape).astype(np.float32)
    gradient = np.zeros((height * width + 1, 2), np.float32)
    for number, box in enumerate(boxes):
        values, cells = pool_by_loops(features, box, size, 0.125)
        np.testing.assert_array_equal(pooled[number], values)
        for channel in range(2):
            np.add.at(gradient[:, channel], cells[..., channel], weights[number, ..., channel])
    np.testing.assert_array_equal(
        pullback(jnp.asarray(weights))[0], gradient[:-1].reshape(features.shape)
    )


def test_the_gradient_of_a_tie_goes_to_the_first_cell():
    gradient = jax.grad(lambda x: roi_pool(x, jnp.array([[0.0, 0, 3, 3]]), (1, 1)).sum())
    np.testing.assert_array_equal(
        jax.jit(gradient)(jnp.zeros((4, 4, 1)))[..., 0], np.eye(4) * (np.arange(4) == 0)
    )


def test_max_pooling_of_a_batch_keeps_the_dtype_and_boxes_have_no_gradient():
    features = jnp.stack([FEATURES, -FEATURES]).astype(jnp.bfloat16)
    boxes = jnp.stack([BOXES, BOXES[::-1]])
    pool = partial(roi_pool, size=(3, 3), spatial_scale=SCALE)
    pooled = jax.jit(jax.vmap(pool))(features, boxes)
    assert pooled.dtype == jnp.bfloat16
    alone = jax.jit(pool)(features[1], boxes[1])
    np.testing.assert_array_equal(pooled[1].astype(np.float32), alone.astype(np.float32))
    gradient = jax.jit(jax.grad(lambda b: pool(FEATURES, b).sum()))(BOXES)
    assert not gradient.any()


def test_nan_is_not_hidden():
    pool = jax.jit(partial(roi_pool, size=(1, 1), spatial_scale=SCALE))
    pooled = pool(FEATURES.at[0, 0, 0].set(jnp.nan), BOXES[1:2])
    assert np.isnan(pooled[0, 0, 0, 0]) and np.isfinite(pooled[0, 0, 0, 1])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3, -1])
def test_aligned_pooling_and_its_gradient_equal_torchvision(aligned, ratio):
    boxes = BOXES
    if ratio < 0:
        # More samples than a bin of the whole map would get are not taken.
        fits = (BOXES[:, 2:] - BOXES[:, :2]) * SCALE <= jnp.array([[17.0, 13.0]])
        assert np.all(fits[:2]) and int(fits.all(axis=1).sum()) >= 15
        boxes = jnp.where(fits.all(axis=1)[:, None], BOXES, BOXES[1])
    function = partial(
        roi_align,
        boxes=boxes,
        size=(4, 5),
        spatial_scale=SCALE,
        sampling_ratio=None if ratio < 0 else ratio,
        aligned=aligned,
    )
    case = f"roi_align/{aligned}/{ratio}/4x5"
    if ratio > 0:
        equal_with_gradient(function, case, atol=2e-5)
    else:
        pooled = jax.jit(function)(FEATURES)
        kept = np.asarray(fits.all(axis=1))
        np.testing.assert_allclose(pooled[kept], GOLDEN[f"{case}/pooled"][kept], atol=2e-5)


@pytest.mark.parametrize("sampling_ratio", [None, 1])
def test_detectron2s_vectors(sampling_ratio):
    features = jnp.arange(25.0).reshape(5, 5, 1)
    box = jnp.array([[1.0, 1, 3, 3]])
    ramp = 0.5 * np.arange(4)[None] + 2.5 * np.arange(4)[:, None]
    align = partial(roi_align, features, box, (4, 4), sampling_ratio=sampling_ratio)
    np.testing.assert_allclose(align(aligned=False)[0, ..., 0], 7.5 + ramp)
    np.testing.assert_allclose(align(aligned=True)[0, ..., 0], 4.5 + ramp)


def test_half_the_image_and_half_the_box_give_the_same():
    """detectron2's invariant of the aligned form, for a plane, which averaging leaves a plane."""
    rows, columns = np.mgrid[0:16, 0:16] + 0.5
    plane = jnp.asarray((3 * rows + columns)[..., None], jnp.float32)
    half = plane.reshape(8, 2, 8, 2, 1).mean(axis=(1, 3))
    box = jnp.array([[3.0, 4, 12, 10]])
    np.testing.assert_allclose(
        roi_align(plane, box, (3, 3)), roi_align(half, box / 2, (3, 3)), atol=1e-4
    )


@pytest.mark.parametrize("sampling_ratio", [None, 2])
def test_boxes_without_area_and_boxes_outside_are_finite(sampling_ratio):
    boxes = jnp.array([[5.0, 5, 5, 5], [-900, -900, -800, -800], [0, 0, 1e5, 1e5]])
    align = partial(roi_align, size=(2, 2), spatial_scale=SCALE, sampling_ratio=sampling_ratio)
    pooled, pullback = jax.jit(lambda *args: jax.vjp(align, *args))(FEATURES, boxes)
    assert np.all(np.isfinite(pooled)) and not np.any(pooled[1])
    assert all(np.all(np.isfinite(g)) for g in pullback(jnp.ones_like(pooled)))


def test_a_batch_in_bfloat16_in_parts():
    features = jnp.stack([FEATURES, -FEATURES])
    boxes = jnp.tile(BOXES, (4, 1))
    align = jax.jit(jax.vmap(partial(roi_align, size=(2, 2), spatial_scale=SCALE), (0, None)))
    exact = align(features, boxes)
    np.testing.assert_allclose(exact[0, :20], exact[0, 60:], atol=1e-6)
    rounded = align(features.astype(jnp.bfloat16), boxes)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.02)
