"""TrivialAugment and RandAugment: tables, every operation, and the random draws."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import policies, rand_augment, trivial_augment_wide

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")
PIXELS = GOLDEN["image"]
IMAGE = jnp.array(PIXELS, jnp.float32) / 255
LEVEL = 1 / 255
KEY = jax.random.key(0)

# torchvision's spelling, in its order.
NAMES = [
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color",
    "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
]  # fmt: skip
EXACT = ("Identity", "TranslateX", "TranslateY", "Posterize", "Solarize", "Equalize")

_apply = {
    interpolation: jax.jit(partial(policies.apply_operation, interpolation=interpolation))
    for interpolation in ("nearest", "bilinear")
}


def test_tables_equal_torchvisions():
    trivial = policies.magnitudes(0.99, (32.0, 32.0), 135.0, 0.99, 2)
    np.testing.assert_allclose(trivial, GOLDEN["table/trivial"], rtol=1e-5, atol=1e-5)
    height, width, _ = PIXELS.shape
    rand = policies.magnitudes(0.3, (150 / 331 * width, 150 / 331 * height), 30.0, 0.9, 4)
    np.testing.assert_allclose(rand, GOLDEN["table/rand"], rtol=1e-5, atol=1e-5)
    for name in ("trivial", "rand"):
        np.testing.assert_array_equal(policies.SIGNED, GOLDEN[f"signed/{name}"])


@pytest.mark.parametrize("operation", NAMES)
def test_operations_equal_torchvision(operation):
    cases = [name for name in GOLDEN.files if name.startswith(f"operation/{operation}/")]
    assert len(cases) >= 2
    for case in cases:
        magnitude, interpolation = case.split("/")[2:]
        index, amount = jnp.array(NAMES.index(operation)), jnp.array(float(magnitude))
        result = np.asarray(_apply[interpolation](IMAGE, index, amount))
        error = np.abs(result - GOLDEN[case] / 255).max(axis=-1)
        if operation in EXACT:
            assert error.max() < 1e-5, case
            continue
        # Pillow rounds each result, the greys of contrast and colour, and the smoothed image of
        # sharpness; its fixed-point arithmetic decides ties between pixels (a diagonal of them
        # when turning by 135 degrees) the other way.
        assert (error <= 1.6 * LEVEL).mean() >= 0.96, case
        if interpolation == "bilinear":
            assert error.max() <= 2 * LEVEL, case


def _drawn(policy, count, image):
    return np.asarray(
        jax.jit(jax.vmap(lambda key: policy(key, image)))(jax.random.split(KEY, count))
    )


def test_trivial_augment_draws_every_operation_and_magnitude():
    """Each result equals exactly one entry of the table, and entries are equally likely."""
    image = IMAGE[:10, :12]
    count = 600
    results = _drawn(trivial_augment_wide, count, image)
    table = policies.magnitudes(0.99, (32.0, 32.0), 135.0, 0.99, 2)
    entries = [
        (operation, sign * magnitude)
        for operation in range(14)
        for magnitude in table[operation]
        for sign in ((1, -1) if policies.SIGNED[operation] else (1,))
    ]
    operations, amounts = (jnp.array(column) for column in zip(*entries, strict=True))
    candidates = np.asarray(
        jax.jit(jax.vmap(partial(policies.apply_operation, image)))(operations, amounts)
    )
    flat = candidates.reshape(len(entries), -1)
    distances = np.stack([np.abs(flat - row.ravel()).max(axis=1) for row in results])
    assert distances.min(axis=1).max() < 1e-5
    # Several entries may give one image (all that change nothing): share the count among them.
    matches = distances < 1e-5
    share = matches / matches.sum(axis=1, keepdims=True)
    by_operation = [share[:, np.asarray(operations) == index].sum() for index in range(1, 14)]
    assert min(by_operation) > 0.5 * count / 14
    assert max(by_operation) < 1.6 * count / 14


def test_rand_augment_applies_its_operations_in_turn():
    image = IMAGE[:10, :12]
    height, width, _ = image.shape
    table = policies.magnitudes(0.3, (150 / 331 * width, 150 / 331 * height), 30.0, 0.9, 4)[:, 12]
    entries = [
        (operation, sign * table[operation])
        for operation in range(14)
        for sign in ((1, -1) if policies.SIGNED[operation] else (1,))
    ]
    operations, amounts = (jnp.array(column) for column in zip(*entries * 20, strict=True))
    candidates = jax.jit(jax.vmap(policies.apply_operation))
    before = jnp.tile(image[None], (20, 1, 1, 1))
    for num_ops in (1, 2):
        after = _drawn(partial(rand_augment, num_ops=num_ops, magnitude=12), 20, image)
        legal = candidates(jnp.repeat(before, len(entries), axis=0), operations, amounts)
        legal = np.asarray(legal).reshape(20, len(entries), *image.shape)
        distances = np.abs(legal - after[:, None]).max(axis=(2, 3, 4))
        assert distances.min(axis=1).max() < 1e-5
        assert len(np.unique(after.reshape(20, -1), axis=0)) > 5
        before = jnp.array(after)
    np.testing.assert_array_equal(rand_augment(KEY, image, num_ops=0), image)


@pytest.mark.parametrize("policy", [trivial_augment_wide, rand_augment])
def test_policies_stay_in_range(policy):
    results = _drawn(policy, 100, IMAGE)
    assert results.dtype == np.float32
    assert results.shape == (100, *IMAGE.shape)
    assert np.isfinite(results).all()
    assert results.min() >= 0
    assert results.max() <= 1 + 1e-6
