"""Images and masks augmented together: they stay on top of each other, and ranges are kept."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import masks
from cnn_jax.data.augment.masks import MaskAugmentation, augment_with_mask, displacements
from cnn_jax.errors import UserError

KEY = jax.random.key(0)


def example(height=24, width=30, margin=0):
    """A mask of vertical bands with a bright image of the same, so that each tells the other."""
    mask = jnp.asarray(np.add.outer(np.arange(height) // 8 * 5, np.arange(width) // 6), jnp.int32)
    image = jnp.pad(mask, margin, mode="reflect")[..., None].astype(jnp.float32) / 20.0
    return jnp.repeat(image, 3, axis=-1), mask


def many(config, count=64, margin=0, **sizes):
    image, mask = example(margin=margin, **sizes)
    augment = partial(augment_with_mask, config=config)
    keys = jax.random.split(KEY, count)
    weights = mask.astype(jnp.float32)
    return jax.jit(jax.vmap(augment, (0, None, None, None)))(keys, image, mask, weights)


@pytest.mark.parametrize(
    "config",
    [
        MaskAugmentation(crop_size=(10, 12), flip=True, flip_vertical=True),
        MaskAugmentation(rotate=20.0),
        MaskAugmentation(zoom=(0.5, 2.0), crop_size=(16, 16)),
        MaskAugmentation(elastic=3.0, flip=True),
        MaskAugmentation(crop_size=(20, 20), rotate=180.0, zoom=(0.8, 1.2), elastic=2.0, flip=True),
    ],
    ids=["window", "turn", "zoom", "elastic", "all"],
)
@pytest.mark.parametrize("margin", [0, 5])
def test_the_mask_goes_where_the_image_goes(config, margin):
    images, masks, weights = many(config, margin=margin)
    size = config.crop_size or (24, 30)
    assert masks.shape == (64, *size)
    assert images.shape == (64, size[0] + 2 * margin, size[1] + 2 * margin, 3)
    inner = np.asarray(images)[:, margin : margin + size[0], margin : margin + size[1], 0] * 20
    masks, counted = np.asarray(masks), np.asarray(masks) != 255
    # Between two bands the image is a mixture; everywhere else it says which class it is.
    whole = counted & (np.abs(inner - np.round(inner)) < 1e-3)
    assert whole.mean() > 0.25
    equal = np.round(inner)[whole] == masks[whole]
    assert equal.mean() > 0.97
    if not config.resamples:
        assert equal.all()
        assert counted.all()
    np.testing.assert_array_equal(np.asarray(weights)[counted], masks[counted])


def test_nothing_asked_changes_nothing():
    image, mask = example(margin=3)
    images, masks, _ = many(MaskAugmentation(), count=2, margin=3)
    np.testing.assert_array_equal(images[0], image)
    np.testing.assert_array_equal(masks[0], mask)


def test_every_window_is_as_likely():
    _, masks, _ = many(MaskAugmentation(crop_size=(22, 30)), count=600)
    # Where the second row of bands begins tells where the window was.
    tops = 8 - (np.asarray(masks)[:, :, 0] == 0).sum(axis=1)
    counts = np.bincount(tops, minlength=3)
    assert counts.sum() == 600
    assert counts.min() > 150


def test_half_turns_put_the_first_pixel_last():
    config = MaskAugmentation(rotate=180.0)
    image, mask = example()
    angles = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 3)))(
        jax.random.split(KEY, 400)
    )
    # The key that draws nearly +-180 degrees.
    key = jax.random.split(KEY, 400)[int(jnp.argmin(angles))]
    _, turned, _ = augment_with_mask(key, image, mask, None, config)
    turned = np.asarray(turned)
    counted = turned != 255
    assert counted.mean() > 0.9
    assert (turned == np.asarray(mask)[::-1, ::-1])[counted].mean() > 0.9


def test_zooming_out_ignores_what_lies_outside_and_mirrors_the_image():
    images, masks, _ = many(MaskAugmentation(zoom=(0.5, 0.5)), count=1)
    counted = np.asarray(masks)[0] != 255
    assert abs(counted.mean() - 0.25) < 0.05
    assert counted[12, 15]
    assert not counted[0].any()
    # Its first row comes from row 11.5 - 23, which is row 11.5 mirrored.
    original = np.asarray(example()[0])
    np.testing.assert_allclose(images[0, 0, 15], original[11:13, 15:17].mean((0, 1)), atol=1e-5)


def test_interpolation_is_that_of_opencv():
    image = np.random.default_rng(0).random((20, 24, 3), np.float32)
    shifts = np.random.default_rng(1).integers(-31, 32, (2, 20, 24)) / 32  # OpenCV's finest places
    rows, columns = (
        (grid + shift).astype(np.float32)
        for grid, shift in zip(np.indices((20, 24)), shifts, strict=True)
    )
    for name, method in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
        expected = cv2.remap(image, columns, rows, method, borderMode=cv2.BORDER_REFLECT_101)
        found = masks._interpolated(*map(jnp.asarray, (image, rows, columns)), name)
        np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-5, err_msg=name)


def test_bicubic_keeps_more_noise_than_bilinear():
    noise = jnp.asarray(np.random.default_rng(0).normal(0.5, 0.1, (64, 64, 1)), jnp.float32)
    mask, kept = jnp.zeros((64, 64), jnp.int32), {}
    for name in ("bilinear", "bicubic"):
        config = MaskAugmentation(elastic=3.0, interpolation=name)
        kept[name] = float(augment_with_mask(KEY, noise, mask, None, config)[0].std() / 0.1)
    assert kept["bilinear"] < 0.72 and kept["bicubic"] > 0.85


def test_displacements_are_normal_at_the_grids_points():
    """A field of 3 x 3 pixels is the grid itself."""
    fields = jax.jit(jax.vmap(lambda k: displacements(k, (3, 3), 10.0)))(jax.random.split(KEY, 500))
    assert abs(float(fields.mean())) < 0.5
    assert abs(float(fields.std()) - 10) < 0.3
    smooth = np.asarray(displacements(KEY, (90, 90), 10.0))
    assert np.abs(np.diff(smooth, axis=0)).max() < 3
    # Half-pixel: the middle of the field is the grid's middle point.
    middle = displacements(KEY, (3, 3), 10.0)[1, 1]
    np.testing.assert_allclose(smooth[44:46, 44:46].mean((0, 1)), middle, atol=0.05)


def test_the_same_key_gives_the_same_and_steps_do_not_disturb_each_other():
    config = MaskAugmentation(elastic=3.0, rotate=10.0)
    first, again = many(config, 4), many(config, 4)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    flipped = many(MaskAugmentation(elastic=3.0, rotate=10.0, flip=True), 4)[1]
    for a, b in zip(np.asarray(first[1]), np.asarray(flipped), strict=True):
        assert (a == b).all() or (a == b[:, ::-1]).all()


def test_colours_change_in_the_image_alone():
    image, mask = example()
    changed, unmoved, _ = augment_with_mask(
        KEY, image, mask, None, MaskAugmentation(color_jitter=0.5)
    )
    assert not np.allclose(changed, image)
    np.testing.assert_array_equal(unmoved, mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoom": (0.0, 1.0)}, r"^zoom 0.0 1.0: must be in \[0.01, 100\]"),
        ({"rotate": -1.0}, r"^rotate -1.0: must be in \[0, 360\]"),
        ({"crop_size": (0, 5)}, r"^crop_size 0 5: must be in \[1, 16384\]"),
        ({"elastic_grid": 1}, r"^elastic_grid 1: must be in \[2, 100\]"),
        ({"interpolation": "bicubic"}, "^interpolation bicubic: must be given with rotate, zoom"),
    ],
)
def test_values_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        MaskAugmentation(**options)


def test_a_window_larger_than_the_image():
    with pytest.raises(UserError, match=r"--crop-size 25 30: larger than .* 24 x 30"):
        many(MaskAugmentation(crop_size=(25, 30)))
