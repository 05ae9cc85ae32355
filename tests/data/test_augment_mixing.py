"""Mixup and cutmix: pairs, proportions, and independence of the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cnn_jax.data.augment import Augmentation, cutmix, mix, mixup, mixup_or_cutmix

BATCH, CLASSES = 8, 8
rng = np.random.default_rng(0)
IMAGES = jnp.array(rng.uniform(size=(BATCH, 10, 14, 3)), jnp.float32)
TARGETS = jnp.eye(CLASSES)
KEY = jax.random.key(0)


def _share(targets):
    """Return the weight that every example keeps; it must be the same for all."""
    targets = np.asarray(targets)
    kept = np.diagonal(targets)
    np.testing.assert_allclose(kept, kept[0], rtol=1e-6)
    expected = kept[0] * np.eye(CLASSES) + (1 - kept[0]) * np.roll(np.eye(CLASSES), 1, axis=0)
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    return kept[0]


@pytest.mark.parametrize("seed", range(6))
def test_mixup_blends_each_image_with_the_one_before(seed):
    images, targets = mixup(jax.random.key(seed), IMAGES, TARGETS, 1.0)
    share = _share(targets)
    for i in range(BATCH):
        expected = share * np.asarray(IMAGES[i]) + (1 - share) * np.asarray(IMAGES[i - 1])
        np.testing.assert_allclose(images[i], expected, atol=3e-6)


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_pastes_a_rectangle_and_mixes_by_its_area(seed):
    images, targets = cutmix(jax.random.key(seed), IMAGES, TARGETS, 1.0)
    share = _share(targets)
    own = (images == IMAGES).all(axis=-1)
    others = np.asarray((images == jnp.roll(IMAGES, 1, axis=0)).all(axis=-1))
    assert (np.asarray(own) ^ others).all()
    assert (others == others[0]).all()
    pasted = others[0]
    assert pasted.sum() == pasted.any(axis=1).sum() * pasted.any(axis=0).sum()
    assert share == pytest.approx(float(own.mean()), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 3.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha):
    def kept(key):
        return mixup(key, IMAGES[:2, :1, :1], TARGETS[:2, :2], alpha)[1][0, 0]

    keys = jax.random.split(KEY, 40_000)
    shares = np.asarray(jax.jit(jax.vmap(kept))(keys), np.float64)
    exact = stats.beta(alpha, alpha)
    below = shares[shares < 0.5]
    assert stats.binomtest(len(below), len(shares)).pvalue > 1e-3
    assert stats.kstest(below, lambda x: 2 * exact.cdf(x)).pvalue > 1e-3
    # The smallest of them too: a table of quantiles would spread them evenly.
    least = exact.ppf(1 / 1024)
    tail = below[below < least]
    assert len(tail) > 20
    assert stats.kstest(tail, lambda x: 1024 * exact.cdf(x)).pvalue > 1e-3
    # Near one, float32 has few numbers: what rounds to one is counted, the rest follows.
    beside = 1 - shares[shares > 0.5]
    apart, tail = beside[beside > 1e-4], 2 * exact.cdf(1e-4)
    assert stats.binomtest(len(apart), len(beside), 1 - tail).pvalue > 1e-3
    assert stats.kstest(apart, lambda x: (2 * exact.cdf(x) - tail) / (1 - tail)).pvalue > 1e-3
    if alpha > 0.2:
        assert stats.kstest(shares, exact.cdf).pvalue > 1e-3


def test_cutmix_rectangles_are_distributed_as_a_plain_loop_draws_them():
    """The reference draws with NumPy by torchvision's rule: lengths cut short, then clipped."""
    height, width = 10, 14

    def kept(key):
        return cutmix(key, IMAGES[:2], TARGETS[:2, :2], 1.0)[1][0, 0]

    shares = np.asarray(jax.jit(jax.vmap(kept))(jax.random.split(KEY, 3000)))
    areas = np.round((1 - shares) * width * height)
    expected = []
    for _ in range(3000):
        half = 0.5 * np.sqrt(1 - rng.beta(1.0, 1.0))
        x, y = rng.integers(width), rng.integers(height)
        half_width, half_height = int(half * width), int(half * height)
        across = min(x + half_width, width) - max(x - half_width, 0)
        down = min(y + half_height, height) - max(y - half_height, 0)
        expected.append(across * down)
    assert stats.ks_2samp(areas, expected).pvalue > 1e-3


def test_one_of_the_two_is_drawn_for_each_batch():
    def pasted(key):
        images, _ = mixup_or_cutmix(key, IMAGES, TARGETS, 0.8, 1.0)
        kept = images == IMAGES
        other = images == jnp.roll(IMAGES, 1, axis=0)
        return jnp.all(kept | other)

    drawn = np.asarray(jax.jit(jax.vmap(pasted))(jax.random.split(KEY, 400)))
    assert abs(drawn.mean() - 0.5) < 0.1


def test_an_alpha_of_zero_switches_off():
    for mixup_alpha, cutmix_alpha, alone in ((0.3, 0.0, mixup), (0.0, 0.3, cutmix)):
        images, targets = mixup_or_cutmix(KEY, IMAGES, TARGETS, mixup_alpha, cutmix_alpha)
        own_key = jax.random.fold_in(KEY, 1 if alone is mixup else 2)
        expected_images, expected_targets = alone(own_key, IMAGES, TARGETS, 0.3)
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(targets, expected_targets)
    images, targets = mix(KEY, IMAGES, TARGETS, Augmentation())
    assert images is IMAGES
    assert targets is TARGETS


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("devices", [1, 4])
def test_mixing_does_not_depend_on_the_number_of_devices(alphas, devices):
    config = Augmentation(mixup=alphas[0], cutmix=alphas[1])
    whole_images, whole_targets = jax.jit(lambda *a: mix(*a, config))(KEY, IMAGES, TARGETS)
    spread = jax.pmap(
        lambda images, targets: mix(KEY, images, targets, config, "devices"),
        axis_name="devices",
        devices=jax.devices()[:devices],
    )
    rows = BATCH // devices
    images, targets = spread(
        IMAGES.reshape(devices, rows, *IMAGES.shape[1:]), TARGETS.reshape(devices, rows, CLASSES)
    )
    np.testing.assert_allclose(images.reshape(IMAGES.shape), whole_images, atol=1e-6)
    np.testing.assert_allclose(targets.reshape(TARGETS.shape), whole_targets, atol=1e-6)
