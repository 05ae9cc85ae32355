"""Colours that stand for classes in masks: tables of them, and the values of coloured pixels."""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from cnn_jax.conventions import IGNORED
from cnn_jax.errors import UserError
from cnn_jax.reading import read_lines

TABLE_FILE = "class_dict.csv"
"""The file in the data's folder that is read as a table of colours (of CamVid's form)."""

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""The classes of PASCAL VOC's masks, in the order of their values."""

_VOC_BORDER = (224, 224, 192)
_MOST_TABLE_BYTES = 2**20
_BLOCK = 2**20  # pixels that are looked up at a time, to save memory
_NUMBER = re.compile(r"\d{1,3}", re.ASCII)
_HEX = re.compile(r"#([0-9a-fA-F]{6})")
_CVAT = re.compile(r"(.+?):(\d+),(\d+),(\d+):[^:]*:[^:]*")  # `labelmap.txt` of its mask exports


@dataclass(frozen=True)
class LabelColors:
    """A table of colours.

    Attributes:
        title: where it comes from, for messages.
        names: the classes; the position of a name is the value of its colour.
        colors: RGB.
        values: the value of each colour.
    """

    title: str
    names: tuple[str, ...]
    colors: UInt8[np.ndarray, "colors 3"]
    values: Int[np.ndarray, " colors"]

    def look_up(
        self, pixels: UInt8[np.ndarray, "height width 3"], name: str
    ) -> UInt8[np.ndarray, "height width"]:
        """Find the value of each pixel's colour.

        Args:
            pixels: a coloured mask.
            name: the mask's name, for the message.

        Raises:
            UserError: a colour is not in the table; the message gives the number of its pixels.
        """
        codes = _codes(self.colors)
        order = np.argsort(codes, kind="stable")
        codes, values = codes[order], self.values[order].astype(np.uint8)
        flat = pixels.reshape(-1, 3)
        found = np.empty(len(flat), np.uint8)
        unknown = np.zeros(0, np.int64)
        for start in range(0, len(flat), _BLOCK):
            block = _codes(flat[start : start + _BLOCK])
            # Pixels of one colour lie beside one another, so only the first of them is looked up.
            firsts = np.flatnonzero(np.append(True, block[1:] != block[:-1]))
            lengths = np.diff(np.append(firsts, len(block)))
            wanted = block[firsts]
            places = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
            found[start : start + _BLOCK] = np.repeat(values[places], lengths)
            wrong = codes[places] != wanted
            unknown = np.concatenate([unknown, np.repeat(wanted[wrong], lengths[wrong])])
        if len(unknown):
            raise UserError(
                f"{name}: {described_colors(unknown)} {'is' if _one(unknown) else 'are'} none of "
                f"the {len(codes)} colours of {self.title}"
            )
        return found.reshape(pixels.shape[:2])


def voc_colors(count: int = len(VOC_NAMES)) -> LabelColors:
    """PASCAL VOC's palette: a value's bits, dealt to the three colours (the devkit's colormap).

    Args:
        count: the number of classes; the border between objects is `IGNORED`.
    """
    values = np.arange(count)
    colors = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (values >> (3 * bit + channel) & 1) << (7 - bit)
    names = (*VOC_NAMES, *(f"class {value}" for value in range(len(VOC_NAMES), count)))[:count]
    return LabelColors(
        "VOC's palette",
        names,
        np.concatenate([colors, [_VOC_BORDER]]).astype(np.uint8),
        np.append(values, IGNORED),
    )


def read_label_colors(path: str | os.PathLike[str]) -> LabelColors:
    """Read a table with a class in each line: its name and red, green and blue from 0 to 255.

    The numbers stand behind the name or before it, with commas, semicolons, tabs or blanks between
    (`class_dict.csv` of CamVid's form, `label_colors.txt`, CVAT's `labelmap.txt`), or as `#RRGGBB`.
    A line of headings may say which column is which: `name`, `r`, `g`, `b`; other columns are left
    out then. Lines that begin with `# ` are comments.

    Raises:
        UserError: the file cannot be read, or a line has no name or no colour, or one that an
            earlier line has.
    """
    name = os.fspath(path)
    lines = [line.strip() for line in read_lines(path, _MOST_TABLE_BYTES)]
    entries = [(number, line) for number, line in enumerate(lines, 1) if line]
    rows = _rows(entries, name)
    if len(rows) > IGNORED:
        raise UserError(f"{name}: {len(rows)} classes, masks can have {IGNORED} at most")
    if not rows:
        raise UserError(f"{name}: no colours, expected a name and red, green and blue in each line")
    seen: dict[str | tuple[int, int, int], int] = {}
    for number, (title, color) in rows:
        for what in (title, color):
            if what in seen:
                shown = what if isinstance(what, str) else "the colour " + " ".join(map(str, what))
                raise UserError(f"{name}:{number}: {shown} is that of line {seen[what]} too")
            seen[what] = number
    names = tuple(title for _, (title, _) in rows)
    colors = np.array([color for _, (_, color) in rows], np.uint8)
    return LabelColors(name, names, colors, np.arange(len(rows)))


