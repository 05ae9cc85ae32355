"""Boxes on their way to a batch: repairs, fixed shapes, generated scenes, joint augmentation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import data
from cnn_jax.data.augment import BoxAugmentation, augment_boxes
from cnn_jax.data.augment.boxes import flip_boxes
from cnn_jax.data.augment.color import adjust_hsv
from cnn_jax.data.batches import EvaluationBatches
from cnn_jax.data.decode import Header, read_header
from cnn_jax.data.formats.boxes import Repairs
from cnn_jax.data.formats.shapes import scene
from cnn_jax.data.source import Subset
from cnn_jax.data.surveys.boxes import most_objects
from cnn_jax.data.transforms import BoxTransform, objects_left_out
from cnn_jax.errors import UserError

coordinate = st.floats(-30, 60)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(*[coordinate] * 4), min_size=1, max_size=6))
def test_repaired_boxes_lie_in_the_image_and_good_ones_stay(boxes):
    boxes, repairs = np.array(boxes), Repairs()
    fixed, kept = repairs.repair(boxes, (20, 30), str)
    assert np.all(fixed[kept, 2:] > fixed[kept, :2])
    assert np.all((fixed >= 0) & (fixed <= [30, 20, 30, 20]))
    good = np.all((boxes >= 0) & (boxes <= [30, 20, 30, 20]), axis=1)
    good &= np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    np.testing.assert_array_equal(fixed[good], boxes[good])
    assert kept[good].all()
    dropped = sum(count for what, (count, _) in repairs.counts.items() if "dropped" in what)
    assert dropped == np.sum(~kept) and (not repairs.counts or not good.all())


def test_image_sizes_are_those_of_the_upright_image(tmp_path):
    from PIL import Image

    image = Image.new("RGB", (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "plain.png")
    assert read_header(tmp_path / "plain.png") == Header(30, 40, 1)
    assert read_header(tmp_path / "turned.jpg") == Header(40, 30, 6)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"text\.jpg: not an image"):
        read_header(tmp_path / "text.jpg")


def example(boxes, crowd=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    none = np.zeros(len(boxes), bool)
    return {
        "image": np.zeros((20, 40, 3), np.uint8),
        "boxes": boxes,
        "labels": np.arange(len(boxes), dtype=np.int32),
        "difficult": none,
        "crowd": none if crowd is None else np.array(crowd),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    }


def test_objects_are_scaled_with_the_image_and_padded():
    fixed = BoxTransform(80, 3)(example([[0, 0, 20, 10], [10, 5, 40, 20]]))
    assert fixed["image"].shape == (80, 80, 3)
    expected = [[0, 0, 40, 40], [20, 20, 80, 80], [0, 0, 0, 0]]
    np.testing.assert_allclose(fixed["boxes"], expected)
    np.testing.assert_allclose(fixed["area"], [1600, 3600, 0])
    np.testing.assert_array_equal(fixed["object_valid"], [True, True, False])
    np.testing.assert_array_equal(fixed["size"], [20, 40])
    assert not BoxTransform(80, 3)(example([]))["object_valid"].any()


def test_what_is_left_out_is_small_or_a_crowd_and_counted():
    boxes = [[0, 0, 2, 2], [0, 0, 9, 9], [0, 0, 30, 20], [0, 0, 5, 5]]
    fixed = BoxTransform(40, 2)(example(boxes, [False, False, True, False]))
    np.testing.assert_array_equal(fixed["labels"], [1, 3])
    assert objects_left_out(np.array([0, 2]), 2) is None
    assert objects_left_out(np.array([0, 4, 3]), 2) == (
        "3 of 7 objects are left out, in 2 images with more than --max-objects 2 (the most: 4)"
    )


def test_shapes_have_boxes_and_batches_one_shape():
    source = data.open_source("shapes", "eval", image_size=32, formats=data.BOX_FORMATS)
    drawn = scene(0, 3, 32, split="eval", objects=(1, 6))
    np.testing.assert_array_equal(source[3]["boxes"], drawn.boxes)
    np.testing.assert_array_equal(source[3]["labels"], drawn.classes)
    counts = [len(source[i]["labels"]) for i in range(30)]
    assert min(counts) == 1 and max(counts) > 3
    assert most_objects(Subset(source, range(30))) == 6 >= max(counts)
    batch = EvaluationBatches(source, BoxTransform(32, 6), batch_size=8)[0]
    assert batch["boxes"].shape == (8, 6, 4) and batch["image"].shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(batch["object_valid"].sum(axis=1), counts[:8])
    with pytest.raises(UserError, match="did you mean shapes"):
        data.open_source("shape", "eval", formats=data.BOX_FORMATS)


PLAIN = BoxAugmentation(0.0, 0.0, flip=False, hue=0.0, saturation=1.0, exposure=1.0)
SIZE = 48


def square(box):
    """A white rectangle on black."""
    x1, y1, x2, y2 = box
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    image[y1:y2, x1:x2] = 1
    return jnp.asarray(image)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_follow_what_they_surround(flip):
    """The white rectangle is found by its pixels, and its box must be there."""
    config = dataclasses.replace(PLAIN, scale=0.2, translate=0.2, flip=flip)
    box = jnp.array([[14.0, 18, 30, 38], [0, 0, 0, 0]])
    valid = jnp.array([True, False])
    keys = jax.random.split(jax.random.key(0), 40)
    augment = jax.jit(jax.vmap(augment_boxes, (0, None, None, None, None)), static_argnums=4)
    images, boxes, kept = augment(keys, square((14, 18, 30, 38)), box, valid, config)
    assert kept[:, 0].all() and not kept[:, 1].any()
    for image, result in zip(np.asarray(images), np.asarray(boxes[:, 0]), strict=True):
        # Beyond the border it is grey.
        rows, columns = np.nonzero(image[..., 0] > 0.6)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(result, seen, atol=1.0)
    assert len(np.unique(np.asarray(boxes[:, 0, 0]))) > 30


def test_objects_that_leave_the_image_are_forgotten():
    config = dataclasses.replace(PLAIN, translate=0.5, min_visible=0.5)
    boxes = jnp.array([[0.0, 0, 6, 6], [20, 20, 28, 28]])
    keys = jax.random.split(jax.random.key(1), 200)
    augment = jax.vmap(augment_boxes, (0, None, None, None, None))
    augment = jax.jit(augment, static_argnums=4)
    _, moved, kept = augment(keys, square((0, 0, 6, 6)), boxes, jnp.ones(2, bool), config)
    area = np.prod(np.asarray(moved[..., 2:] - moved[..., :2]), axis=-1)
    np.testing.assert_array_equal(kept, area >= np.array([18, 32]))
    assert 20 < kept[:, 0].sum() < 120 < kept[:, 1].sum()
    assert np.all((moved >= 0) & (moved <= SIZE))


def test_colours_change_and_stay_in_range_and_keys_decide():
    image = jax.random.uniform(jax.random.key(0), (16, 16, 3))
    boxes, valid = jnp.array([[1.0, 2, 5, 9]]), jnp.ones(1, bool)
    config = dataclasses.replace(PLAIN, hue=0.1, saturation=1.5, exposure=1.5)
    augment = jax.jit(augment_boxes, static_argnums=4)
    first, equal, kept = augment(jax.random.key(1), image, boxes, valid, config)
    again, _, _ = augment(jax.random.key(1), image, boxes, valid, config)
    other, _, _ = augment(jax.random.key(2), image, boxes, valid, config)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05 and np.abs(first - image).max() > 0.05
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(equal, boxes)
    assert kept.all()
    unchanged, _, _ = augment(jax.random.key(1), image, boxes, valid, PLAIN)
    np.testing.assert_array_equal(unchanged, image)


def test_hsv_equals_colorsys():
    import colorsys

    image = np.random.default_rng(0).random((6, 7, 3)).astype(np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 0.0, 1.0, [0.5, 0.5, 0.5]
    for saturation, value in ((1.0, 1.0), (1.5, 0.7), (0.6, 1.4), (0.0, 1.0)):
        expected = np.zeros_like(image)
        for row, column in np.ndindex(6, 7):
            h, s, v = colorsys.rgb_to_hsv(*image[row, column].tolist())
            expected[row, column] = colorsys.hsv_to_rgb(
                h, min(s * saturation, 1), min(v * value, 1)
            )
        np.testing.assert_allclose(
            adjust_hsv(jnp.asarray(image), saturation, value), expected, atol=1e-5
        )


def test_mirroring_twice_changes_nothing():
    boxes = jnp.array([[1.0, 2, 5, 9], [0, 0, 10, 3]])
    np.testing.assert_array_equal(flip_boxes(boxes, 10), [[5, 2, 9, 9], [0, 0, 10, 3]])
    np.testing.assert_array_equal(flip_boxes(flip_boxes(boxes, 10), 10), boxes)


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 1.0}, {"translate": -0.1}, {"hue": 0.6}, {"saturation": 0.5}, {"min_visible": 2.0}],
)
def test_bad_strengths_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"^{name} {value}: must be "):
        BoxAugmentation(**wrong)
