"""Mask files: every kind of pixels that stands for classes, and how masks lie on their images."""

import io

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.decode import Header, decode
from cnn_jax.data.label_colors import LabelColors
from cnn_jax.data.mask_files import MaskFiles, classes_of, decode_mask, meaning_of, on_image, turned
from cnn_jax.data.source import Settings
from cnn_jax.errors import UserError

MASK = np.array([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 0, 2]], np.uint8)
COLORS = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
TABLE = LabelColors("the table", ("a", "b", "c"), COLORS, np.arange(3))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette_image(values, palette=(200, 10, 10, 10, 200, 10, 10, 10, 200)):
    image = Image.fromarray(values).convert("P")
    image.putpalette(list(palette))
    image.putdata(values.ravel().tolist())
    return image


def with_alpha(pixels, alpha=255):
    opaque = np.full((*pixels.shape[:2], 1), alpha, np.uint8)
    return np.concatenate([pixels.reshape(*pixels.shape[:2], -1), opaque], -1)


GREY = np.repeat(MASK[..., None], 3, -1)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(MASK)),
        encoded(Image.fromarray(MASK), "BMP"),
        encoded(Image.fromarray(MASK), "TIFF"),
        encoded(Image.fromarray(MASK), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(MASK), "GIF"),
        encoded(Image.fromarray(MASK), "PPM"),
        encoded(palette_image(MASK)),
        encoded(palette_image(MASK), "TIFF"),
        encoded(Image.fromarray(MASK.astype(np.uint16))),
        encoded(Image.fromarray(MASK.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(MASK.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(GREY)),
        encoded(Image.fromarray(GREY), "WEBP", lossless=True),
        encoded(Image.fromarray(with_alpha(GREY))),
        encoded(Image.fromarray(with_alpha(MASK))),
    ],
    ids=range(15),
)
def test_values_of_every_kind_of_file(content):
    np.testing.assert_array_equal(decode_mask(content, "m"), MASK)


def test_black_and_white_and_the_first_frame():
    bits = encoded(Image.fromarray(MASK == 1))
    np.testing.assert_array_equal(decode_mask(bits, "m"), MASK == 1)
    first, second = (palette_image(mask, COLORS.ravel()) for mask in (MASK, MASK[::-1]))
    frames = encoded(first, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode_mask(frames, "m", TABLE), MASK)


def test_gif_files_number_their_colours_anew():
    values = np.array([[0, 7, 255], [200, 0, 7]], np.uint8)
    grey = encoded(Image.fromarray(values), "GIF")
    np.testing.assert_array_equal(decode_mask(grey, "m"), values)
    without_the_second = np.where(MASK == 1, 2, MASK)
    colored = encoded(palette_image(without_the_second, COLORS.ravel()), "GIF")
    np.testing.assert_array_equal(decode_mask(colored, "m", TABLE), without_the_second)
    with pytest.raises(UserError, match=r"m: a coloured mask \(colours 70 80 90"):
        decode_mask(colored, "m")


