"""Folders of masks: splits, classes, the checks before a run, the weights of classes, tiles."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data.surveys.masks import median_frequency, survey
from cnn_jax.data.tiles import Tiles, window
from cnn_jax.data.transforms import MaskTransform
from cnn_jax.errors import UserError


def write(root, name, mask, image=None, ending=".jpg"):
    """An image (grey as its mask) and its mask below images/ and labels/."""
    mask = np.asarray(mask, np.uint8)
    if image is None:
        image = np.repeat(mask[..., None], 3, axis=-1)
    for folder, pixels, suffix in (("images", image, ending), ("labels", mask, ".png")):
        path = root / folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def open_masks(root, split="train", **settings):
    return data.open_source(f"masks:{root}", split, formats=data.MASK_FORMATS, **settings)


def names(source):
    return [source.describe(i).split("images/")[1] for i in range(len(source))]


@pytest.fixture
def folder(tmp_path):
    for split, number in (("train", 3), ("val", 1), ("test", 2)):
        for i in range(number):
            write(tmp_path, f"{split}/{i}", [[0, 1, 2], [2, 255, i % 2]])
    return tmp_path


def test_splits_and_examples(folder):
    assert [len(open_masks(folder, split)) for split in ("train", "eval", "test")] == [3, 1, 2]
    source = open_masks(folder)
    assert source.class_names == ("class 0", "class 1", "class 2")
    example = source[1]
    np.testing.assert_array_equal(example["mask"], [[0, 1, 2], [2, 255, 1]])
    assert example["image"].shape == (2, 3, 3)
    assert source.size(1) == (2, 3)


def test_without_val_the_test_images_are_evaluated(tmp_path):
    for name in ("train/a", "test/b"):
        write(tmp_path, name, [[0, 1]])
    assert names(open_masks(tmp_path, "eval")) == names(open_masks(tmp_path, "test"))


def test_folders_that_are_held_out_by_name(tmp_path):
    for tile in range(1, 5):
        for part in range(2):
            write(tmp_path, f"tile_{tile}/{part}", [[0, 1]])
    settings = {"eval_folders": ("tile_2",), "test_folders": ("tile_4", "tile_3")}
    sources = {
        split: open_masks(tmp_path, split, **settings) for split in ("train", "eval", "test")
    }
    assert {name[:6] for name in names(sources["train"])} == {"tile_1"}
    assert {name[:6] for name in names(sources["eval"])} == {"tile_2"}
    assert {name[:6] for name in names(sources["test"])} == {"tile_3", "tile_4"}
    only = open_masks(tmp_path, "test", eval_folders=("tile_2",))
    assert {name[:6] for name in names(only)} == {"tile_2"}
    with pytest.raises(UserError, match=r"--eval-folders tile_9: no folder .*tile_1, tile_2"):
        open_masks(tmp_path, eval_folders=("tile_9",))


def test_a_share_is_held_out_where_nothing_says_which(tmp_path):
    for i in range(20):
        write(tmp_path, f"{i:02}", [[0, 1]])
    train, held_out = (names(open_masks(tmp_path, s)) for s in ("train", "eval"))
    assert len(held_out) == 2
    assert sorted(train + held_out) == [f"{i:02}.jpg" for i in range(20)]


def test_names_of_the_classes(folder):
    (folder / "classes.txt").write_text("sky\nroad\n\ncar\n")
    assert open_masks(folder).class_names == ("sky", "road", "car")
    assert open_masks(folder, class_names=("a", "b", "c", "d")).class_names == tuple("abcd")


def test_values_that_stand_for_classes_or_for_nothing(tmp_path):
    write(tmp_path, "train/a", [[0, 255, 11]])
    write(tmp_path, "val/a", [[255, 0, 0]])
    source = open_masks(tmp_path, label_values=(0, 255), ignore_labels=(11,))
    np.testing.assert_array_equal(source[0]["mask"], [[0, 1, 255]])
    assert source.class_names == ("0", "255")
    with pytest.raises(UserError, match=r"2 values for 3 classes"):
        open_masks(tmp_path, label_values=(0, 255), class_names=("a", "b", "c"))


def test_binary_masks_of_0_and_255_are_not_taken_for_ignored(tmp_path):
    write(tmp_path, "train/a", [[0, 255]])
    write(tmp_path, "val/a", [[0, 255]])
    with pytest.raises(UserError, match="--label-values 0 255"):
        open_masks(tmp_path)


def test_palettes_and_16_bits_are_read_as_they_are(tmp_path):
    write(tmp_path, "train/a", [[0, 1]])
    write(tmp_path, "val/a", [[0, 1]])
    palette = Image.fromarray(np.array([[1, 0]], np.uint8), "L").convert("P")
    palette.putdata([1, 0])
    palette.save(tmp_path / "labels/train/a.png")
    Image.fromarray(np.array([[300, 1]], np.uint16)).save(tmp_path / "labels/val/a.png")
    np.testing.assert_array_equal(open_masks(tmp_path)[0]["mask"], [[1, 0]])
    with pytest.raises(UserError, match=r"val/a\.png: value 300 at row 0, column 0"):
        open_masks(tmp_path, "eval", class_names=("a", "b"))[0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0, 7, 1]], np.uint8), r"bad\.png: value 7 at row 0, column 1 .*3 classes"),
        (np.zeros((1, 3, 3), np.uint8), r"bad\.png: a mask of 3 channels \(RGB\)"),
        (np.zeros((1, 4), np.uint8), r"bad\.png: the mask has 1 x 4 pixels, its image 1 x 3"),
        (b"", r"bad\.png: the mask cannot be read"),
        (b"\x89PNG\r\n\x1a\n damaged", r"bad\.png"),
    ],
)
def test_masks_are_checked_before_a_run(tmp_path, mask, message):
    for name in ("a", "b", "bad"):
        write(tmp_path, f"train/{name}", [[0, 1, 2]])
    write(tmp_path, "val/a", [[0, 1, 2]])
    path = tmp_path / "labels/train/bad.png"
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    else:
        Image.fromarray(mask).save(path)
    source = open_masks(tmp_path, class_names=("x", "y", "z"))
    with pytest.raises(UserError, match=message):
        survey(source)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("masks:", "lacks a folder"),
        ("masks:/nowhere", "no folder /nowhere/images"),
        ("mask:x", r"unknown format 'mask'; did you mean masks\?"),
    ],
)
def test_mistakes_in_the_data_spec(argument, message):
    with pytest.raises(UserError, match=message):
        data.open_source(argument, "train", formats=data.MASK_FORMATS)


def test_an_image_without_a_mask_is_named(folder):
    (folder / "labels/train/1.png").unlink()
    with pytest.raises(UserError, match=r"images/train/1\.jpg: no mask .*labels/train/1\.png"):
        open_masks(folder)


def test_survey_counts_pixels_and_median_frequency_is_eigen_and_fergus(tmp_path):
    write(tmp_path, "train/a", [[0, 0, 0, 1]])
    write(tmp_path, "train/b", [[0, 0, 255, 255]])
    write(tmp_path, "train/c", [[2, 2, 1, 0]])
    write(tmp_path, "val/a", [[0, 1, 2, 0]])
    counts = survey(open_masks(tmp_path))
    np.testing.assert_array_equal(counts, [[3, 1, 0], [2, 0, 0], [1, 1, 2]])
    # Class 0: 6 of the 10 pixels of its images, class 1: 2 of 8, class 2: 2 of 4.
    expected = 0.5 / np.array([6 / 10, 2 / 8, 2 / 4])
    np.testing.assert_allclose(median_frequency(counts, "abc"), expected)
    with pytest.raises(UserError, match="no training mask has the class 'd'"):
        median_frequency(np.pad(counts, ((0, 0), (0, 1))), "abcd")


def test_shapes_have_masks():
    source = data.open_source("shapes", "train", image_size=32, formats=data.MASK_FORMATS)
    example = source[3]
    assert example["image"].shape == (32, 32, 3)
    np.testing.assert_array_equal(example["mask"], source.mask(3))
    assert source.class_names[0] == "background"
    assert len(source.class_names) == 11
    counts = survey(source, most=200)
    assert counts.shape == (200, 11)
    assert (counts.sum(axis=0) > 0).all()


def test_tiles_cover_every_pixel_once_with_their_surroundings(tmp_path):
    mask = np.arange(7 * 10).reshape(7, 10)
    write(tmp_path, "train/a", mask, ending=".png")
    write(tmp_path, "val/a", mask, ending=".png")
    source = open_masks(tmp_path)
    tiles = Tiles(source, 4, margin=3)
    assert len(tiles) == 6
    joined = np.full((8, 12), 255)
    mirrored = np.pad(mask, ((3, 4), (3, 5)), mode="reflect")
    for i in range(6):
        top, left = i // 3 * 4, i % 3 * 4
        example = tiles[i]
        joined[top : top + 4, left : left + 4] = example["mask"]
        # An image's pixel is as its mask's: in the tile's middle, and around it.
        expected = mirrored[top : top + 10, left : left + 10]
        np.testing.assert_array_equal(example["image"][..., 0], expected)
        assert f"[{top}:{top + 4}, {left}:{left + 4}]" in tiles.describe(i)
    np.testing.assert_array_equal(joined[:7, :10], mask)
    assert (joined[7:] == 255).all()
    assert (joined[:, 10:] == 255).all()


def test_windows_larger_than_the_image_mirror_it_again_and_again():
    image = np.arange(3)[:, None]
    seen = window(image, 0, 0, 3, 1, margin=5)[:, 0]
    np.testing.assert_array_equal(seen, np.pad(np.arange(3), 5, mode="reflect"))


def test_transform_resizes_both_and_adds_margin_and_weights():
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:] = 1
    image = np.repeat(mask[..., None] * 200, 3, axis=-1)
    example = MaskTransform((4, 6), margin=2, border=(10.0, 5.0), resized=True)(
        {"image": image, "mask": mask}
    )
    np.testing.assert_array_equal(example["mask"], [[0, 0, 0, 1, 1, 1]] * 4)
    assert example["image"].shape == (8, 10, 3)
    np.testing.assert_array_equal(example["weight"], 1)
    with pytest.raises(UserError, match=r"8 x 12 pixels among those of 4 x 6: give --image-shape"):
        MaskTransform((4, 6))({"image": image, "mask": mask})
