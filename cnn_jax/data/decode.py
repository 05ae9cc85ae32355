"""The decoding of image files to RGB, or to the bands that they have.

Pillow reads all formats and decides what is damaged. JPEG that is in no way unusual is decoded by
simplejpeg, to the same pixels in about half the time: both are libjpeg-turbo.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
from jaxtyping import UInt, UInt8, UInt16
from PIL import Image

from cnn_jax.data import tiff
from cnn_jax.errors import UserError
from cnn_jax.reading import MIB, read_bytes, require_file

READ = "JPEG, PNG, WebP, BMP, TIFF, PPM, GIF, JPEG 2000 or AVIF"
"""The formats that are read, in words."""

MOST_IMAGE_BYTES = 512 * MIB

DraftSize = int | tuple[int, int]
"""The least rows and columns of an image that is decoded at a part of its size; one number stands
for both."""

Pixels8 = UInt8[np.ndarray, "height width channels"]
Pixels16 = UInt16[np.ndarray, "height width channels"]
Pixels = Pixels8 | Pixels16

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_SCANS = 0xDA  # the marker before the pixels
_JPEG_METADATA = 0xE1  # that of EXIF and of XMP
_JPEG_SCALES = (8, 4, 2)  # those that are computed fast, and that Pillow knows too

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")

# What turns pixels upright, by their EXIF orientation (EXIF 2.32, 4.6.4 A).
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
ORIENTATION_TAG = 0x0112
_PNG_DEPTH = 24  # the place of the depth in a PNG file
_JPEG2000_SIZES = b"\xff\x4f\xff\x51"  # before the sizes and the depth in a JPEG 2000 file
_JPEG2000_DEPTH = 38  # the place of the depth after these bytes
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")

# PNG's chunks that may hold an orientation, and how a text among them begins.
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_PROFILES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


def decode(
    file: bytes | str | os.PathLike[str],
    *,
    name: str | None = None,
    draft_size: DraftSize | None = None,
    channels: int = 3,
) -> Pixels8:
    """Decode an image file to the 8-bit RGB image that a viewer shows, or to other channels.

    The formats are those of `READ`; the content decides, not the name. Grey, black-and-white and
    palette images become RGB. Transparent images are composited over white. CMYK is converted
    without a colour profile, JPEG's inverted inks included. 16 bits are scaled to 8 (see
    `cnn_jax.data.deep` for images of 16). An EXIF (or
    XMP) orientation is applied. The first frame or page is used. Colour profiles are not applied.

    One channel is the grey of that image (ITU-R 601-2); grey files keep their values. Any other
    number is that of the file's own bands, as they are: red, green, blue and opacity of a file with
    colours and transparency, or the bands of a TIFF file, which tifffile reads where Pillow cannot.

    Args:
        file: the file's content, or its path.
        name: the file's name in messages; the path by default.
        draft_size: the least size in pixels down to which JPEG's own scaling (1/2, 1/4, 1/8) may
            shrink the image; None decodes at full size.
        channels: the number of channels.

    Returns:
        The upright pixels.

    Raises:
        UserError: the file cannot be read, or is empty, truncated, damaged, too large or not an
            image, or its pixels have no known range (floating-point or 32-bit numbers above
            65535), or it has not the number of bands; the message begins with its name.
    """
    return decode_scaled(file, name=name, draft_size=draft_size, channels=channels)[0]


def decode_scaled(
    file: bytes | str | os.PathLike[str],
    *,
    name: str | None = None,
    draft_size: DraftSize | None = None,
    channels: int = 3,
) -> tuple[Pixels8, int]:
    """Decode as `decode`; return the pixels, and by which factor they are fewer on each side.

    A side that the factor does not divide is rounded up: the last pixel lies partly outside.
    """
    content, name = read_content(file, name)
    if channels not in (1, 3):
        bands = decode_bands(content, name, channels)
        if bands.dtype != np.uint8:
            raise UserError(f"{name}: bands of 16 bits; a run with --bits 16 reads them")
        return bands, 1
    pixels, scale = _decode_colors(content, name, draft_size)
    if channels == 1:
        pixels = as_grey(pixels)
    return pixels, scale


def read_content(
    file: bytes | str | os.PathLike[str], name: str | None = None
) -> tuple[bytes, str]:
    """Read an image file; return its content, and its name in messages.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    if isinstance(file, bytes):
        content, name = file, name or "image"
    else:
        name = name or os.fspath(file)
        content = read_bytes(file, MOST_IMAGE_BYTES)
    if not content:
        raise UserError(f"{name}: the file is empty (0 bytes), expected an image")
    return content, name


