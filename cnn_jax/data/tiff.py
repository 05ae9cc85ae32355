"""TIFF files whose bands Pillow cannot read."""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

from cnn_jax.errors import UserError

STARTS = (b"II*\0", b"MM\0*")
"""The first bytes of the files."""

BITS_TAG = 0x0102
SAMPLES_TAG = 0x0115
_PLANES_TAG = 0x011C

# The fields without which pixels are read wrongly; others are names, dates, resolutions.
_PIXEL_FIELDS = {*range(254, 263), 266, *range(273, 280), 284, 317, *range(320, 326), 338, 339}


def bands(content: bytes, name: str) -> np.ndarray:
    """The first page of a TIFF file with all its bands, the last axis.

    Raises:
        UserError: tifffile is not installed.
        ValueError: the file is damaged; tifffile raises others, too.
    """
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f"{name}: Pillow cannot read its bands; pip install 'cnn_jax[bands]' adds tifffile"
        ) from None
    with _strict(tifffile.logger()), tifffile.TiffFile(BytesIO(content)) as file:
        page = file.pages[0]
        pixels = page.asarray()
        return np.moveaxis(pixels, page.axes.index("S"), -1) if "S" in page.axes else pixels


class _Kept(logging.Handler):
    """Keeps messages instead of writing them."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _strict(logger: logging.Logger) -> Iterator[None]:
    """Raise what tifffile only logs as an error: it reads on without the damaged field.

    Raises:
        ValueError: this thread logged an error, and not of a field that says nothing of the pixels.
    """
    handler = _Kept(logging.ERROR)
    handler.addFilter(lambda record: record.thread == threading.get_ident())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    for error in handler.messages:
        field = re.search(r"TiffTag (\d+)", error)
        if field is None or int(field[1]) in _PIXEL_FIELDS:
            raise ValueError(error)


def in_planes(image: Image.Image) -> bool:
    """Tell whether a TIFF file has its bands one after another."""
    return image.tag_v2.get(_PLANES_TAG, 1) == 2


def require_no_deep_planes(image: Image.Image, name: str) -> None:
    """Refuse a TIFF file of several bands of 16 bits, one after another: Pillow makes noise of it.

    Raises:
        UserError: it is one.
    """
    if image.format != "TIFF" or image.tag_v2.get(SAMPLES_TAG, 1) == 1:
        return
    if in_planes(image) and 16 in image.tag_v2.get(BITS_TAG, ()):
        raise UserError(f"{name}: a TIFF file of 16 bits in planes; a run with --bits 16 reads it")
