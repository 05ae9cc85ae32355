"""Mask files: from their bytes to a class for each pixel of an upright image."""

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError

from cnn_jax.conventions import IGNORED
from cnn_jax.data.decode import MOST_IMAGE_BYTES, Header, open_image, read_header, upright
from cnn_jax.data.label_colors import LabelColors, color_codes, described_colors
from cnn_jax.data.resize import resize_mask
from cnn_jax.data.source import Settings
from cnn_jax.errors import UserError
from cnn_jax.reading import read_bytes

# Pillow's modes with one number per pixel, and those with colours, each with and without alpha.
_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "LA", "PA", "F")
_COLORS = ("RGB", "RGBA")
_WITH_ALPHA = ("LA", "PA", "RGBA")

LOSSY = ("JPEG", "JPEG2000", "AVIF")
"""Formats, by Pillow's names, that change the values of pixels, or may have."""

_SAME_SHAPE = 0.01  # the relative difference of two ratios of the sides up to which they are equal

_MOST_VALUES = 65536

Mask = UInt8[np.ndarray, "height width"]
Fitted = UInt8[np.ndarray, "new_height new_width"]
Values = Integer[np.ndarray, "height width"]


@dataclass(frozen=True)
class MaskFiles:
    """The way from mask files to classes.

    Attributes:
        class_names: the classes.
        meaning: the class of each value of a mask file, `IGNORED`, or -1; see `meaning_of`.
        colors: the table of colours of coloured masks, if there is one.
    """

    class_names: tuple[str, ...]
    meaning: np.ndarray
    colors: LabelColors | None = None

    def read(self, content: bytes, image: Header, name: str) -> tuple[Mask, str]:
        """Read the class of each pixel of the upright image, or `IGNORED`.

        Args:
            content: the mask file's content.
            image: the header of the mask's image.
            name: the mask's name, for messages.

        Returns:
            The mask, and what was done to lay it on the image; see `on_image`.

        Raises:
            UserError: the mask cannot be read, has a value or a colour without a class, or another
                shape than the image.
        """
        raw = decode_mask(content, name, self.colors)
        mask = classes_of(raw, self.meaning, name, len(self.class_names))
        # Pillow turns TIFF files itself.
        tiff = content.startswith((b"II", b"MM"))
        own_orientation = 1 if tiff else read_header(content, name=name).orientation
        return on_image(mask, image, own_orientation, name)


def read_mask(path: str | os.PathLike[str], colors: LabelColors | None = None) -> Values:
    """Read the raw values of a mask file; see `decode_mask`.

    Raises:
        UserError: the file cannot be read, or `decode_mask` raised it.
    """
    return decode_mask(read_bytes(path, MOST_IMAGE_BYTES), os.fspath(path), colors)


def decode_mask(content: bytes, name: str, colors: LabelColors | None = None) -> Values:
    """Decode the raw values of an encoded mask, as they are stored.

    A single channel holds the values, such as a palette's indices; so do three equal ones. With
    `colors`, three channels are colours. A GIF file is one of three channels. An alpha channel must
    be opaque. The first frame or page is used.

    Args:
        content: the file's content.
        name: for messages.
        colors: the table of colours of coloured masks.

    Raises:
        UserError: it is not an image, is damaged, of a format that changes values, or coloured
            without a table or with a colour that is not in it.
    """
    try:
        with open_image(BytesIO(content)) as image:
            if image.format in LOSSY or (image.format == "WEBP" and b"VP8L" not in content[:4096]):
                raise UserError(
                    f"{name}: a mask in {image.format}, which changes the values of pixels; "
                    "save masks as PNG"
                )
            # Programs that write GIF number its colours anew, so their numbers mean nothing.
            opened = image.convert("RGB") if image.format == "GIF" else image
            return _values(opened, name, colors)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name}: the mask cannot be read (not an image)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: a mask of too many pixels to decode safely") from None
    except MemoryError:
        raise
    except Exception as error:
        # On arbitrary bytes the decoders raise almost any exception.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: damaged mask ({reason})") from error


def _values(image: Image.Image, name: str, colors: LabelColors | None) -> np.ndarray:
    """The values of an opened mask."""
    if image.mode not in (*_NUMBERS, *_COLORS):
        raise UserError(
            f"{name}: a mask of {len(image.getbands())} channels ({image.mode}); it must have one, "
            "whose values are the classes, or red, green and blue"
        )
    pixels = np.asarray(image)
    if image.mode in _WITH_ALPHA:
        if pixels[..., -1].min() < 255:
            raise UserError(
                f"{name}: a mask with transparent pixels ({image.mode}), whose class is unknown; "
                "save it without transparency"
            )
        pixels = pixels[..., :-1] if image.mode == "RGBA" else pixels[..., 0]
    if image.mode == "F":
        if not np.isin(pixels, np.arange(_MOST_VALUES)).all():
            raise UserError(f"{name}: a mask whose values are no whole numbers from 0 to 65535")
        return pixels.astype(np.uint16)
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    if colors is not None:
        return colors.look_up(pixels, name)
    grey = pixels[..., 0]
    if (grey == pixels[..., 1]).all() and (grey == pixels[..., 2]).all():
        return grey
    raise UserError(
        f"{name}: a coloured mask ({described_colors(color_codes(pixels))}); `label_colors` must "
        "say which colour is which class: a file with a name, red, green and blue in each line, or "
        "voc for the palette of PASCAL VOC"
    )


