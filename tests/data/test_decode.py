"""Decoding against pixels made with NumPy, files written byte by byte, and OpenCV's decoders."""

import io
import os
import struct
import zlib
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn_jax.data import decode as decode_module
from cnn_jax.data.decode import decode, decode_scaled, read_header
from cnn_jax.data.image_files import describe_left_out, is_image, list_images
from cnn_jax.errors import UserError


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture without symmetry, kind to lossy formats."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 / (width - 1), y * 255 / (height - 1), 255 - x * 100 / (width - 1))
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(rows: np.ndarray, colour_type: int, depth: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG file from the bytes of its rows, written by the specification (ISO/IEC 15948)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, row_bytes = rows.shape
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = row_bytes * 8 // (samples * depth)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    unfiltered = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def big_endian(samples: np.ndarray) -> np.ndarray:
    """Rows of 16-bit samples as bytes."""
    return samples.astype(">u2").reshape(len(samples), -1).view(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_files_give_their_pixels(kind):
    pixels = gradient()
    image = decode(encoded(Image.fromarray(pixels), kind))
    np.testing.assert_array_equal(image, pixels)
    assert image.dtype == np.uint8


def test_lossless_webp_gives_its_pixels():
    pixels = gradient()
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(pixels), "WEBP", lossless=True)), pixels
    )


@pytest.mark.parametrize(
    "options",
    [{"quality": 95}, {"quality": 90, "progressive": True}, {"quality": 95, "subsampling": 0}],
)
def test_jpeg_agrees_with_opencv(options):
    file = encoded(Image.fromarray(gradient()), "JPEG", **options)
    reference = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(decode(file).astype(int), reference.astype(int), atol=2)


def test_lossy_webp_is_near_its_pixels():
    pixels = gradient()
    image = decode(encoded(Image.fromarray(pixels), "WEBP", quality=95))
    assert np.abs(image.astype(int) - pixels).mean() < 4


def test_a_path_reads_like_its_bytes(tmp_path):
    path = tmp_path / "picture with any name"
    path.write_bytes(encoded(Image.fromarray(gradient()), "PNG"))
    np.testing.assert_array_equal(decode(path), gradient())
    np.testing.assert_array_equal(decode(str(path)), gradient())


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_png_of_each_depth(depth):
    # One byte a row holds 8 / depth samples, the first in the highest bits.
    values = np.arange(8 // depth) % 2**depth
    row = sum(int(value) << (8 - depth * (i + 1)) for i, value in enumerate(values))
    image = decode(png(np.full((3, 1), row, np.uint8), 0, depth))
    grey = np.rint(values * 255.0 / (2**depth - 1))
    np.testing.assert_array_equal(image, np.broadcast_to(grey[None, :, None], (3, len(grey), 3)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_grey_files_become_rgb(kind):
    grey = gradient()[..., 0]
    image = decode(encoded(Image.fromarray(grey), kind))
    np.testing.assert_allclose(image.astype(int), np.repeat(grey[..., None], 3, -1), atol=3)


def test_palette_with_and_without_transparency():
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 100]], np.uint8)
    plain = png(indices, 3, 8, (b"PLTE", palette.tobytes()))
    np.testing.assert_array_equal(decode(plain), palette[indices])
    # The first colour is invisible, the second half seen, the third opaque by default.
    opacity = np.array([0, 51, 255]) / 255
    transparent = png(indices, 3, 8, (b"PLTE", palette.tobytes()), (b"tRNS", bytes([0, 51])))
    over_white = 255 * (1 - opacity[:, None]) + palette * opacity[:, None]
    np.testing.assert_allclose(decode(transparent).astype(float), over_white[indices], atol=1)


def test_a_transparent_colour_shows_white():
    pixels = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    key = struct.pack(">HHH", 10, 20, 30)
    image = decode(png(pixels.reshape(1, -1), 2, 8, (b"tRNS", key)))
    np.testing.assert_array_equal(image, [[[255, 255, 255], [40, 50, 60]]])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(kind):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 7, 4), np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = decode(encoded(Image.fromarray(pixels), kind, **options))
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(image.astype(float), expected, atol=1)


def test_grey_with_alpha():
    pixels = np.array([[100, 255, 100, 0, 100, 51]], np.uint8)
    image = decode(png(pixels, 4, 8))
    np.testing.assert_allclose(image[0, :, 0].astype(int), [100, 255, 224], atol=1)