@pytest.mark.parametrize("alpha", [False, True])
def test_colours(alpha):
    pixels = with_alpha(COLORS[MASK]) if alpha else COLORS[MASK]
    np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(pixels)), "m", TABLE), MASK)
    # A palette counts by its indices, with a table too.
    np.testing.assert_array_equal(decode_mask(encoded(palette_image(MASK)), "m", TABLE), MASK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(Image.fromarray(COLORS[MASK])),
         r"m: a coloured mask \(colours 10 20 30 \(5 pixels\), .*\); `label_colors` must say"),
        (encoded(Image.fromarray(with_alpha(GREY, 90))), r"m: a mask with transparent pixels"),
        (encoded(Image.fromarray(MASK), "JPEG"), "m: a mask in JPEG, which changes the values"),
        (encoded(Image.fromarray(GREY), "WEBP"), "m: a mask in WEBP, which changes the values"),
        (encoded(Image.fromarray(GREY).convert("CMYK"), "TIFF"), "of 4 channels"),
        (encoded(Image.fromarray(MASK + np.float32(0.5)), "TIFF"), "no whole numbers from 0"),
        (encoded(Image.fromarray(np.full((1, 1), np.nan, np.float32)), "TIFF"), "no whole numbers"),
        (b"", r"m: the mask cannot be read \(not an image\)"),
        (b"\x89PNG\r\n\x1a\n damaged", "m: "),
        (encoded(Image.fromarray(MASK))[:50], "m: damaged mask"),
    ],
    ids=range(10),
)  # fmt: skip
def test_masks_that_cannot_be_meant(content, message):
    with pytest.raises(UserError, match=message) as caught:
        decode_mask(content, "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_become_classes(dtype):
    meaning = meaning_of(3, Settings(label_values=(7, 0, 255), ignore_labels=(9,)))
    raw = np.array([[7, 0, 255, 9]], dtype)
    assert classes_of(raw, meaning, "m", 3).tolist() == [[0, 1, 2, 255]]
    raw[0, 2] = 30000 if dtype != np.uint8 else 30
    with pytest.raises(UserError, match=f"m: value {raw[0, 2]} at row 0, column 2 is none"):
        classes_of(raw, meaning, "m", 3)


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [
        (256, {}, "masks of 256 classes; they can have 255 at most"),
        (2, {"label_values": (3, 3)}, "label_values 3 3: each value stands for one class"),
        (2, {"label_values": (3, 4), "ignore_labels": (4,)}, "ignore_labels 4: is one of"),
        (1, {"label_values": (70000,)}, "label 70000: masks hold values from 0 to 65535"),
    ],
)
def test_values_that_cannot_be_meant(classes, given, message):
    with pytest.raises(UserError, match=message):
        meaning_of(classes, Settings(**given))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_as_images_do(orientation):
    image = Image.fromarray(np.repeat(MASK[..., None] * 100, 3, -1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(encoded(image, exif=exif))[..., 0] // 100
    np.testing.assert_array_equal(turned(MASK, orientation), upright)
    height, width = upright.shape
    header = Header(height, width, orientation)
    # Drawn on the upright image, a mask stays as it is.
    found, done = on_image(upright, header, 1, "m")
    np.testing.assert_array_equal(found, upright)
    assert done == ""
    # Of the stored size, it is turned with the image.
    if orientation >= 5:
        found, done = on_image(MASK, header, 1, "m")
        np.testing.assert_array_equal(found, upright)
        assert done == "turned"
    # A mask that says itself how it is turned, and one into which this was only copied.
    np.testing.assert_array_equal(on_image(MASK, header, orientation, "m")[0], upright)
    if orientation >= 5:
        np.testing.assert_array_equal(on_image(upright, header, orientation, "m")[0], upright)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_masks_whose_files_say_how_they_are_turned(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    content = encoded(Image.fromarray(MASK), kind, **options)
    upright = decode(content)[..., 0]
    np.testing.assert_array_equal(turned(MASK, orientation), upright)
    files = MaskFiles(("a", "b", "c"), meaning_of(3, Settings()))
    mask, done = files.read(content, Header(*upright.shape, 1), "m")
    np.testing.assert_array_equal(mask, upright)
    assert done == ""


def test_masks_of_another_size():
    large = np.kron(MASK, np.ones((4, 4), np.uint8))
    found, done = on_image(MASK, Header(12, 16, 1), 1, "m")
    np.testing.assert_array_equal(found, large)
    assert done == "scaled"
    np.testing.assert_array_equal(on_image(large, Header(3, 4, 1), 1, "m")[0], MASK)
    found, done = on_image(np.rot90(MASK), Header(12, 16, 6), 1, "m")
    np.testing.assert_array_equal(found, large)
    assert done == "turned and scaled"
    for size, orientation in (((12, 17), 1), ((4, 3), 1), ((3, 5), 6), ((30, 41), 1)):
        with pytest.raises(UserError, match=f"m: the mask has 3 x 4 pixels, its image {size[0]} x"):
            on_image(MASK, Header(*size, orientation), 1, "m")


def test_nearly_square_masks_are_turned_rather_than_scaled():
    mask = np.zeros((200, 199), np.uint8)
    mask[0] = 1
    found, done = on_image(mask, Header(199, 200, 6), 1, "m")
    assert done == "turned" and (found[:, -1] == 1).all() and found.sum() == 199