def meaning_of(num_classes: int, settings: Settings) -> np.ndarray:
    """Map each value of a mask file to a class, `IGNORED`, or -1 for invalid values.

    Raises:
        UserError: too many classes, or values that no mask can hold or that are given twice.
    """
    if num_classes > IGNORED:
        raise UserError(f"masks of {num_classes} classes; they can have {IGNORED} at most")
    values = (*settings.label_values, *settings.ignore_labels)
    for value in values:
        if not 0 <= value < _MOST_VALUES:
            raise UserError(f"label {value}: masks hold values from 0 to 65535")
    if len(set(settings.label_values)) < len(settings.label_values):
        raise UserError("each value stands for one class", "label_values", settings.label_values)
    if both := sorted(set(settings.label_values) & set(settings.ignore_labels)):
        raise UserError("is one of the `label_values` too", "ignore_labels", both[0])
    listed = settings.label_values or range(num_classes)
    meaning = np.full(max(IGNORED, *listed, *settings.ignore_labels, 0) + 1, -1, np.int16)
    meaning[IGNORED] = IGNORED
    for label, value in enumerate(listed):
        meaning[value] = label
    for value in settings.ignore_labels:
        meaning[value] = IGNORED
    return meaning


def classes_of(raw: Values, meaning: np.ndarray, name: str, num_classes: int) -> Mask:
    """Map a mask's values to classes.

    Args:
        raw: the values.
        meaning: the class of each value, `IGNORED`, or -1 for invalid values.
        name: the mask's name, for the message.
        num_classes: the number of classes, for the message.

    Raises:
        UserError: a value is invalid.
    """
    if raw.dtype == np.uint8:  # a byte is always within the table
        mask, wrong = meaning.astype(np.uint8)[raw], (meaning < 0)[raw]
    else:
        known = (raw >= 0) & (raw < len(meaning))
        places = np.where(known, raw, 0)
        mask, wrong = meaning.astype(np.uint8)[places], ~known | (meaning < 0)[places]
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise UserError(
            f"{name}: value {raw[row, column]} at row {row}, column {column} is none of the "
            f"{num_classes} classes (0 to {num_classes - 1}) nor {IGNORED} for ignored pixels; "
            "--ignore-labels, --label-values or --class-names may define it"
        )
    return mask


def on_image(mask: Mask, image: Header, own_orientation: int, name: str) -> tuple[Fitted, str]:
    """Lay a mask on the upright image: the same rows and columns.

    A mask of the size that the image has before EXIF turns it is turned with it. A mask of another
    size but of the same ratio of sides is scaled, each pixel with the class of the nearest one.

    Args:
        mask: as it is stored.
        image: the header of the image.
        own_orientation: the EXIF orientation by which the mask's file asks to be turned.
        name: the mask's name, for the message.

    Returns:
        The mask, and what was done to it: "", "turned", "scaled", or "turned and scaled".

    Raises:
        UserError: the mask has another shape than the image.
    """
    size, stored = (image.height, image.width), mask.shape
    # The first of those that fit best counts: as the mask's own file says, as it is stored, and
    # turned as the image is. (A program may have copied the image's orientation into the mask.)
    ways = ((own_orientation, ""), (1, ""), (image.orientation, "turned"))
    mask, way = min(
        ((turned(mask, orientation), way) for orientation, way in ways),
        key=lambda each: _difference(each[0].shape, size),
    )
    done = [way] if way else []
    if mask.shape != size and _difference(mask.shape, size) <= _SAME_SHAPE:
        mask = resize_mask(mask, size)
        done.append("scaled")
    if mask.shape != size:
        raise UserError(
            f"{name}: the mask has {stored[0]} x {stored[1]} pixels, its image "
            f"{size[0]} x {size[1]}"
        )
    return mask, " and ".join(done)


def _difference(one: tuple[int, int], other: tuple[int, int]) -> float:
    """The relative difference of the ratios of rows to columns."""
    return abs(math.log(one[0] * other[1] / (one[1] * other[0])))


def turned(mask: Mask, orientation: int) -> Fitted:
    """Turn a mask upright by an EXIF orientation (EXIF 2.32, 4.6.4 A)."""
    return upright(mask, orientation)


def fitted(mended: Mapping[str, Collection[int]], name_of: Callable[[int], str]) -> list[str]:
    """Notices about masks that were turned or scaled.

    Args:
        mended: the numbers of the masks by what was done to them; see `on_image`.
        name_of: the name of a mask.
    """
    reasons = {"turned": "as EXIF turns the image", "scaled": "to the image's size"}
    lines = []
    for done, numbers in sorted(mended.items()):
        why = " and ".join(f"{word} {reasons[word]}" for word in done.split(" and "))
        masks = "mask was" if len(numbers) == 1 else "masks were"
        lines.append(f"{len(numbers):,} {masks} {why} (the first: {name_of(min(numbers))})")
    return lines