@pytest.mark.parametrize("colour_type", [0, 2])
def test_sixteen_bits_are_scaled(colour_type):
    samples = np.linspace(0, 65535, 6 * 12 * 3).astype(np.uint16).reshape(6, 12, 3)
    if colour_type == 0:
        samples = samples[..., 2]
    image = decode(png(big_endian(samples), colour_type, 16)).astype(float)
    expected = samples / 257
    if colour_type == 0:
        np.testing.assert_array_equal(image, np.rint(expected)[..., None].repeat(3, -1))
    else:
        # Pillow keeps the high byte: within one level of the exact scale.
        np.testing.assert_allclose(image, expected, atol=1)
    assert image.max() == 255


def test_cmyk_jpeg_with_inverted_inks():
    # Flat colours, which JPEG keeps: cyan, magenta, yellow and black ink of 255 means full.
    inks = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [30, 60, 90, 120]], np.uint8)
    pixels = np.repeat(np.repeat(inks[None], 16, 0), 16, 1)
    file = encoded(Image.fromarray(pixels, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in file
    expected = (255 - inks[:, :3].astype(float)) * (255 - inks[:, 3:].astype(float)) / 255
    image = decode(file)
    np.testing.assert_allclose(image[8, 8::16], expected, atol=3)
    opencv = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(image[8, 8::16].astype(int), opencv[8, 8::16].astype(int), atol=3)


# EXIF 2.32, 4.6.4 A: where the stored image's first row and its first column are seen.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The raster of a camera that notes the orientation, pixel by pixel from the definition."""
    height, width = upright.shape[:2]
    first_row, first_column = ORIENTATIONS[orientation]
    turned = first_row in ("left", "right")
    stored = np.zeros((width, height, 3) if turned else upright.shape, np.uint8)
    for row in range(stored.shape[0]):
        for column in range(stored.shape[1]):
            place = {}
            for side, distance in ((first_row, row), (first_column, column)):
                place |= {
                    "top": {"y": distance},
                    "bottom": {"y": height - 1 - distance},
                    "left": {"x": distance},
                    "right": {"x": width - 1 - distance},
                }[side]
            stored[row, column] = upright[place["y"], place["x"]]
    return stored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_comes_upright(orientation, kind):
    upright = gradient(16, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
    stored = Image.fromarray(as_stored(upright, orientation))
    image = decode(encoded(stored, kind, exif=exif, **options))
    assert image.shape == upright.shape
    np.testing.assert_allclose(image.astype(int), upright, atol=0 if kind != "JPEG" else 12)


def test_damaged_exif_leaves_the_pixels():
    file = encoded(Image.fromarray(gradient()), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    np.testing.assert_array_equal(decode(file), gradient())


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(gradient()), Image.fromarray(gradient()[::-1].copy())]
    file = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(decode(file), gradient())


def test_draft_shrinks_large_jpegs_only():
    large = encoded(Image.fromarray(gradient(400, 640)), "JPEG")
    assert decode(large, draft_size=100).shape == (100, 160, 3)
    assert decode(large, draft_size=101).shape == (200, 320, 3)
    assert decode(large, draft_size=500).shape == (400, 640, 3)
    assert decode(large).shape == (400, 640, 3)
    whole = cv2.resize(gradient(400, 640), (160, 100), interpolation=cv2.INTER_AREA)
    difference = decode(large, draft_size=100).astype(int) - whole
    assert np.abs(difference).mean() < 2
    png_file = encoded(Image.fromarray(gradient(400, 640)), "PNG")
    assert decode(png_file, draft_size=100).shape == (400, 640, 3)


def photo(rng: np.random.Generator) -> bytes:
    """A JPEG file of one of the usual kinds."""
    pixels = gradient(*rng.integers(9, 70, 2).tolist())
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    options = {"quality": int(rng.integers(30, 96)), "progressive": bool(rng.integers(2))}
    if rng.integers(2):
        options["exif"] = exif
    if rng.integers(3) == 0:
        options["restart_marker_blocks"] = 2
    image = Image.fromarray(pixels if rng.integers(4) else pixels[..., 0])
    return encoded(image, "JPEG", **options)


def damaged(file: bytes, rng: np.random.Generator) -> bytes:
    """The file cut off, with other bits, or without a part or with one twice; perhaps unchanged."""
    first, last = sorted(rng.integers(1, len(file), 2).tolist())
    match rng.integers(6):
        case 0:
            return file[:last]
        case 1:
            data = bytearray(file)
            data[last] ^= 1 << int(rng.integers(8))
            return bytes(data)
        case 2:
            return file[:first] + file[last:]
        case 3:
            return file[:last] + file[first:]
        case 4:
            return file[:last] + b"\xff\xd9"
    return file


def test_the_fast_decoder_and_pillow_agree_on_pixels_and_refusals(monkeypatch):
    def outcomes():
        results = []
        for seed in range(600):
            rng = np.random.default_rng(seed)
            file, draft = damaged(photo(rng), rng), (None, 10, (5, 20))[rng.integers(3)]
            try:
                results.append(decode_scaled(file, draft_size=draft))
            except UserError:
                results.append(None)
        return results

    fast = Counter()
    usual = decode_module._decode_usual_jpeg

    def counted(content, draft_size):
        found = usual(content, draft_size)
        fast[found is not None] += 1
        return found

    monkeypatch.setattr(decode_module, "_decode_usual_jpeg", counted)
    ours = outcomes()
    monkeypatch.setattr(decode_module, "_decode_usual_jpeg", lambda *_: None)
    for mine, other in zip(ours, outcomes(), strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            assert mine[1] == other[1]
            np.testing.assert_array_equal(mine[0], other[0])
    assert fast[True] > 80 and fast[False] > 80


def problem(file, **options) -> str:
    """The message of a file that must not decode, which is one line."""
    with pytest.raises(UserError) as caught:
        decode(file, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_empty_file(tmp_path):
    path = tmp_path / "empty.jpg"
    path.write_bytes(b"")
    assert problem(path) == f"{path}: the file is empty (0 bytes), expected an image"


def test_text_named_as_an_image(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("This is not a picture.\n")
    message = problem(path)
    assert message.startswith(f"{path}: not an image (it holds text)")
    assert "JPEG" in message


def test_other_bytes():
    assert "no known format" in problem(b"\x00\x01\x02\x03" * 50, name="odd.png")


def test_missing_file_and_folder(tmp_path):
    assert str(tmp_path / "gone.jpg") in problem(tmp_path / "gone.jpg")
    assert "is a folder, not a file" in problem(tmp_path)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, kind in ((tmp_path / "pipe.png", "a named pipe"), ("/dev/zero", "a device")):
        for read in (decode, read_header):
            with pytest.raises(UserError, match=f"{path}: is {kind}, not a file"):
                read(path)
        assert not is_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@given(share=st.floats(0.05, 0.9))
@settings(max_examples=15, deadline=None)
def test_truncated_files_are_named(kind, share):
    file = encoded(Image.fromarray(gradient(64, 64)), kind)
    message = problem(file[: int(len(file) * share)], name="half.img")
    assert message.startswith("half.img: ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_damaged_bytes_give_pixels_or_one_line(kind, seed):
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind == "BMP" else {"exif": exif}
    file = np.frombuffer(encoded(Image.fromarray(gradient()), kind, **options), np.uint8).copy()
    places = rng.integers(0, len(file), rng.integers(1, 6))
    file[places] = rng.integers(0, 256, len(places))
    try:
        image = decode(file.tobytes(), name="damaged")
    except UserError as error:
        assert str(error).startswith("damaged: ") and "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.shape[2] == 3


def test_absurd_sizes_are_refused():
    # A header that promises 10 gigapixels, as a decompression bomb does.
    bomb = bytearray(png(np.zeros((1, 3), np.uint8), 2, 8))
    bomb[16:24] = struct.pack(">II", 100_000, 100_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    assert "too many pixels" in problem(bytes(bomb), name="bomb.png")


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "GIF", "JPEG2000"])
def test_further_formats_give_their_pixels(kind):
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:4, :6], pixels[4:, 6:] = (250, 0, 0), (0, 0, 250)
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), kind, **options)), pixels)


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_the_first_page_or_frame_is_used(kind):
    first, second = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    content = encoded(first, kind, save_all=True, append_images=[second])
    assert decode(content)[0, 0].tolist() == [255, 0, 0]


def test_pixels_without_a_known_range_are_refused():
    floats = Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))
    with pytest.raises(UserError, match="floating-point pixels have no known range"):
        decode(encoded(floats, "TIFF"))
    wide = Image.fromarray(np.full((3, 4), 70_000, np.int32))
    with pytest.raises(UserError, match="values beyond 16 bits"):
        decode(encoded(wide, "TIFF"))
    sixteen = Image.fromarray(np.full((3, 4), 65_535, np.int32))
    assert decode(encoded(sixteen, "TIFF")).min() == 255


def test_a_folders_images_are_known_by_ending_or_content(tmp_path):
    image = Image.new("RGB", (4, 4))
    image.save(tmp_path / "a.JFIF", "JPEG")
    image.save(tmp_path / "b", "PNG")
    image.save(tmp_path / "c.img", "TIFF")
    for name in ("notes.txt", "d.heic", "e.heic", "._a.jpg", "Thumbs.db"):
        (tmp_path / name).write_text("x")
    found = list_images(tmp_path)
    assert found.files == ["a.JFIF", "b", "c.img"]
    assert describe_left_out("D", found.left_out) == [
        "D: 3 files were left out, as no images: 2 .heic, 1 .txt"
    ]
    assert describe_left_out("D", list_images(tmp_path, "").left_out - found.left_out) == []
