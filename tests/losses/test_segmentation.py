"""Losses of masks against torch's frozen results, and U-Net's weights against their definition."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.borders import border_weights
from cnn_jax.losses import cross_entropy, dice_loss, pixel_cross_entropy

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "segmentation_losses.npz")
LOGITS, MASK, WEIGHTS = (jnp.asarray(GOLDEN[k]) for k in ("logits", "mask", "class_weights"))


@pytest.mark.parametrize("name", ["plain", "weighted"])
def test_pixel_cross_entropy_and_gradient_equal_torch(name):
    weights = WEIGHTS if name == "weighted" else None
    loss = partial(pixel_cross_entropy, class_weights=weights)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(LOGITS, MASK)
    np.testing.assert_allclose(values, GOLDEN[f"{name}/loss"], rtol=2e-6)
    np.testing.assert_allclose(gradients, GOLDEN[f"{name}/gradient"], rtol=2e-5, atol=1e-7)
    assert not gradients[np.asarray(MASK) == 255].any()


def test_pixel_weights_multiply_each_pixels_loss():
    pixel_weights = jax.random.uniform(jax.random.key(0), MASK.shape[1:])
    value = pixel_cross_entropy(LOGITS[0], MASK[0], WEIGHTS, pixel_weights)
    total, counted = 0.0, 0
    for i, j in np.ndindex(*MASK.shape[1:]):
        label = int(MASK[0, i, j])
        if label != 255:
            one = cross_entropy(LOGITS[0, i, j], jnp.asarray(label))
            total += float(one) * float(WEIGHTS[label]) * float(pixel_weights[i, j])
            counted += 1
    assert float(value) == pytest.approx(total / counted, rel=1e-5)


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_the_loss_of_ignored_pixels_is_0_and_of_wrong_labels_nan(loss):
    ignored = jnp.full((6, 7), 255, jnp.int32)
    value, gradient = jax.value_and_grad(loss)(LOGITS[0], ignored)
    assert value == 0
    assert not gradient.any()
    assert np.isnan(loss(LOGITS[0], MASK[0].at[0, 0].set(4)))
    assert np.isfinite(loss(LOGITS[0] * 1e30, MASK[0]))


def test_dice_loss_equals_its_definition():
    probabilities = np.asarray(jax.nn.softmax(LOGITS[0]), np.float64)
    mask = np.asarray(MASK[0])
    counted = mask != 255
    dice = []
    for label in range(4):
        p, g = probabilities[counted][:, label], mask[counted] == label
        dice.append(2 * (p * g).sum() / (p.sum() + g.sum()))
    assert float(dice_loss(LOGITS[0], MASK[0])) == pytest.approx(1 - np.mean(dice), rel=1e-5)


def test_dice_loss_is_0_when_right_and_skips_absent_classes():
    mask = jnp.array([[0, 0, 2], [2, 2, 255]])
    right = 50.0 * jax.nn.one_hot(mask, 3)
    assert float(dice_loss(right, mask)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(-right, mask)) > 0.9


def test_border_weights_equal_their_definition():
    """Plain loops over two and three cells: distances between pixels' centres."""
    mask = np.zeros((14, 17), np.uint8)
    mask[2:6, 1:6] = 1
    mask[1:9, 8:12] = 1
    mask[10:13, 4:15] = 2
    mask[0, 0] = 255
    cells = [
        [(r, c) for r in range(14) for c in range(17) if inside(r, c)]
        for inside in (
            lambda r, c: 2 <= r < 6 and 1 <= c < 6,
            lambda r, c: 1 <= r < 9 and 8 <= c < 12,
            lambda r, c: 10 <= r < 13 and 4 <= c < 15,
        )
    ]
    expected = np.ones(mask.shape)
    for r, c in np.ndindex(*mask.shape):
        if mask[r, c] == 0:
            distances = sorted(min(np.hypot(r - y, c - x) for y, x in cell) for cell in cells)
            expected[r, c] += 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5**2))
    np.testing.assert_allclose(border_weights(mask), expected, rtol=1e-3)
    assert border_weights(mask)[4, 7] == pytest.approx(1 + 10 * np.exp(-(3**2) / 50), rel=1e-4)


def test_far_cells_and_single_ones_have_no_border():
    mask = np.zeros((40, 200), np.uint8)
    mask[10:20, 5:15] = 1
    np.testing.assert_array_equal(border_weights(mask), 1)
    mask[10:20, 185:195] = 1
    np.testing.assert_allclose(border_weights(mask), 1, atol=1e-5)
