"""Image files to RGB pixels: one path for every format, through Pillow."""

import os
import warnings
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cnn_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""The endings, in lower case, of the files that are taken for images."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# How to bring an image upright, by the value of its EXIF orientation (EXIF 2.32, 4.6.4 A).
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
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")

# Pillow warns of what is handled below: large images, odd metadata. Filtered here once, since
# changing filters around each call is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(
    file: bytes | str | os.PathLike[str],
    *,
    name: str | None = None,
    draft_size: int | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a JPEG, PNG, WebP or BMP file to what a person sees in a viewer, as 8-bit RGB.

    The format is told from the content, not from the name. Grey, black-and-white and palette images
    become RGB; transparent ones are laid over white; CMYK is converted without a colour profile
    (JPEG's inverted inks included); 16 bits are scaled to 8; an EXIF (or XMP) orientation is
    applied; of an animation the first frame is taken. Colour profiles are not applied.

    Args:
        file: the file's content, or its path.
        name: what messages call it; the path by default.
        draft_size: let JPEG's own scaling (1/2, 1/4, 1/8) shrink the image while its shorter side
            stays at least this many pixels.

    Returns:
        The pixels, upright.

    Raises:
        UserError: the file cannot be read, is empty, truncated, damaged, absurdly large or no
            image at all; one line that begins with its name.
    """
    if isinstance(file, bytes):
        content, name = file, name or "image"
    else:
        name = name or os.fspath(file)
        content = _read(file, name)
    if not content:
        raise UserError(f"{name}: the file is empty (0 bytes), expected an image")
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            if draft_size is not None:
                image.draft(None, (draft_size, draft_size))
            image.load()
            return np.asarray(_upright(_to_rgb(image), _orientation(image)))
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{name}: not an image ({_looks_like(content)}), expected JPEG, PNG, WebP or BMP"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: too many pixels to decode safely, shrink the image") from None
    except MemoryError:
        raise
    except Exception as error:
        # The decoders meet arbitrary bytes here and raise almost anything, from OSError to
        # SyntaxError and struct.error: to the user each means that this file is damaged.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: damaged image ({reason})") from error


def _read(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any of Pillow's modes to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion of these modes clips or drops the low byte.
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    if not any(key in image.info for key in _METADATA):
        return 1
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged metadata does not make the pixels any worse.
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _looks_like(content: bytes) -> str:
    """A guess for people at what a file that is no image holds."""
    start = content[:256]
    printable = all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    return "it holds text" if printable else "its first bytes are of no known format"
