"""Images of 16 bits a channel, whose low byte is kept.

Pillow says what a file is and whether it is damaged; of 16 bits it reads grey alone. Colours are
read by OpenCV, and the other bands of a TIFF file by tifffile.
"""

import os
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from cnn_jax.data import tiff
from cnn_jax.data.decode import (
    ORIENTATION_TAG,
    DraftSize,
    Pixels16,
    bits,
    decode_bands,
    decode_scaled,
    grey_levels,
    netpbm_maximum,
    open_image,
    orientation_of,
    read_content,
    refused,
    require_bands,
    upright,
)
from cnn_jax.errors import UserError

_WHITE = 65535
_LUMA = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601-2 as Pillow has it, in parts of 2**16

_PHOTOMETRIC_TAG, _PHOTOMETRIC_RGB = 0x0106, 2
_EXTRA_TAG, _EXTRA_PREMULTIPLIED = 0x0152, (1,)


def decode_deep(
    file: bytes | str | os.PathLike[str],
    *,
    name: str | None = None,
    draft_size: DraftSize | None = None,
    channels: int = 3,
) -> tuple[Pixels16, int]:
    """Decode an image to 16 bits a channel; return it and its scale as `decode_scaled` does.

    The 16 bits of PNG, TIFF and PPM files and of grey JPEG 2000 files are kept as they are. All
    other files have 8 bits or are read so; they are multiplied by 257, so that white is 65535.
    Colours, opacity, orientation and bands become what `decode` makes of them.

    Args:
        file, name, draft_size, channels: as of `decode`.

    Raises:
        UserError: as `decode`, or the file has 16 bits in a form that is not read.
    """
    content, name = read_content(file, name)
    if bits(BytesIO(content)) == 16:
        pixels, transparent = _stored(content, name, colors=channels in (1, 3))
        if channels in (1, 3):
            pixels = _in_colors(pixels, name, transparent)
            pixels = _luma(pixels) if channels == 1 else pixels
        require_bands(pixels, name, channels)
        return pixels, 1
    if channels not in (1, 3):
        pixels, scale = decode_bands(content, name, channels), 1
    else:
        pixels, scale = decode_scaled(content, name=name, draft_size=draft_size, channels=channels)
    return (pixels if pixels.dtype == np.uint16 else widened(pixels)), scale


def widened(pixels: UInt8[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """Scale 8 bits to 16, exactly."""
    return pixels.astype(np.uint16) * np.uint16(257)


def _stored(content: bytes, name: str, colors: bool) -> tuple[Pixels16, str]:
    """The upright bands of a file of 16 bits; and what the fourth one is.

    It is `opacity`, or `premultiplied` where it has been applied to the others, or nothing.

    Args:
        content: of the file.
        name: of the file in messages.
        colors: whether the bands must have colours that are known.
    """
    with refused(content, name), open_image(BytesIO(content)) as image:
        if image.format == "TIFF":
            return _stored_tiff(content, name, image, colors)
        maximum = netpbm_maximum(image) if image.format == "PPM" else _WHITE
        image.load()
        if image.mode.startswith("I"):
            pixels = grey_levels(image)[..., None]
        elif image.format in ("PNG", "PPM"):
            pixels = _by_opencv(content + b"\n")  # which must end the last number of plain PPM
        else:
            raise UserError(
                f"{name}: colours of more than 8 bits in {image.format} are not read with --bits "
                "16; convert the file to PNG or TIFF"
            )
        if maximum != _WHITE and not image.mode.startswith("I"):
            pixels = np.rint(pixels * (_WHITE / maximum)).astype(np.uint16)
        transparent = "opacity" if image.has_transparency_data else ""
        return upright(pixels, orientation_of(image)), transparent


def _stored_tiff(
    content: bytes, name: str, image: Image.Image, colors: bool
) -> tuple[Pixels16, str]:
    """The same of a TIFF file; Pillow and OpenCV turn it upright themselves."""
    tags: Any = image.tag_v2
    samples = tags.get(tiff.SAMPLES_TAG, 1)
    rgb = tags.get(_PHOTOMETRIC_TAG) == _PHOTOMETRIC_RGB
    if colors and samples > 1 and not rgb:
        raise UserError(
            f"{name}: a TIFF file of 16 bits with {samples} bands that are not RGB; convert it, or "
            f"let a run with --channels {samples} read its bands"
        )
    transparent = ""
    if samples == 4 and image.has_transparency_data:
        premultiplied = tuple(tags.get(_EXTRA_TAG, ())) == _EXTRA_PREMULTIPLIED
        transparent = "premultiplied" if premultiplied else "opacity"
    if samples == 1:
        image.load()
        return grey_levels(image)[..., None], ""
    if rgb and samples in (3, 4) and not tiff.in_planes(image):
        image.load()
        return _by_opencv(content), transparent
    pixels = tiff.bands(content, name)
    if pixels.dtype != np.uint16:
        raise UserError(f"{name}: pixels of {pixels.dtype}; bands of 8 or 16 bits are read")
    return upright(np.atleast_3d(pixels), tags.get(ORIENTATION_TAG, 1)), transparent


def _by_opencv(content: bytes) -> Pixels16:
    """The bands of a file that has three or four.

    Raises:
        ValueError: OpenCV finds no 16 bits in it.
    """
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ValueError("its 16 bits cannot be read")
    return np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])


def _in_colors(
    pixels: Pixels16, name: str, transparent: str
) -> UInt16[np.ndarray, "height width 3"]:
    """Red, green and blue of stored bands, over white where they are transparent."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] not in (3, 4):
        require_bands(pixels, name, 3)
    colors = np.ascontiguousarray(pixels[..., :3])
    if not transparent or pixels.shape[2] == 3:
        return colors
    opacity = pixels[..., 3:].astype(np.float64)
    shown = colors * (opacity / _WHITE) if transparent == "opacity" else colors
    over_white = shown + (_WHITE - opacity)
    return np.minimum(np.rint(over_white), _WHITE).astype(np.uint16)


def _luma(colors: UInt16[np.ndarray, "height width 3"]) -> UInt16[np.ndarray, "height width 1"]:
    """The grey of colours; equal ones keep their value."""
    weighed = (colors * _LUMA).sum(axis=2, keepdims=True, dtype=np.uint32)
    return ((weighed + np.uint32(2**15)) >> np.uint32(16)).astype(np.uint16)
