"""Images of 16 bits a channel: read as they are, resized, shown, and seen by the network."""

import io
import struct
import zlib

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from cnn_jax.data import resize
from cnn_jax.data.decode import as_rgb, bits, decode, decode_scaled, read_header
from cnn_jax.data.deep import decode_deep, widened
from cnn_jax.data.image_reading import Reading
from cnn_jax.data.surveys.images import notices
from cnn_jax.errors import UserError
from cnn_jax.tasks.images import floating, levels

RNG = np.random.default_rng(0)
GREY, RGB, RGBA = (RNG.integers(0, 65536, (20, 30, n)).astype(np.uint16) for n in (1, 3, 4))


def by_opencv(pixels, kind="png"):
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]
    return cv2.imencode(f".{kind}", pixels[..., order])[1].tobytes()


def tiff(pixels, photometric="rgb", **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels.squeeze(), photometric=photometric, **options)
    return file.getvalue()


def planes(pixels, photometric="rgb", **options):
    return tiff(np.moveaxis(pixels, 2, 0), photometric, planarconfig="separate", **options)


def contiguous(pixels, photometric):
    return tiff(pixels, photometric, planarconfig="contig")


def netpbm(pixels, maximum):
    kind = b"P6" if pixels.shape[2] == 3 else b"P5"
    head = b"%s\n%d %d\n%d\n" % (kind, *pixels.shape[1::-1], maximum)
    return head + pixels.astype(">u2").tobytes()


def deep(content, channels=3):
    return decode_deep(content, name="photo", channels=channels)[0]


