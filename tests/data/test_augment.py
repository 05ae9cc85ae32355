"""The composed augmentation: shapes, ranges, determinism, independence of its steps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import Augmentation, augment_example, normalize
from cnn_jax.data.augment.geometry import random_flip
from cnn_jax.errors import UserError

rng = np.random.default_rng(0)
IMAGES = jnp.array(rng.uniform(size=(6, 20, 20, 3)), jnp.float32)
SIZES = jnp.array([[20, 20], [40, 30], [30, 90], [200, 100], [15, 15], [20, 21]], jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 6)

EVERYTHING = Augmentation(
    crop="resized", output_size=16, flip=True, rotate=10.0, translate=0.1, zoom=(0.9, 1.1),
    shear=5.0, policy="trivial", color_jitter=0.4, hue=0.1, pca_color=0.1, erase=0.5,
)  # fmt: skip
CONFIGS = {
    "nothing": Augmentation(),
    "everything": EVERYTHING,
    "cifar": Augmentation(crop="pad", flip=True),
    "reflect": Augmentation(crop="pad", padding_mode="reflect"),
    "random": Augmentation(crop="random", output_size=16, pca_color=0.1),
    "resized": Augmentation(crop="resized", output_size=24),
    "reduced": Augmentation(output_size=12),
    "rand": Augmentation(policy="rand", rand_ops=1, rand_magnitude=30),
}


def _augmented(config, keys=KEYS, images=IMAGES, sizes=SIZES):
    return jax.jit(jax.vmap(partial(augment_example, config=config)))(keys, images, sizes)


@pytest.mark.parametrize("name", CONFIGS)
def test_shape_type_and_range(name):
    config = CONFIGS[name]
    size = config.output_size or 20
    results = _augmented(config)
    assert results.shape == (6, size, size, 3)
    assert results.dtype == jnp.float32
    assert np.isfinite(results).all()
    assert results.min() >= 0
    assert results.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["everything", "cifar", "rand"])
def test_vmap_equals_a_loop_and_keys_decide_everything(name):
    config = CONFIGS[name]
    results = _augmented(config)
    one = jax.jit(partial(augment_example, config=config))
    for i in range(6):
        np.testing.assert_allclose(one(KEYS[i], IMAGES[i], SIZES[i]), results[i], atol=2e-5)
    np.testing.assert_array_equal(_augmented(config), results)
    order = jnp.array([3, 1, 5, 0, 2, 4])
    shuffled = _augmented(config, KEYS[order], IMAGES[order], SIZES[order])
    np.testing.assert_array_equal(shuffled, results[order])
    others = _augmented(config, jax.random.split(jax.random.key(1), 6))
    assert (np.abs(np.asarray(others - results)).max(axis=(1, 2, 3)) > 1e-3).sum() >= 4


def test_nothing_changes_nothing():
    np.testing.assert_array_equal(_augmented(Augmentation()), IMAGES)
    np.testing.assert_array_equal(
        augment_example(KEYS[0], IMAGES[0], None, Augmentation()), IMAGES[0]
    )


def test_steps_draw_independently_of_each_other():
    """Turning one step on does not change the draws of the others."""
    flipped = np.asarray(_augmented(Augmentation(flip=True)))
    cropped = np.asarray(_augmented(Augmentation(crop="pad")))
    both = np.asarray(_augmented(Augmentation(crop="pad", flip=True)))
    mirrored = (flipped == np.asarray(IMAGES)[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 0 < mirrored.sum() < 6
    for i in range(6):
        np.testing.assert_array_equal(both[i], cropped[i, :, ::-1] if mirrored[i] else cropped[i])


def test_flips_do_not_follow_another_steps_key():
    """Two steps that shared a key would be correlated: here crops and flips of 500 examples."""
    keys = jax.random.split(jax.random.key(5), 500)
    ramp = jnp.arange(24.0)[None, :, None] * jnp.ones((24, 1, 1)) / 24
    config = Augmentation(crop="random", output_size=8, flip=True)
    windows = jax.jit(jax.vmap(lambda k: augment_example(k, ramp, None, config)))(keys)
    flips = np.asarray(windows[:, 0, 0, 0] > windows[:, 0, -1, 0])
    lefts = np.asarray(windows[:, 0, :, 0].min(axis=1))
    assert abs(np.corrcoef(flips, lefts)[0, 1]) < 0.15


def test_original_size_decides_the_boxes():
    config = Augmentation(crop="resized", output_size=16)
    square = augment_example(KEYS[0], IMAGES[0], None, config)
    equal = augment_example(KEYS[0], IMAGES[0], jnp.array([20.0, 20.0]), config)
    wide = augment_example(KEYS[0], IMAGES[0], jnp.array([20.0, 80.0]), config)
    np.testing.assert_array_equal(square, equal)
    assert np.abs(np.asarray(square - wide)).max() > 1e-2


@pytest.mark.parametrize("channels", [1, 4])
def test_geometric_steps_take_any_number_of_channels(channels):
    image = jax.random.uniform(jax.random.key(3), (12, 12, channels))
    for side, config in (
        (12, Augmentation(crop="pad", flip=True, rotate=10.0)),
        (8, Augmentation(crop="resized", output_size=8)),
    ):
        augment = jax.jit(partial(augment_example, config=config))
        result = augment(KEYS[0], image, None)
        assert result.shape == (side, side, channels)
        for channel in range(channels):
            alone = augment(KEYS[0], image[..., channel : channel + 1], None)
            np.testing.assert_allclose(result[..., channel], alone[..., 0], rtol=1e-5, atol=1e-6)
    expected = (np.asarray(image) - 0.5) / 0.2
    normalized = normalize(image, (0.5,) * channels, (0.2,) * channels)
    np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-6)


def test_one_compilation_serves_every_batch_of_a_run():
    traces = 0

    @jax.jit
    @jax.vmap
    def augment(key, image, size):
        nonlocal traces
        traces += 1
        return augment_example(key, image, size, EVERYTHING)

    for sizes in (SIZES, SIZES[::-1], 2 * SIZES):
        augment(KEYS, IMAGES, sizes)
    assert traces == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("padding", -1), ("crop_scale", (0.0, 1.0)), ("crop_scale", (0.5, 1.5)),
        ("crop_ratio", (2.0, 1.0)), ("zoom", (0.0, 1.0)), ("rotate", -5.0), ("shear", 90.0),
        ("rand_magnitude", 31), ("rand_ops", -1), ("color_jitter", -0.1), ("hue", 0.6),
        ("pca_color", -1.0), ("erase", 1.5), ("mixup", -0.2), ("cutmix", -1.0), ("output_size", 0),
    ],
)  # fmt: skip
def test_an_impossible_strength_names_its_parameter(field, value):
    with pytest.raises(UserError, match=rf"^{field} .+: must be "):
        Augmentation(**{field: value})


def test_the_configuration_is_hashable_and_replaceable():
    assert hash(EVERYTHING) == hash(dataclasses.replace(EVERYTHING))
    assert dataclasses.replace(EVERYTHING, flip=False) != EVERYTHING


def test_a_canvas_smaller_than_its_random_crop_is_the_users_mistake():
    with pytest.raises(UserError, match="24 x 24"):
        augment_example(KEYS[0], IMAGES[0], None, Augmentation(crop="random", output_size=24))


def test_augmentation_is_reproducible_across_its_parts():
    """The composed flip is `random_flip` under the key folded with its place."""
    key = jax.random.fold_in(KEYS[0], 1)
    expected = random_flip(key, IMAGES[0])
    result = augment_example(KEYS[0], IMAGES[0], None, Augmentation(flip=True))
    np.testing.assert_array_equal(result, expected)