def described_colors(codes: Int[np.ndarray, " pixels"]) -> str:
    """`colour 12 4 200 (34 pixels)`, the most frequent first, three at most."""
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [
        f"{code >> 16} {code >> 8 & 255} {code & 255} ({count:,} pixel{'' if count == 1 else 's'})"
        for code, count in zip(found[order[:3]].tolist(), counts[order[:3]].tolist(), strict=True)
    ]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"colour{'' if len(found) == 1 else 's'} {', '.join(shown)}{more}"


def color_codes(pixels: UInt8[np.ndarray, "height width 3"]) -> Int[np.ndarray, " pixels"]:
    """Each pixel's colour as one number."""
    return _codes(pixels.reshape(-1, 3))


def _codes(colors: UInt8[np.ndarray, "pixels 3"]) -> Int[np.ndarray, " pixels"]:
    red, green, blue = colors.astype(np.int32).T
    return red << 16 | green << 8 | blue


def _one(codes: np.ndarray) -> bool:
    return bool((codes == codes[0]).all())


Row = tuple[str, tuple[int, int, int]]


def _rows(entries: Sequence[tuple[int, str]], name: str) -> list[tuple[int, Row]]:
    """Each line's number, name and colour."""
    columns: list[int] | None = None
    rows = []
    for number, line in entries:
        if line.startswith(("# ", "//")):
            continue
        parts = _parts(line)
        if not rows and columns is None:
            columns = _columns(parts)
            if columns is not None or not re.search(r"\d|#", line):
                continue  # a line of headings
        if columns is not None:
            parts = [parts[place] for place in columns if place < len(parts)]
        row = _row(parts)
        if row is None:
            raise UserError(
                f"{name}:{number}: {line[:60]!r} is no class with its colour, such as "
                "road,128,64,128"
            )
        rows.append((number, row))
    return rows


def _parts(line: str) -> list[str]:
    """The fields of a line."""
    if match := _CVAT.fullmatch(line):
        return list(match.groups())
    mark = next((mark for mark in ",;\t" if mark in line), None)
    try:
        fields = next(csv.reader([line], delimiter=mark)) if mark else [line]
    except csv.Error:  # an endless field
        fields = [line]
    if len(fields) < 4:  # numbers with blanks between, of which a name may have some too
        fields = [part for field in fields for part in field.split()]
    return [field.strip() for field in fields]


def _columns(parts: Sequence[str]) -> list[int] | None:
    """The columns of name, red, green and blue, if the fields are headings of these."""
    words = [part.casefold() for part in parts]
    colors = [
        next((place for place, word in enumerate(words) if word in names), None)
        for names in ({"r", "red"}, {"g", "green"}, {"b", "blue"})
    ]
    titles = [place for place in range(len(words)) if place not in colors]
    if None in colors or not titles:
        return None
    named = next((i for i in titles if "name" in words[i] or words[i] in ("class", "label")), None)
    return [titles[0] if named is None else named, *colors]


def _row(parts: list[str]) -> Row | None:
    """A name and its colour, from the fields of a line."""
    for numbers, rest in ((parts[-3:], parts[:-3]), (parts[:3], parts[3:])):
        if len(numbers) == 3 and rest and all(_NUMBER.fullmatch(part) for part in numbers):
            red, green, blue = map(int, numbers)
            return (" ".join(rest), (red, green, blue)) if max(red, green, blue) <= 255 else None
    for text, rest in ((parts[-1], parts[:-1]), (parts[0], parts[1:])):
        if rest and (match := _HEX.fullmatch(text)):
            code = int(match[1], 16)
            return " ".join(rest), (code >> 16, code >> 8 & 255, code & 255)
    return None
