"""The built-in scenes: what they say of themselves is what is drawn."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import data
from cnn_jax.data.formats.shapes import CLASS_NAMES, Scene, scene
from cnn_jax.errors import UserError

seeds = st.integers(0, 2**40)
indices = st.integers(0, 10**9)


def assert_same(first: Scene, second: Scene) -> None:
    for name in ("image", "boxes", "classes", "instances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def differs(first: Scene, second: Scene) -> bool:
    return bool((first.image != second.image).any())


@given(seed=seeds, index=indices, size=st.sampled_from([16, 33, 64]))
@settings(max_examples=8, deadline=None)
def test_a_scene_is_a_function_of_seed_split_and_index(seed, index, size):
    drawn = scene(seed, index, size, objects=(1, 4))
    assert_same(drawn, scene(seed, index, size, objects=(1, 4)))
    assert differs(drawn, scene(seed + 1, index, size, objects=(1, 4)))
    assert differs(drawn, scene(seed, index + 1, size, objects=(1, 4)))
    assert differs(drawn, scene(seed, index, size, split="eval", objects=(1, 4)))
    assert differs(drawn, scene(seed, index, size, split="test", objects=(1, 4)))


@given(seed=seeds, index=indices, objects=st.integers(1, 8), size=st.integers(16, 96))
@settings(max_examples=25, deadline=None)
def test_what_a_scene_says_is_consistent(seed, index, objects, size):
    drawn = scene(seed, index, size, objects=(objects, objects))
    count = len(drawn.classes)
    assert 1 <= count <= objects
    assert drawn.image.shape == (size, size, 3)
    assert drawn.boxes.shape == (count, 4)
    assert set(np.unique(drawn.instances)) <= set(range(count + 1))
    x1, y1, x2, y2 = drawn.boxes.T
    assert (x1 < x2).all() and (y1 < y2).all()
    # Whole objects lie in the picture, give or take a rounding.
    assert drawn.boxes.min() >= -1e-3 and drawn.boxes.max() <= size + 1e-3
    np.testing.assert_array_equal(
        drawn.tags, [kind in drawn.classes for kind in range(len(CLASS_NAMES))]
    )
    sides = drawn.boxes[:, 2:] - drawn.boxes[:, :2]
    assert drawn.label == drawn.classes[np.argmax(sides[:, 0] * sides[:, 1])]
    for number, kind in enumerate(drawn.classes, start=1):
        np.testing.assert_array_equal(drawn.mask[drawn.instances == number], np.uint8(kind + 1))
    assert not drawn.mask[drawn.instances == 0].any()


@pytest.mark.parametrize("index", range(40))
def test_boxes_fit_the_visible_pixels(index):
    # With nothing in the way, the pixels of an object reach the edges of its box.
    drawn = scene(3, index, 96, clutter=(0, 0))
    rows, columns = np.nonzero(drawn.instances)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # A sharp corner covers less than half of its last pixels.
    np.testing.assert_allclose(drawn.boxes[0], seen, atol=3)
    assert np.abs(drawn.boxes[0] - seen).min() < 1


def test_masks_are_the_shapes():
    """Areas, holes and convexity of each class, measured by OpenCV, against geometry."""
    # The share of its convex hull that each shape fills, and its number of holes.
    solidity = {
        "arrow": (0.6, 0.8),
        "circle": (0.96, 1.0),
        "crescent": (0.55, 0.75),
        "cross": (0.65, 0.85),
        "heart": (0.85, 0.97),
        "hexagon": (0.95, 1.0),
        "ring": (0.65, 0.75),
        "square": (0.95, 1.0),
        "star": (0.45, 0.65),
        "triangle": (0.93, 1.0),
    }
    met = set()
    for index in range(60):
        drawn = scene(5, index, 128, clutter=(0, 0))
        mask = drawn.instances.astype(np.uint8)
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        name = CLASS_NAMES[drawn.label]
        holes = sum(parent >= 0 for *_, parent in tree[0])
        assert holes == (name == "ring")
        outer = next(c for c, (*_, parent) in zip(contours, tree[0], strict=True) if parent < 0)
        filled = np.zeros_like(mask)
        cv2.fillConvexPoly(filled, cv2.convexHull(outer), 1)
        low, high = solidity[name]
        assert low - 0.02 <= mask.sum() / filled.sum() <= high, name
        met.add(name)
    assert met == set(CLASS_NAMES)


def test_an_object_stands_out_from_its_surroundings():
    contrasts = []
    for index in range(60):
        drawn = scene(1, index, 64, clutter=(0, 0))
        grey = cv2.cvtColor(drawn.image, cv2.COLOR_RGB2GRAY).astype(float)
        inside = drawn.instances > 0
        contrasts.append(abs(grey[inside].mean() - grey[~inside].mean()))
    assert np.median(contrasts) > 60
    assert min(contrasts) > 15


def test_colour_does_not_tell_the_class():
    colours, labels = [], []
    for index in range(400):
        drawn = scene(2, index, 32)
        colours.append(drawn.image[drawn.instances > 0].mean(axis=0))
        labels.append(drawn.label)
    colours, labels = np.array(colours), np.array(labels)
    # Nearest mean colour of the first half, told of the second: about as good as guessing.
    means = np.stack([colours[:200][labels[:200] == k].mean(axis=0) for k in range(10)])
    guesses = np.argmin(((colours[200:, None] - means) ** 2).sum(-1), axis=1)
    assert (guesses == labels[200:]).mean() < 0.25


def test_classes_are_equally_frequent():
    counts = np.bincount([scene(0, index, 16).label for index in range(600)], minlength=10)
    # Within four standard deviations of 60.
    assert np.abs(counts - 60).max() < 4 * np.sqrt(60)


def test_several_objects_share_the_room():
    drawn = [scene(0, index, 128, objects=(3, 6)) for index in range(60)]
    assert np.mean([len(each.classes) for each in drawn]) > 3
    for each in drawn:
        for number in range(1, len(each.classes) + 1):
            x1, y1, x2, y2 = each.boxes[number - 1]
            # Half of what the thinnest shape shows of its box.
            assert (each.instances == number).sum() > 0.12 * (x2 - x1) * (y2 - y1)


def test_the_source_of_a_classifier():
    source = data.open_source("shapes", "train", seed=4, image_size=48)
    assert isinstance(source, data.Source)
    assert source.class_names == CLASS_NAMES
    assert len(source) == 50_000
    assert source.describe(17) == "shapes train[17]"
    example = source[17]
    np.testing.assert_array_equal(example["image"], scene(4, 17, 48).image)
    assert example["label"] == scene(4, 17, 48).label
    assert example["label"].dtype == np.int32
    # There are more scenes than one epoch holds.
    assert source[10**7]["image"].shape == (48, 48, 3)


def test_splits_share_no_scene():
    sources = [
        data.open_source("shapes", split, image_size=16) for split in ("train", "eval", "test")
    ]
    assert [len(source) for source in sources] == [50_000, 2_000, 2_000]
    pictures = [{source[i]["image"].tobytes() for i in range(50)} for source in sources]
    assert len(set().union(*pictures)) == 150


def test_bad_requests():
    with pytest.raises(UserError, match="--image-size 15: shapes needs at least 16 pixels"):
        data.open_source("shapes", "train", image_size=15)
    with pytest.raises(UserError, match="--data shapes:3"):
        data.open_source("shapes:3", "train")
    with pytest.raises(UserError, match="--holdout-groups"):
        data.open_source("shapes", "train", holdout_groups="(.)")
