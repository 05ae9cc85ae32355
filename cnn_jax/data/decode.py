"""Image files: which of a folder's files are images, and their decoding to RGB.

Pillow reads all formats and decides what is damaged. JPEG that is in no way unusual is decoded by
simplejpeg, to the same pixels in about half the time: both are libjpeg-turbo.
"""

import contextlib
import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from cnn_jax.errors import UserError
from cnn_jax.reading import MIB, Listing, list_files, read_bytes, require_file

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_NETPBM = (".ppm", ".pgm", ".pbm", ".pnm")
EXTENSIONS = (*_JPEG, ".png", ".webp", ".bmp", ".tif", ".tiff", *_NETPBM, ".gif", ".jp2", ".avif")
"""The extensions of image files, in lower case. A file of another name may be one: see
`list_images`."""

READ = "JPEG, PNG, WebP, BMP, TIFF, PPM, GIF, JPEG 2000 or AVIF"
"""The formats that are read, in words."""

MOST_IMAGE_BYTES = 512 * MIB

DraftSize = int | tuple[int, int]
"""The least rows and columns of an image that is decoded at a part of its size; one number stands
for both."""

Pixels = UInt8[np.ndarray, "height width channels"]


@dataclass(frozen=True)
class Reading:
    """The way in which the images of a source are decoded.

    Attributes:
        draft_size, channels: see `decode`.
    """

    draft_size: DraftSize | None = None
    channels: int = 3

    def decode(self, file: bytes | str | os.PathLike[str], name: str | None = None) -> Pixels:
        """Decode as `decode` does."""
        return self.decode_scaled(file, name)[0]

    def decode_scaled(
        self, file: bytes | str | os.PathLike[str], name: str | None = None
    ) -> tuple[Pixels, int]:
        """Decode as `decode_scaled` does."""
        return decode_scaled(file, name=name, draft_size=self.draft_size, channels=self.channels)


RGB = Reading()
"""The usual reading: RGB images at full size."""

_TIFF_STARTS = (b"II*\0", b"MM\0*")
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_SCANS = 0xDA  # the marker before the pixels
_JPEG_METADATA = 0xE1  # that of EXIF and of XMP
_JPEG_SCALES = (8, 4, 2)  # those that are computed fast, and that Pillow knows too

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")

# Files of these endings lie beside images; they are not opened to see what they are.
_COMPANIONS = {".txt", ".xml", ".json", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html", ".py",
               ".mat", ".npy", ".npz", ".zip", ".gz", ".tar", ".pdf", ".cache"}  # fmt: skip

