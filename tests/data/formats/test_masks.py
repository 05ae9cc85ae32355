"""Folders of masks: splits, classes, the checks before a run, the weights of classes, tiles."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cnn_jax import data
from cnn_jax.data.label_colors import voc_colors
from cnn_jax.data.source import find_bad_images
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
        (np.eye(3, dtype=np.uint8)[None], r"bad\.png: a coloured mask .*`label_colors` must say"),
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


@pytest.mark.parametrize(
    ("images", "labels", "training", "validation"),
    [
        ("Images", "Labels", "Train", "Validation"),
        ("images", "masks", "train", "val"),
        ("imgs", "Annotations", "training", "test"),
        ("images", "labels", "train2017", "val2017"),
    ],
)
@pytest.mark.parametrize("split_first", [False, True])
def test_folders_by_any_of_their_usual_names(
    tmp_path, images, labels, training, validation, split_first
):
    for split, value in ((training, 1), (validation, 2)):
        for folder, pixels in ((images, (0, 5)), (labels, (0, value))):
            place = (split, folder) if split_first else (folder, split)
            path = tmp_path.joinpath(*place, "a.png")
            path.parent.mkdir(parents=True)
            Image.fromarray(np.array([pixels], np.uint8)).save(path)
    for split, value in (("train", 1), ("eval", 2), ("test", 2)):
        source = open_masks(tmp_path, split, class_names=("x", "y", "z"))
        assert source.notices == ()
        (example,) = (source[i] for i in range(len(source)))
        np.testing.assert_array_equal(example["mask"], [[0, value]])
        assert example["image"].tolist() == [[[0, 0, 0], [5, 5, 5]]]


def test_the_split_of_images_and_masks_may_be_written_differently(tmp_path):
    write(tmp_path, "Train/a", [[0, 1]])
    write(tmp_path, "valid/b", [[0, 1]])
    (tmp_path / "labels/Train").rename(tmp_path / "labels/training")
    assert names(open_masks(tmp_path)) == ["Train/a.jpg"]
    assert names(open_masks(tmp_path, "eval")) == ["valid/b.jpg"]


def test_what_is_left_out_is_told(folder):
    write(folder, "extra/b", [[0, 1]])
    for name in ("images/a.txt", "images/train/._0.jpg", "labels/train/Thumbs.db"):
        (folder / name).write_text("no image")
    Image.new("L", (3, 2)).save(folder / "labels/train/lone.png")
    assert len(open_masks(folder)) == 3
    assert open_masks(folder).notices == (
        f"{folder}/images: 1 image was left out, beside the folders of splits (the first: "
        "extra/b.jpg)",
        f"{folder}/images: 1 file was left out, as no images: 1 .txt",
        f"{folder}: 1 mask was left out, as no image has the name (the first: "
        "labels/train/lone.png)",
    )


@pytest.mark.parametrize("ending", [".tif", ".gif", ".bmp", ".ppm", ".PNG", ".webp"])
def test_masks_in_every_lossless_format(folder, ending):
    path = folder / "labels/train/1.png"
    with Image.open(path) as image:
        options = {"lossless": True} if ending == ".webp" else {}
        image.save(folder / f"labels/train/1{ending}", **options)
    path.unlink()
    np.testing.assert_array_equal(open_masks(folder)[1]["mask"], [[0, 1, 2], [2, 255, 1]])


def test_masks_in_jpeg_are_refused_by_name_unless_others_lie_beside_them(folder):
    path = folder / "labels/train/1.png"
    with Image.open(path) as image:
        image.save(folder / "labels/train/1.jpg")
    assert len(open_masks(folder)) == 3
    path.unlink()
    with pytest.raises(UserError, match=r"labels/train/1\.jpg: a mask in \.jpg, which changes"):
        open_masks(folder)
    for ending in ("png", "bmp"):
        Image.new("L", (3, 2)).save(folder / f"labels/train/1.{ending}")
    with pytest.raises(UserError, match=r"images/train/1\.jpg: two masks for this image, .*1\.bmp"):
        open_masks(folder)


def test_splits_that_are_missing_or_ambiguous(tmp_path):
    write(tmp_path, "test/a", [[0, 1]])
    assert names(open_masks(tmp_path, "eval", class_names=("x", "y"))) == ["test/a.jpg"]
    with pytest.raises(UserError, match="images: leaves no images for the split 'train'"):
        open_masks(tmp_path)
    write(tmp_path, "paris/a", [[0, 1]])
    with pytest.raises(UserError, match=r"test/ is called like a split, but paris/a\.jpg lies"):
        open_masks(tmp_path)
    assert len(open_masks(tmp_path, test_folders=("test",))) == 1


@pytest.mark.parametrize("text", ["\ufeffsky\nroad\n\n", "sky\rroad\r", "sky\r\nroad"])
def test_the_file_of_classes_in_any_form(tmp_path, text):
    write(tmp_path, "train/a", [[0, 1]])
    (tmp_path / "classes.txt").write_text(text, newline="", encoding="utf-8")
    assert open_masks(tmp_path).class_names == ("sky", "road")


def test_classes_that_only_evaluation_lacks_or_has(tmp_path):
    write(tmp_path, "train/a", [[0, 1, 2]])
    write(tmp_path, "val/a", [[0, 2, 2]])
    source = open_masks(tmp_path, "eval")
    assert source.class_names == ("class 0", "class 1", "class 2")
    np.testing.assert_array_equal(survey(source), [[1, 0, 2]])
    write(tmp_path, "val/a", [[0, 3, 2]])
    with pytest.raises(UserError, match=r"val/a\.png: value 3 at row 0, column 1 is none of the 3"):
        survey(open_masks(tmp_path, "eval"))
    write(tmp_path, "train/a", [[0, 0, 0]])
    with pytest.raises(UserError, match="hold only the value 0, so there is nothing to tell apart"):
        open_masks(tmp_path)
    with pytest.raises(UserError, match="the names of the classes must differ: a, a"):
        open_masks(tmp_path, class_names=("a", "a"))


TABLE = "name,r,g,b\nvoid,0,0,0\nroad,128,64,128\nsky,70,130,180\n"


def colored(root, name, mask, ending=".jpg"):
    """An image and its mask in the colours of TABLE."""
    write(root, name, mask, ending=ending)
    colors = np.array([[0, 0, 0], [128, 64, 128], [70, 130, 180], [1, 2, 3]], np.uint8)
    Image.fromarray(colors[np.asarray(mask)]).save(root / f"labels/{name}.png")


@pytest.mark.parametrize("given", [False, True])
def test_masks_in_the_colours_of_a_table(tmp_path, given):
    colored(tmp_path, "train/a", [[0, 1, 2]])
    colored(tmp_path, "val/a", [[2, 2, 0]])
    (tmp_path / ("other.txt" if given else "class_dict.csv")).write_text(TABLE)
    settings = {"label_colors": str(tmp_path / "other.txt")} if given else {}
    source = open_masks(tmp_path, **settings)
    assert source.class_names == ("void", "road", "sky")
    np.testing.assert_array_equal(source[0]["mask"], [[0, 1, 2]])
    source = open_masks(tmp_path, "eval", ignore_labels=(0,), **settings)
    np.testing.assert_array_equal(source[0]["mask"], [[2, 2, 255]])
    source = open_masks(tmp_path, label_values=(2, 1), ignore_labels=(0,), **settings)
    assert source.class_names == ("sky", "road")
    np.testing.assert_array_equal(source[0]["mask"], [[255, 1, 0]])
    assert open_masks(tmp_path, class_names=("a", "b", "c"), **settings).class_names == tuple("abc")
    colored(tmp_path, "val/a", [[3, 2, 3]])
    with pytest.raises(UserError, match=r"val/a\.png: colour 1 2 3 \(2 pixels\) is none of the 3"):
        survey(open_masks(tmp_path, "eval", **settings))


def test_masks_in_the_colours_of_voc(tmp_path):
    write(tmp_path, "train/a", [[0, 1, 2]])
    pixels = np.array([[[128, 0, 0], [0, 0, 0], [224, 224, 192]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "labels/train/a.png")
    source = open_masks(tmp_path, label_colors="voc")
    assert source.class_names[:2] == ("background", "aeroplane") and len(source.class_names) == 21
    np.testing.assert_array_equal(source[0]["mask"], [[1, 0, 255]])
    assert open_masks(tmp_path, label_colors="voc", class_names=("a", "b")).class_names == (
        "a",
        "b",
    )
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        open_masks(tmp_path, label_colors="nowhere")
    with pytest.raises(UserError, match=r"a\.png: a coloured mask \(colours 0 0 0 \(1 pixel\), "):
        open_masks(tmp_path)


def test_masks_that_do_not_lie_on_their_images_are_fitted_and_told(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[0, 0] = 1
    for name in ("a", "b", "c"):
        write(tmp_path, f"train/{name}", mask)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "images/train/b.jpg", exif=exif)
    Image.new("RGB", (16, 12)).save(tmp_path / "images/train/c.jpg")
    source = open_masks(tmp_path, holdout_fraction=0.0)
    assert source.notices == ()
    for i in range(3):
        example = source[i]
        assert example["mask"].shape == example["image"].shape[:2] == source.size(i)
    np.testing.assert_array_equal(source.mask(1), np.rot90(mask, -1))
    np.testing.assert_array_equal(source.mask(2), np.kron(mask, np.ones((2, 2), np.uint8)))
    assert source.notices == (
        f"1 mask was scaled to the image's size (the first: {tmp_path}/labels/train/c.png)",
        f"1 mask was turned as EXIF turns the image (the first: {tmp_path}/labels/train/b.png)",
    )


@given(
    mask=arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)
    ),
    form=st.sampled_from(["index", "palette", "grey", "colours", "voc", "16 bits"]),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory, mask, form):
    root = tmp_path_factory.mktemp("masks")
    write(root, "train/a", mask, ending=".png")
    palette = voc_colors(4).colors[:4] if form == "voc" else np.arange(12).reshape(4, 3)
    settings = {"class_names": ("a", "b", "c", "d")}
    if form in ("colours", "voc"):
        image = Image.fromarray(palette.astype(np.uint8)[mask])
        settings["label_colors"] = "voc" if form == "voc" else str(root / "t")
        lines = [" ".join(map(str, color)) + f" {i}th" for i, color in enumerate(palette.tolist())]
        (root / "t").write_text("\n".join(lines))
    elif form == "palette":
        image = Image.fromarray(mask).convert("P")
        image.putpalette(palette.ravel().tolist())
        image.putdata(mask.ravel().tolist())
    elif form == "grey":
        image = Image.fromarray(np.repeat(mask[..., None], 3, -1))
    else:
        image = Image.fromarray(mask.astype(np.uint16) if form == "16 bits" else mask)
    image.save(root / "labels/train/a.png")
    np.testing.assert_array_equal(open_masks(root, **settings)[0]["mask"], mask)


def test_missing_and_bad_masks_are_left_out_where_that_is_asked_for(folder):
    (folder / "labels/train/1.png").unlink()
    (folder / "labels/train/2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no mask .*labels/train/1\.png"):
        open_masks(folder)
    source = open_masks(folder, keep_bad_images=True)
    assert len(source) == 3 and source.class_names == ("class 0", "class 1", "class 2")
    assert list(find_bad_images(source)) == [1, 2]
    tags = data.open_source(
        f"masks:{folder}", "train", formats=data.TAG_FORMATS, patch_size=2, keep_bad_images=True
    )
    assert len(tags) == 1 and tags.notices[0].startswith("2 of 3 images left out (the first: ")


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