def _decode_colors(
    content: bytes, name: str, draft_size: DraftSize | None
) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """Decode the RGB image that a viewer shows; see `decode_scaled`."""
    decoded = _decode_usual_jpeg(content, draft_size)
    if decoded is not None:
        return decoded
    with refused(content, name), open_image(BytesIO(content)) as image:
        scale = 1
        if draft_size is not None:
            rows, columns = _stored(draft_size, orientation_of(image))
            whole = image.size
            image.draft(None, (columns, rows))
            scale = next(
                scale
                for scale in (1, *reversed(_JPEG_SCALES))
                if image.size == tuple(-(-side // scale) for side in whole)
            )
        tiff.require_no_deep_planes(image, name)
        image.load()
        return upright(np.asarray(_to_rgb(image)), orientation_of(image)), scale


@contextlib.contextmanager
def refused(content: bytes, name: str) -> Iterator[None]:
    """Turn what decoders raise into a line about the file.

    Raises:
        UserError: it is damaged, too large or no image.
    """
    try:
        yield
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"{name}: not an image ({_looks_like(content)}), expected {READ}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: too many pixels to decode safely, shrink the image") from None
    except MemoryError:
        raise
    except Exception as error:
        # On arbitrary bytes the decoders raise almost any exception, from OSError to SyntaxError
        # and struct.error. For the user each means that this file is damaged.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: damaged image ({reason})") from error


def decode_bands(content: bytes, name: str, channels: int) -> Pixels:
    """Decode the bands of an image as they are stored; a TIFF file may have 16 bits for each.

    It is turned upright, but for a TIFF file whose bands Pillow cannot read.

    Raises:
        UserError: as `decode`.
    """
    stored = channels
    with refused(content, name):
        try:
            with open_image(BytesIO(content)) as image:
                if image.format == "TIFF":
                    stored = image.tag_v2.get(tiff.SAMPLES_TAG, 1)
                tiff.require_no_deep_planes(image, name)
                image.load()
                if image.has_transparency_data and channels == 4:
                    image = image.convert("RGBA")
                found = upright(np.asarray(image), orientation_of(image))
        except Image.UnidentifiedImageError:
            if content[:4] not in tiff.STARTS:
                raise
            found = tiff.bands(content, name)
        if _bands(found) != channels == stored and content[:4] in tiff.STARTS:
            # Of more than four bands Pillow leaves some out.
            found = tiff.bands(content, name)
    require_bands(found, name, channels)
    if found.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name}: pixels of {found.dtype}; bands of 8 or 16 bits are read")
    return found


def require_bands(pixels: np.ndarray, name: str, channels: int) -> None:
    """Refuse an image of another number of bands."""
    if _bands(pixels) != channels:
        raise UserError(f"{name}: has {_bands(pixels)} channels, not the {channels} of --channels")


def _bands(pixels: np.ndarray) -> int:
    return pixels.shape[2] if pixels.ndim == 3 else 1


def as_rgb(
    image: UInt[np.ndarray, "*rows height width channels"],
) -> UInt8[np.ndarray, "*rows height width 3"]:
    """Show an image of any channels as a picture: its first three, or its first one in grey.

    16 bits are scaled to 8.
    """
    if image.dtype == np.uint16:
        image = narrowed(image)
    if image.shape[-1] == 3:
        return image
    shown = image[..., :3] if image.shape[-1] > 3 else np.repeat(image[..., :1], 3, axis=-1)
    return np.ascontiguousarray(shown)