# The transposition that turns an image upright, by its EXIF orientation (EXIF 2.32, 4.6.4 A).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_BITS_TAG = 0x0102
_SAMPLES_TAG = 0x0115
_PNG_DEPTH = 24  # the place of the depth in a PNG file
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
) -> Pixels:
    """Decode an image file to the 8-bit RGB image that a viewer shows, or to other channels.

    The formats are those of `READ`; the content decides, not the name. Grey, black-and-white and
    palette images become RGB. Transparent images are composited over white. CMYK is converted
    without a colour profile, JPEG's inverted inks included. 16 bits are scaled to 8. An EXIF (or
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
) -> tuple[Pixels, int]:
    """Decode as `decode`; return the pixels, and by which factor they are fewer on each side.

    A side that the factor does not divide is rounded up: the last pixel lies partly outside.
    """
    if isinstance(file, bytes):
        content, name = file, name or "image"
    else:
        name = name or os.fspath(file)
        content = read_bytes(file, MOST_IMAGE_BYTES)
    if not content:
        raise UserError(f"{name}: the file is empty (0 bytes), expected an image")
    if channels not in (1, 3):
        return decode_bands(content, name, channels), 1
    pixels, scale = _decode_colors(content, name, draft_size)
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels, scale


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
            rows, columns = _stored(draft_size, _orientation(image))
            whole = image.size
            image.draft(None, (columns, rows))
            scale = next(
                scale
                for scale in (1, *reversed(_JPEG_SCALES))
                if image.size == tuple(-(-side // scale) for side in whole)
            )
        image.load()
        return np.asarray(upright(_to_rgb(image), _orientation(image))), scale


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
    """Decode the bands of an image of 8 bits as they are stored.

    It is turned upright, but for a TIFF file whose bands Pillow cannot read.

    Raises:
        UserError: as `decode`.
    """
    stored = channels
    with refused(content, name):
        try:
            with open_image(BytesIO(content)) as image:
                if image.format == "TIFF":
                    stored = image.tag_v2.get(_SAMPLES_TAG, 1)
                image.load()
                if image.has_transparency_data and channels == 4:
                    image = image.convert("RGBA")
                found = np.asarray(upright(image, _orientation(image)))
        except Image.UnidentifiedImageError:
            if content[:4] not in _TIFF_STARTS:
                raise
            found = _tiff_bands(content, name)
        if _bands(found) != channels == stored and content[:4] in _TIFF_STARTS:
            # Of more than four bands Pillow leaves some out.
            found = _tiff_bands(content, name)
    if _bands(found) != channels:
        raise UserError(f"{name}: has {_bands(found)} channels, not the {channels} of --channels")
    if found.dtype != np.uint8:
        raise UserError(f"{name}: pixels of {found.dtype}; bands of 8 bits are read")
    return found


def _bands(pixels: np.ndarray) -> int:
    return pixels.shape[2] if pixels.ndim == 3 else 1


def _tiff_bands(content: bytes, name: str) -> np.ndarray:
    """The first page of a TIFF file with all its bands, the last axis."""
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f"{name}: Pillow cannot read its bands; pip install 'cnn_jax[bands]' adds tifffile"
        ) from None
    with tifffile.TiffFile(BytesIO(content)) as file:
        page = file.pages[0]
        pixels = page.asarray()
        return np.moveaxis(pixels, page.axes.index("S"), -1) if "S" in page.axes else pixels


def as_rgb(
    image: UInt8[np.ndarray, "*rows height width channels"],
) -> UInt8[np.ndarray, "*rows height width 3"]:
    """Show an image of any channels as a picture: its first three, or its first one in grey."""
    if image.shape[-1] == 3:
        return image
    shown = image[..., :3] if image.shape[-1] > 3 else np.repeat(image[..., :1], 3, axis=-1)
    return np.ascontiguousarray(shown)


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
        pixels = np.asarray(upright(Image.fromarray(pixels), orientation))
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
                    return _orientation(image)
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
                orientation = _known(image.tag_v2.get(_ORIENTATION_TAG, 1))
                return Header(image.height, image.width, orientation)
            if image.format == "PNG" and _orientation_follows_pixels(image):
                image.load()
            orientation, (width, height) = _orientation(image), image.size
    except UserError:
        raise
    except Exception:
        content = file if isinstance(file, bytes) else read_bytes(file, MOST_IMAGE_BYTES)
        name = name or ("image" if isinstance(file, bytes) else os.fspath(file))
        if content[:4] in _TIFF_STARTS:
            with refused(content, name):
                height, width = _tiff_bands(content, name).shape[:2]
        else:
            # `decode` has the right message for such a file.
            height, width = decode(content, name=name).shape[:2]
        return Header(height, width, 1)
    return Header(*((width, height) if orientation >= 5 else (height, width)), orientation)


def describe_form(file: str | os.PathLike[str]) -> str:
    """Describe how an image file stores its pixels: its format, Pillow's mode, and EXIF's turn.

    For example `JPEG RGB` or `PNG I;16`. A file that cannot be opened is `unreadable`.
    """
    try:
        with open_image(file) as image:
            turned = ", turned by EXIF" if _orientation(image) != 1 else ""
            return f"{image.format} {image.mode}{turned}"
    except Exception:  # see `decode_scaled`
        return "unreadable"


def bits(file: str | os.PathLike[str]) -> int:
    """Read the bits that an image file has for each channel: 16, or 8 where it has others.

    They are known of PNG, TIFF and PPM files; a file that cannot be read counts as one of 8.
    """
    try:
        with open_image(file) as image:
            if image.format == "PNG":
                image.fp.seek(_PNG_DEPTH)
                return 16 if image.fp.read(1) == b"\x10" else 8
            if image.format == "TIFF":
                return 16 if 16 in image.tag_v2.get(_BITS_TAG, ()) else 8
            return 16 if image.mode.startswith("I") else 8
    except Exception:  # `decode` has the right message for such a file
        return 8


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


def is_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file's content begins as an image does, whatever its name."""
    try:
        with open_image(path):
            return True
    except Exception:
        return False


def list_images(place: str | os.PathLike[str], below: str = "") -> Listing:
    """List the images at any depth below `place`/`below`, relative to `place`.

    Files are images by their ending or, where the ending is unknown, by their content.
    `left_out` counts the others by their ending.

    Raises:
        UserError: a folder cannot be read.
    """
    found = list_files(place, below)
    images, left_out = [], found.left_out
    for path in found.files:
        ending = os.path.splitext(path)[1].lower()
        if ending in EXTENSIONS or (
            ending not in _COMPANIONS and is_image(os.path.join(place, path))
        ):
            images.append(path)
        else:
            left_out[ending or "without an ending"] += 1
    return Listing(images, left_out)


def describe_left_out(place: str | os.PathLike[str], left_out: Counter[str]) -> list[str]:
    """A notice about the files that are no images, in a list; an empty list if there are none."""
    total = left_out.total()
    if not total:
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(6))
    files = "file was" if total == 1 else "files were"
    return [f"{os.fspath(place)}: {total:,} {files} left out, as no images: {kinds}"]


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
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("values beyond 16 bits; convert the pixels to 8 or 16 bits")
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or unreadable."""
    if not any(key in image.info for key in _METADATA):
        return 1
    try:
        return _known(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        # Damaged metadata does not affect the pixels.
        return 1


def _known(orientation: object) -> int:
    """The number if EXIF knows it, else 1."""
    return orientation if orientation in _UPRIGHT else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image by an EXIF orientation (EXIF 2.32, 4.6.4 A)."""
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _looks_like(content: bytes) -> str:
    """Guess the content of a file that is not an image."""
    start = content[:256]
    printable = all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    return "it holds text" if printable else "its first bytes are of no known format"
