"""Boxes onto the decoded picture: found again by the pixels that they surround."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn_jax.data.decode import Header, decode, read_header
from cnn_jax.data.formats.boxes import StatedImage, settle
from cnn_jax.data.formats.frames import fit, turn
from cnn_jax.errors import UserError

STORED = (30, 48)
BOX = (5, 3, 20, 14)
ORIENTATIONS = range(1, 9)


def photo(path, orientation, size=STORED, box=BOX):
    """A white box on black, drawn on the pixels as stored."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def seen(path):
    """The box around what is white in the upright picture."""
    rows, columns = np.nonzero(decode(path)[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def annotated(path, box, size, area=None):
    return StatedImage(
        str(path), "boxes.xml", np.array([box], np.float64), np.zeros(1, np.int32),
        lambda number: f"boxes.xml:{number}", size,
        area=None if area is None else np.array([area], np.float64),
    )  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_are_turned_as_the_pixels_are(tmp_path, orientation):
    path = photo(tmp_path / "a.png", orientation)
    turned = turn(np.array([BOX], np.float64), STORED, orientation)
    np.testing.assert_array_equal(turned, [seen(path)])
    assert read_header(path) == Header(*decode(path).shape[:2], orientation)
    assert read_header(path).stored == STORED


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_stated_size_tells_which_picture_is_meant(tmp_path, orientation):
    path = photo(tmp_path / "a.png", orientation)
    upright = [float(value) for value in seen(path)]
    images, notices = settle([annotated(path, BOX, STORED)])
    np.testing.assert_array_equal(images[0].boxes, [upright])
    assert len(notices) == 1 and "turned with the picture" in notices[0] and "a.png" in notices[0]
    images, notices = settle([annotated(path, upright, STORED[::-1])])
    np.testing.assert_array_equal(images[0].boxes, [upright])
    assert notices == []


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("factor", [0.5, 2, 10, 1.37])
def test_boxes_of_a_resized_copy_are_scaled(tmp_path, orientation, factor):
    path = photo(tmp_path / "a.png", orientation)
    size = tuple(round(side * factor) for side in STORED)
    x, y = size[1] / STORED[1], size[0] / STORED[0]
    box = [BOX[0] * x, BOX[1] * y, BOX[2] * x, BOX[3] * y]
    expected = turn(np.array([BOX], np.float64), STORED, orientation)
    if orientation in (2, 3, 4):  # the sizes do not tell: as of the upright picture
        expected = np.array([BOX], np.float64)
    images, notices = settle([annotated(path, box, size, 100 * x * y)])
    np.testing.assert_allclose(images[0].boxes, expected)
    np.testing.assert_allclose(images[0].area, [100])
    assert f"a.png has {read_header(path).width} x" in notices[-1] and "scaled" in notices[-1]


def test_boxes_of_another_image_are_refused_with_both_sizes(tmp_path):
    path = photo(tmp_path / "a.png", 1)
    with pytest.raises(UserError) as caught:
        settle([annotated(path, BOX, (48, 30))])
    assert str(caught.value) == (
        f"boxes.xml: its size is 30 x 48, but {path} has 48 x 30: are these the boxes of another "
        "image?"
    )
    for wrong in ((30, 60), (3000, 30), (1e300, 1e300 / 3)):
        assert fit(wrong, read_header(path)) is None


def test_without_objects_no_size_matters(tmp_path):
    item = StatedImage(
        str(photo(tmp_path / "a.png", 1)), "x", np.zeros((0, 4)), np.zeros(0, np.int32), str, (9, 1)
    )
    assert settle([item])[1] == []


def test_the_other_images_tell_where_a_size_does_not(tmp_path):
    """A photo that lies on its head has one size before and after, as has a square one."""
    head = annotated(photo(tmp_path / "head.png", 3), BOX, STORED)
    square = annotated(photo(tmp_path / "square.png", 6, (48, 48)), BOX, (48, 48))
    images, notices = settle([head, square])
    for image in images:
        np.testing.assert_array_equal(image.boxes, [BOX])
    assert len(notices) == 1 and "2 images" in notices[0] and "shown upright" in notices[0]
    told = annotated(photo(tmp_path / "told.png", 8), BOX, STORED)
    images, notices = settle([head, square, told])
    for image in images:
        np.testing.assert_array_equal(image.boxes, [seen(image.path)])
    assert "before EXIF turns it" in notices[1]
    upright = annotated(photo(tmp_path / "upright.png", 8), (3, 5, 9, 9), STORED[::-1])
    images, _ = settle([head, square, told, upright])
    np.testing.assert_array_equal(images[0].boxes, [BOX])


def test_without_a_stated_size_boxes_are_of_the_upright_picture(tmp_path):
    images, notices = settle([annotated(photo(tmp_path / "a.png", 6), (3, 5, 9, 9), None)])
    np.testing.assert_array_equal(images[0].boxes, [(3, 5, 9, 9)])
    assert "shown upright" in notices[0]
    assert settle([annotated(photo(tmp_path / "b.png", 1), (3, 5, 9, 9), None)])[1] == []


side = st.integers(1, 4000)


@settings(max_examples=200, deadline=None)
@given(height=side, width=side, factor=st.floats(0.05, 20))
def test_any_resized_copy_fits(height, width, factor):
    copy = max(round(height * factor), 1), max(round(width * factor), 1)
    if min(height, width, *copy) < 2:
        return
    found = fit(copy, Header(height, width, 1))
    assert found is not None and found.turned is False
    np.testing.assert_allclose(found.upright, (width / copy[1], height / copy[0]))


@settings(max_examples=100, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    corners=st.tuples(*[st.integers(0, 30)] * 4),
)
def test_turned_boxes_keep_their_area_and_lie_in_the_picture(orientation, corners):
    x1, y1, x2, y2 = corners
    box = np.array([[x1, y1, x2 + x1, y2 + y1]], np.float64)
    turned = turn(box, (60, 70), orientation)
    assert np.prod(turned[:, 2:] - turned[:, :2]) == x2 * y2
    header = Header(*((60, 70) if orientation < 5 else (70, 60)), orientation)
    assert np.all((turned >= 0) & (turned <= [header.width, header.height] * 2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "PPM"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_headers_agree_with_decoding_in_every_format(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    Image.new("RGB", (48, 30)).save(path, kind, exif=exif)
    header = read_header(path)
    assert (header.height, header.width) == decode(path).shape[:2]
    if kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
        assert header.orientation == orientation