def as_grey(
    image: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "height width 1"]:
    """Compute the grey of an RGB image (ITU-R 601-2)."""
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def _decode_usual_jpeg(
    content: bytes, draft_size: DraftSize | None
) -> tuple[UInt8[np.ndarray, "height width 3"], int] | None:
    """Decode a JPEG file in colour or grey that has no flaw; None for what else there is.

    Whether a flaw matters is left to Pillow.
    """
    if not (content.startswith(_JPEG_START) and content.endswith(_JPEG_END)):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        most = Image.MAX_IMAGE_PIXELS
        if colors not in ("YCbCr", "Gray") or (most is not None and height * width > most):
            return None
        orientation = _jpeg_orientation(content)
        if orientation is None:
            return None
        scale, least = 1, {}
        if draft_size is not None:
            rows, columns = _stored(draft_size, orientation)
            fits = min(height // rows, width // columns)
            scale = next((scale for scale in _JPEG_SCALES if scale <= fits), 1)
        if scale > 1:
            least = {
                "min_height": -(-height // scale),
                "min_width": -(-width // scale),
                "min_factor": scale,
            }
        pixels = simplejpeg.decode_jpeg(content, "RGB", **least)
    except ValueError:  # a flaw, of which there are many kinds
        return None
    if orientation != 1:
        pixels = upright(pixels, orientation)
    return pixels, scale


def _jpeg_orientation(content: bytes) -> int | None:
    """The orientation in the header of a JPEG file; None if the header's parts do not fit."""
    place = 2
    while content[place : place + 1] == b"\xff":
        marker = content[place + 1]
        if marker == _JPEG_SCANS:
            return 1
        if marker == _JPEG_METADATA:
            try:
                with open_image(BytesIO(content)) as image:
                    return orientation_of(image)
            except Exception:  # see `decode_scaled`
                return None
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None


def _stored(size: DraftSize, orientation: int) -> tuple[int, int]:
    """Rows and columns of the stored pixels that become a size when they are turned upright."""
    rows, columns = (size, size) if isinstance(size, int) else size
    return (columns, rows) if orientation >= 5 else (rows, columns)


@dataclass(frozen=True)
class Header:
    """The size and the orientation of an image file, from its header.

    Attributes:
        height, width: rows and columns of the upright image, which `decode` gives.
        orientation: EXIF's number from 1 to 8: how the stored pixels are turned upright.
    """

    height: int
    width: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the upright image."""
        return self.height, self.width

    @property
    def stored(self) -> tuple[int, int]:
        """Rows and columns of the pixels before they are turned upright."""
        swapped = self.orientation >= 5
        return (self.width, self.height) if swapped else (self.height, self.width)


def read_header(file: bytes | str | os.PathLike[str], *, name: str | None = None) -> Header:
    """Read the size and the orientation of an image as `decode` gives it, without its pixels.

    Raises:
        UserError: the file cannot be read, or is no image; as `decode`.
    """
    try:
        with open_image(BytesIO(file) if isinstance(file, bytes) else file) as image:
            if image.format == "TIFF":
                # Pillow turns TIFF files itself, and gives the upright size from the start.
                orientation = _known(image.tag_v2.get(ORIENTATION_TAG, 1))
                return Header(image.height, image.width, orientation)
            if image.format == "PNG" and _orientation_follows_pixels(image):
                image.load()
            orientation, (width, height) = orientation_of(image), image.size
    except UserError:
        raise
    except Exception:
        content = file if isinstance(file, bytes) else read_bytes(file, MOST_IMAGE_BYTES)
        name = name or ("image" if isinstance(file, bytes) else os.fspath(file))
        if content[:4] in tiff.STARTS:
            with refused(content, name):
                height, width = tiff.bands(content, name).shape[:2]
        else:
            # `decode` has the right message for such a file.
            height, width = decode(content, name=name).shape[:2]
        return Header(height, width, 1)
    return Header(*((width, height) if orientation >= 5 else (height, width)), orientation)


def bits(file: BytesIO | str | os.PathLike[str]) -> int:
    """Read the bits that an image file has for each channel: 16, or 8 where it has at most 8.

    They are known of PNG, TIFF, PPM and JPEG 2000 files; a file that cannot be read counts as one
    of 8.
    """
    try:
        with open_image(file) as image:
            if image.format == "PNG":
                image.fp.seek(_PNG_DEPTH)
                return 16 if image.fp.read(1) == b"\x10" else 8
            if image.format == "TIFF":
                return 16 if 16 in image.tag_v2.get(tiff.BITS_TAG, ()) else 8
            if image.format == "PPM":
                return 16 if netpbm_maximum(image) > 255 else 8
            if image.format == "JPEG2000":
                image.fp.seek(0)
                _, found, sizes = image.fp.read(MIB).partition(_JPEG2000_SIZES)
                return 16 if found and sizes[_JPEG2000_DEPTH] & 127 > 7 else 8
            return 8
    except Exception:  # `decode` has the right message for such a file
        return 8


def netpbm_maximum(image: Image.Image) -> int:
    """The value of white in a PPM or PGM file whose pixels are not loaded."""
    if image.mode.startswith("I"):
        return 65535
    args = image.tile[0][3]
    return args[1] if isinstance(args, tuple) and isinstance(args[1], int) else 255


def _orientation_follows_pixels(image: Image.Image) -> bool:
    """Tell whether a PNG file may have its orientation after its pixels, as few programs do."""
    file = image.fp
    place = file.tell()
    pixels_seen = found = False
    file.seek(8)
    while not found and len(head := file.read(8)) == 8:
        kind = head[4:]
        pixels_seen |= kind == b"IDAT"
        length = int.from_bytes(head[:4], "big")
        start = file.read(min(length, 32)) if kind in _PNG_TEXTS else b""
        found = pixels_seen and (kind == b"eXIf" or start.startswith(_PNG_PROFILES))
        file.seek(length - len(start) + 4, os.SEEK_CUR)
    file.seek(place)
    return found


def open_image(file: BytesIO | str | os.PathLike[str]) -> Image.Image:
    """Open an image file with Pillow, without its warnings about large images or odd metadata.

    Raises:
        UserError: the file is missing, or is not a regular file.
        Exception: what Pillow raises for a file that is damaged, too large or not an image.
    """
    _ignore_pillow_warnings()
    if not isinstance(file, BytesIO):
        require_file(file, MOST_IMAGE_BYTES)
    return Image.open(file, formats=_FORMATS)


@functools.cache
def _ignore_pillow_warnings() -> None:
    # Once for the process: `warnings.catch_warnings` around each call is not safe in threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any of Pillow's modes to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert them to 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion of these modes clips or drops the low byte.
        image = Image.fromarray(narrowed(grey_levels(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def grey_levels(image: Image.Image) -> UInt16[np.ndarray, "height width"]:
    """The values of an image of one of Pillow's modes of more than 8 bits.

    Raises:
        ValueError: they are beyond 16 bits.
    """
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("values beyond 16 bits; convert the pixels to 8 or 16 bits")
    return grey.astype(np.uint16)


def narrowed(pixels: UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Scale 16 bits to 8, rounded."""
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or unreadable."""
    if not any(key in image.info for key in _METADATA):
        return 1
    try:
        return _known(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:
        # Damaged metadata does not affect the pixels.
        return 1


def _known(orientation: object) -> int:
    """The number if EXIF knows it, else 1."""
    return orientation if orientation in _UPRIGHT else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels, rows and columns first, by an EXIF orientation (EXIF 2.32, 4.6.4 A)."""
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _looks_like(content: bytes) -> str:
    """Guess the content of a file that is not an image."""
    start = content[:256]
    printable = all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    return "it holds text" if printable else "its first bytes are of no known format"
