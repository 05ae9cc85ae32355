"""Whitening filters against their definition: responses without correlation, of variance one."""

import numpy as np
import pytest

from cnn_jax.ops.whitening import whitening_filters


def patches_of(images, rows, columns):
    """All patches, by slices, each flattened as a filter [rows, columns, channels] is."""
    count, height, width, _ = images.shape
    return np.stack(
        [
            images[i, y : y + rows, x : x + columns].ravel()
            for i in range(count)
            for y in range(height - rows + 1)
            for x in range(width - columns + 1)
        ]
    )


@pytest.mark.parametrize("size", [(2, 2), (3, 2)])
def test_responses_to_the_patches_have_unit_covariance(size):
    rng = np.random.default_rng(0)
    # Neighbours and channels that depend on each other, as those of photos do.
    images = rng.normal(size=(8, 12, 10, 3)).cumsum(axis=1).cumsum(axis=2) @ rng.normal(size=(3, 3))
    images = (images / images.std()).astype(np.float32)
    filters = whitening_filters(images, size, epsilon=0.0)
    numbers = size[0] * size[1] * 3
    assert (filters.shape, filters.dtype) == ((*size, 3, numbers), np.float32)
    responses = patches_of(images, *size) @ filters.reshape(numbers, numbers)
    covariance = responses.T @ responses / len(responses)
    np.testing.assert_allclose(covariance, np.eye(numbers), atol=1e-3)


def test_small_components_are_held_back_and_large_ones_come_first():
    """A response's variance is v / (v + epsilon) of the component's own v, and v falls."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(6, 9, 9, 2)).astype(np.float32) * np.float32([1.0, 0.1])
    flat = patches_of(images, 2, 2).astype(np.float64)
    variances = np.linalg.eigvalsh(flat.T @ flat / len(flat))[::-1]
    responses = flat @ whitening_filters(images, (2, 2), epsilon=0.02).reshape(8, 8)
    np.testing.assert_allclose((responses**2).mean(0), variances / (variances + 0.02), rtol=1e-4)
    # A channel that is always dark has no variance at all.
    images[..., 1] = 0
    assert whitening_filters(images, (2, 2)).shape == (2, 2, 2, 4)


@pytest.mark.parametrize(("mean", "kept"), [((0.5, 0.5, 0.5), 4), ((0.485, 0.456, 0.406), 5)])
def test_components_that_hold_only_rounding_are_left_out(mean, kept):
    """Grey images in three equal channels: four pixels vary, and with other means a constant."""
    rng = np.random.default_rng(2)
    grey = rng.uniform(size=(6, 9, 9, 1)).astype(np.float32)
    images = ((grey - np.float32(mean)) / np.float32(0.23)).astype(np.float32)
    filters = whitening_filters(images, (2, 2))
    assert filters.shape == (2, 2, 3, kept)
    responses = patches_of(images, 2, 2) @ filters.reshape(12, kept)
    assert (responses**2).mean(0).min() > 0.9
    black = whitening_filters(np.zeros_like(images), (2, 2))
    assert black.shape == (2, 2, 3, 0)
