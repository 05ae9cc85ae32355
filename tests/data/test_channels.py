"""Images of other channels than red, green and blue: decoded, resized and shown."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import resize
from cnn_jax.data.decode import as_rgb, bits, decode, decode_scaled, read_header
from cnn_jax.data.surveys.images import deep
from cnn_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY, RGB, RGBA = (RNG.integers(0, 256, (20, 30, n)).astype(np.uint8) for n in (1, 3, 4))


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_grey_files_keep_their_values(kind):
    np.testing.assert_array_equal(decode(encoded(GREY, kind), channels=1), GREY)


def test_colours_become_their_luma():
    expected = np.asarray(Image.fromarray(RGB).convert("L"))[..., None]
    np.testing.assert_array_equal(decode(encoded(RGB), channels=1), expected)
    opaque = RGBA.copy()
    opaque[..., 3] = 0
    # Transparent pixels are white, as in RGB.
    assert (decode(encoded(opaque), channels=1) == 255).all()


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
def test_jpeg_may_be_decoded_smaller_in_grey(pixels):
    content = encoded(pixels.repeat(8, 0).repeat(8, 1), "JPEG")
    small, scale = decode_scaled(content, draft_size=20, channels=1)
    assert small.shape == (20, 30, 1) and scale == 8
    coloured = decode(content, draft_size=20)
    expected = np.asarray(Image.fromarray(coloured).convert("L"))[..., None]
    np.testing.assert_array_equal(small, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_opacity_is_the_fourth_channel(kind):
    np.testing.assert_array_equal(decode(encoded(RGBA, kind), channels=4), RGBA)


def test_bands_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(RGBA, exif=exif), channels=4)
    np.testing.assert_array_equal(turned, np.rot90(RGBA, -1))


@pytest.mark.parametrize(
    ("content", "channels", "message"),
    [
        (encoded(RGB), 4, "photo: has 3 channels, not the 4 of --channels"),
        (encoded(GREY, "TIFF"), 5, "photo: has 1 channels, not the 5 of --channels"),
        (encoded(RGBA), 2, "photo: has 4 channels, not the 2 of --channels"),
        (b"hello", 4, "photo: not an image"),
        (encoded(RGBA)[:200], 4, "photo: damaged image"),
    ],
    ids=["colours", "grey", "opacity", "text", "cut"],
)
def test_other_numbers_of_bands_are_refused_in_a_line(content, channels, message):
    with pytest.raises(UserError, match=message):
        decode(content, name="photo", channels=channels)


@pytest.mark.parametrize("bands", [2, 4, 6])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_bands_of_tiff_files_are_read_as_they_are(bands, planes):
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 256, (20, 30, bands)).astype(np.uint8)
    stored = pixels if planes == "contig" else np.moveaxis(pixels, 2, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="minisblack", planarconfig=planes)
    np.testing.assert_array_equal(decode(file.getvalue(), channels=bands), pixels)
    header = read_header(file.getvalue())
    assert (header.height, header.width) == (20, 30)


@pytest.mark.parametrize(
    ("field", "message"), [("SamplesPerPixel", "photo: damaged image .*277"), ("Software", None)]
)
def test_a_damaged_field_of_a_tiff_file_is_told_only_where_it_is_about_the_pixels(
    field, message, capfd
):
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 256, (20, 30, 6)).astype(np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    file.seek(0)
    with tifffile.TiffFile(file) as parsed:
        place = parsed.pages[0].tags[field].offset
    content = bytearray(file.getvalue())
    content[place + 2 : place + 4] = (516).to_bytes(2, "little")
    if message is None:
        np.testing.assert_array_equal(decode(bytes(content), channels=6), pixels)
    else:
        with pytest.raises(UserError, match=message):
            decode(bytes(content), name="photo", channels=6)
    assert not capfd.readouterr().err


def test_files_of_16_bits_are_known(tmp_path):
    deep = (GREY[..., 0].astype(np.uint16) * 257).repeat(2, axis=1)
    colours = np.stack([deep] * 3, axis=2)
    for kind, expected in (("png", 16), ("tif", 16)):
        for name, pixels in (("grey", deep), ("colour", colours)):
            path = tmp_path / f"{name}.{kind}"
            cv2.imwrite(str(path), pixels)
            assert bits(path) == expected
            cv2.imwrite(str(path), (pixels >> 8).astype(np.uint8))
            assert bits(path) == 8
    path = tmp_path / "grey.jpg"
    path.write_bytes(encoded(GREY, "JPEG"))
    assert bits(path) == 8 and bits(tmp_path / "missing") == 8


def test_that_16_bits_are_scaled_is_told(tmp_path):
    class Files:
        class_names = ("a",)
        files = (str(tmp_path / "deep.png"),)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise AssertionError("no pixels are read")

        def describe(self, index):
            return self.files[index]

    cv2.imwrite(Files.files[0], GREY.astype(np.uint16) * 257)
    (line,) = deep(Files())
    assert line == (
        f"data: images of 16 bits a channel ({tmp_path}/deep.png) are scaled to 8; --bits 16 reads "
        "them as they are"
    )
    cv2.imwrite(Files.files[0], GREY)
    assert deep(Files()) == []


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
@pytest.mark.parametrize("size", [(11, 17), (40, 23)])
def test_bands_are_resized_one_by_one(bands, size):
    pixels = RNG.integers(0, 256, (20, 30, bands)).astype(np.uint8)
    for resized in (resize.resize, resize.to_canvas):
        found = resized(pixels, size)
        assert found.shape == (*size, bands)
        for band in range(bands):
            alone = resized(pixels[..., [band] * 3], size)
            # OpenCV rounds other numbers of channels by other instructions.
            difference = found[..., band].astype(int) - alone[..., 0]
            assert np.abs(difference).max() <= (resized is resize.to_canvas)
    assert resize.center_crop(pixels, 32).shape == (32, 32, bands)
    assert resize.ten_crop(pixels, 16).shape == (10, 16, 16, bands)


def test_pictures_show_grey_or_the_first_three_bands():
    assert as_rgb(RGB) is RGB
    np.testing.assert_array_equal(as_rgb(GREY), GREY.repeat(3, axis=2))
    np.testing.assert_array_equal(as_rgb(RGBA), RGBA[..., :3])
    np.testing.assert_array_equal(as_rgb(RGBA[..., :2]), RGBA[..., :1].repeat(3, axis=2))
    assert as_rgb(np.stack([RGBA, RGBA])).shape == (2, 20, 30, 3)