FILES = {
    "grey PNG": (by_opencv(GREY), GREY),
    "grey TIFF": (tiff(GREY, "minisblack"), GREY),
    "compressed grey TIFF": (by_opencv(GREY, "tiff"), GREY),
    "grey PGM": (netpbm(GREY, 65535), GREY),
    "RGB PNG": (by_opencv(RGB), RGB),
    "RGB TIFF": (tiff(RGB), RGB),
    "compressed RGB TIFF": (by_opencv(RGB, "tiff"), RGB),
    "RGB TIFF in planes": (planes(RGB), RGB),
    "big-endian RGB TIFF": (tiff(RGB, byteorder=">"), RGB),
    "PPM": (netpbm(RGB, 65535), RGB),
    "plain PPM": (b"P3 30 20 65535 " + b" ".join(b"%d" % v for v in RGB.ravel()), RGB),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_low_byte_reaches_the_network(kind):
    content, expected = FILES[kind]
    assert bits(io.BytesIO(content)) == 16
    pixels = deep(content, expected.shape[2])
    np.testing.assert_array_equal(pixels, expected)
    # XLA multiplies by the reciprocal of the divisor: the last bit may differ.
    seen = np.asarray(floating(jnp.asarray(pixels)))
    np.testing.assert_array_max_ulp(seen, expected.astype(np.float32) / np.float32(65535))
    # In colours too, and with the byte that is read of it where 8 bits are.
    colored = np.broadcast_to(expected, RGB.shape)
    np.testing.assert_array_equal(deep(content), colored)
    if "planes" in kind:
        for channels in (3, 4):
            with pytest.raises(UserError, match="in planes; a run with --bits 16 reads it"):
                decode(content, channels=channels)
    else:
        assert np.abs(decode(content).astype(int) - as_rgb(deep(content))).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_8_bits_are_the_same_to_the_network(kind, channels):
    file = io.BytesIO()
    Image.fromarray((RGB >> 8).astype(np.uint8)).save(file, kind)
    eight, scale = decode_scaled(file.getvalue(), draft_size=10, channels=channels)
    sixteen, same = decode_deep(file.getvalue(), draft_size=10, channels=channels)
    assert sixteen.dtype == np.uint16 and scale == same
    np.testing.assert_array_equal(sixteen, eight.astype(int) * 257)
    seen = [np.asarray(floating(jnp.asarray(pixels))) for pixels in (eight, sixteen)]
    np.testing.assert_array_max_ulp(*seen, maxulp=2)
    np.testing.assert_array_max_ulp(
        np.asarray(levels(jnp.asarray(sixteen))), eight.astype(np.float32)
    )
    np.testing.assert_array_equal(as_rgb(sixteen), as_rgb(eight))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey PNG", "RGB PNG", "RGB TIFF", "grey TIFF", "planes"])
def test_pixels_are_turned_upright_as_those_of_8_bits(kind, orientation):
    if kind.endswith("PNG"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = FILES[kind][0]
        content = content[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + content[33:]
    else:
        tag = {"extratags": [(274, "H", 1, orientation, True)]}
        pixels, photometric = (GREY, "minisblack") if kind == "grey TIFF" else (RGB, "rgb")
        content = (planes if kind == "planes" else tiff)(pixels, photometric, **tag)
    found = deep(content)
    header = read_header(content)
    assert (header.height, header.width) == found.shape[:2]
    stored = np.broadcast_to(GREY if "grey" in kind else RGB, RGB.shape)
    # As Pillow turns the picture of 8 bits.
    shown = decode(of_8_bits(stored, orientation))
    np.testing.assert_array_equal(as_rgb(found), shown)


def of_8_bits(pixels, orientation):
    """A PNG file of the same picture."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(as_rgb(pixels)).save(file, "PNG", exif=exif)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_grey_is_the_luma_of_colours():
    expected = RGB @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(deep(FILES["RGB PNG"][0], 1)[..., 0], expected, atol=1.5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparent_pixels_lie_over_white_or_opacity_is_the_fourth_channel(kind):
    content = by_opencv(RGBA) if kind == "PNG" else tiff(RGBA, extrasamples=["UNASSALPHA"])
    share = RGBA[..., 3:] / 65535
    expected = RGBA[..., :3] * share + 65535 * (1 - share)
    np.testing.assert_allclose(deep(content), expected, atol=0.51)
    np.testing.assert_array_equal(deep(content, 4), RGBA)
    if kind == "TIFF":
        applied = np.rint(RGBA[..., :3] * share).astype(np.uint16)
        stored = tiff(np.dstack([applied, RGBA[..., 3]]), extrasamples=["ASSOCALPHA"])
        np.testing.assert_allclose(deep(stored), expected, atol=1.01)
        other = tiff(RGBA, extrasamples=["UNSPECIFIED"])
        np.testing.assert_array_equal(deep(other), RGBA[..., :3])


@pytest.mark.parametrize("bands", [2, 4, 6])
@pytest.mark.parametrize("write", [contiguous, planes])
def test_bands_of_tiff_files_keep_their_16_bits(bands, write):
    pixels = RNG.integers(0, 65536, (20, 30, bands)).astype(np.uint16)
    content = write(pixels, "minisblack")
    np.testing.assert_array_equal(deep(content, bands), pixels)
    content = write(pixels.astype(np.uint8), "minisblack")
    np.testing.assert_array_equal(deep(content, bands), widened(pixels.astype(np.uint8)))


def test_other_maxima_are_scaled_to_16_bits():
    low = RGB % np.uint16(4096)
    expected = np.rint(low * (65535 / 4095))
    np.testing.assert_array_equal(deep(netpbm(low, 4095)), expected)
    np.testing.assert_array_equal(deep(netpbm(low[..., :1], 4095), 1), expected[..., :1])


def jpeg2000(pixels):
    return by_opencv(pixels.repeat(8, 0).repeat(8, 1), "jp2")


def test_grey_jpeg_2000_is_read_and_its_colours_are_refused():
    grey, colors = jpeg2000(GREY), jpeg2000(RGB)
    assert bits(io.BytesIO(grey)) == bits(io.BytesIO(colors)) == 16
    assert bits(io.BytesIO(jpeg2000(RGB.astype(np.uint8)))) == 8
    with Image.open(io.BytesIO(grey)) as image:
        np.testing.assert_array_equal(deep(grey, 1)[..., 0], np.asarray(image))
    with pytest.raises(UserError, match="photo: colours of more than 8 bits in JPEG2000 are not"):
        deep(colors)


@pytest.mark.parametrize(
    ("content", "channels", "message"),
    [
        (by_opencv(RGB), 4, "photo: has 3 channels, not the 4 of --channels"),
        (by_opencv(RGB)[:2000], 3, "photo: damaged image"),
        (tiff(RGB)[:2000], 3, "photo: damaged image"),
        (by_opencv(GREY)[:500], 1, "photo: damaged image"),
        (b"", 3, "photo: the file is empty"),
        (b"hello", 3, "photo: not an image"),
        (planes(RGBA, "separated"), 3, "4 bands that are not RGB; .* a run with --channels 4"),
        (tiff(GREY.astype(np.float32), "minisblack"), 1, "floating-point pixels"),
    ],
    ids=["bands", "cut PNG", "cut TIFF", "cut grey", "empty", "text", "inks", "floats"],
)
def test_what_cannot_be_read_is_told_in_a_line(content, channels, message):
    with pytest.raises(UserError, match=message) as error:
        deep(content, channels)
    assert "\n" not in str(error.value)


def test_bands_of_16_bits_name_the_flag_that_reads_them():
    content = contiguous(RGBA, "minisblack")
    with pytest.raises(UserError, match="photo: bands of 16 bits; a run with --bits 16 reads them"):
        decode(content, name="photo", channels=4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(11, 17), (40, 23)])
def test_16_bits_are_resized_as_8_are_and_finer(size, channels, interpolation):
    # No value is near an end, where Pillow cuts off what bicubic filters overshoot.
    eight = RNG.integers(100, 150, (20, 30, channels)).astype(np.uint8)
    found = resize.resize(widened(eight), size, interpolation)
    assert found.dtype == np.uint16 and found.shape == (*size, channels)
    # Pillow rounds 8 bits after each of two passes.
    assert np.abs(found / 257 - resize.resize(eight, size, interpolation)).max() <= 1.5
    canvas = resize.to_canvas(widened(eight), size)
    assert canvas.dtype == np.uint16 and canvas.shape == (*size, channels)
    assert np.abs(canvas / 257 - resize.to_canvas(eight, size)).max() <= 1.5
    assert (found % 257).any() and (canvas % 257).any()
    assert resize.ten_crop(found, 8).dtype == resize.center_crop(found, 64).dtype == np.uint16


def test_a_difference_of_a_low_byte_survives_resizing():
    pixels = np.full((64, 64, 3), 1000, np.uint16)
    pixels[:, :32] += np.uint16(9)
    for resized in (resize.resize(pixels, (16, 16)), resize.to_canvas(pixels, (16, 16))):
        assert (resized[:, :7] == 1009).all() and (resized[:, 9:] == 1000).all()


def test_a_source_that_keeps_16_bits_tells_nothing_of_scaling(tmp_path):
    class Files:
        class_names = ("a",)
        files = (str(tmp_path / "deep.png"),)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"image": Reading(bits=16).decode(self.files[index])}

        def describe(self, index):
            return self.files[index]

    cv2.imwrite(Files.files[0], GREY)
    assert "scaled to 8" in " ".join(notices(Files(), Files()))
    assert "scaled to 8" not in " ".join(notices(Files(), Files(), read_bits=16))
    assert Files()[0]["image"].dtype == Reading(bits=16).dtype == np.uint16
