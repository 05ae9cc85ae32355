"""`yolo:DATA.yaml`: a text file of labels for each image, `class cx cy w h` in fractions of it."""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.finding import ImageFinder, NameIndex
from cnn_jax.data.formats.boxes import BoxSource, StatedImage, number, settle, short
from cnn_jax.data.image_files import EXTENSIONS, describe_left_out, list_images
from cnn_jax.data.source import Settings, Split
from cnn_jax.data.splits import KINDS, by_kind, kind_of
from cnn_jax.errors import UserError
from cnn_jax.reading import MIB, existing_below, files_in, read_lines, read_yaml, user_path

CLASSES_FILE = "classes.txt"
"""The names of the classes, one a line, where the YAML file has none."""

_MOST_LABEL_BYTES = 8 * MIB
_LONGEST_LINE = 1_000_000
_MOST_LIST_BYTES = 256 * MIB

# The folder of labels beside a folder of images.
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}

# Fractions are 1 at most, but for slips; numbers above this one are something else.
_MOST_FRACTION = 2.0


def open_yolo(argument: str, split: Split, settings: Settings) -> BoxSource:
    """Open one split of a data set in YOLO's format.

    The YAML file has `names` (a list, names by number, or a text file of them), optionally `path`,
    and `train`, `val` and `test`: a folder of images, a text file that lists them, or a list of
    either, relative to `path`. The split `eval` is `val`, else `test`; the split `test` is `test`,
    else `val`. Other usual names of splits are known too (`valid`, `validation`). A place that is
    not there is looked for below the YAML's folder.

    The labels of `.../images/A.jpg` are in `.../labels/A.txt`; without that file the image has no
    objects. A line has a class and 4 numbers, fractions of the upright image. With the YAML's
    `kpt_shape: [K, D]` (poses) K x D more numbers may follow, which are not used. Without it, a
    line with x and y of three points or more is an outline or an oriented box; the upright box
    around it is used.

    Raises:
        UserError: a file is faulty; the message names it and the line.
    """
    if not argument:
        raise UserError("--data yolo: lacks a file, give yolo:DATA.yaml")
    if settings.holdout_groups is not None:
        raise UserError("--holdout-groups: yolo names its own splits, so omit it")
    path = _yaml_of(user_path(argument))
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys 'names', 'train' and 'val'")
    data = _Data(path, content)
    class_names = _class_names(data)
    labels = _Labels(len(class_names), _keypoints(data))
    images = _images(data, split)
    items = [labels.read(file, place) for file, place in images]
    settled, repairs = settle(items, relative=True, keep_bad_images=settings.keep_bad_images)
    notices = [*data.notices, *labels.notices(), *repairs]
    return BoxSource(class_names, settled, notices, relative=True, reading=settings.reading)


def _yaml_of(path: Path) -> Path:
    """The YAML file: the path itself, or the only one in a folder.

    Raises:
        UserError: a folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
    if len(found) != 1:
        raise UserError(
            f"{path}: is a folder with {len(found)} YAML files; name the one with 'names', 'train' "
            f"and 'val'"
        )
    return found[0]


@dataclass
class _Data:
    """The YAML file, and what was recognised while it was followed.

    Attributes:
        path: the file.
        content: what it holds.
        notices: lines for the user.
    """

    path: Path
    content: dict[str, Any]
    notices: list[str] = field(default_factory=list)

    @property
    def roots(self) -> list[Path]:
        """The folders to which places are relative: `path`, then that of the file."""
        own, path = self.path.parent, self.content.get("path") or "."
        if not isinstance(path, str):
            raise UserError(f"{self.path}: path is {short(path)}, expected a folder")
        return list(dict.fromkeys([own / path, own]))

    def find(self, place: str) -> tuple[Path | None, bool]:
        """Find a folder or file by its path in the YAML, and whether it was written otherwise."""
        for root in self.roots:
            if os.path.exists(root / place):
                return root / place, False
        parts = [part for part in re.split(r"[/\\]+", place) if part != "."]
        absolute = not parts[0] or parts[0].endswith(":")
        while parts and parts[0] == "..":
            parts = parts[1:]
        for root in self.roots:
            # Of a path of another machine the last parts are enough; of another path all must be.
            found = existing_below(place, root) if absolute else root.joinpath(*parts)
            if found is not None and os.path.exists(found):
                return found, True
        return None, False


def _class_names(data: _Data) -> tuple[str, ...]:
    path, names = data.path, data.content.get("names")
    if names is None and os.path.isfile(path.parent / CLASSES_FILE):
        data.notices.append(f"{path}: has no names; those of {path.parent / CLASSES_FILE} are used")
        names = CLASSES_FILE
    if isinstance(names, str):
        place, _ = data.find(names)
        names = [line.strip() for line in read_lines(place or data.roots[0] / names)]
        while names and not names[-1]:
            names.pop()
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    numbers = list(map(str, range(len(names)))) if isinstance(names, dict) else []
    if not numbers or set(names) != set(numbers):
        raise UserError(f"{path}: names must be a list, or have the numbers from 0 on")
    for key in numbers:
        if not isinstance(names[key], str) or not names[key].strip():
            raise UserError(f"{path}: name {key} is {short(names[key])}, expected a text")
    count = data.content.get("nc")
    if count is not None and count != str(len(names)):
        said = count if isinstance(count, str) and len(count) < 40 else short(count)
        raise UserError(f"{path}: nc is {said}, but there are {len(names)} names")
    return tuple(names[key] for key in numbers)


def _keypoints(data: _Data) -> int | None:
    """The count of numbers that follow the box in a line of a pose; None for other data."""
    shape = data.content.get("kpt_shape")
    if shape is None:
        return None
    try:
        points, values = map(int, shape)
        if points < 1 or values not in (2, 3):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"{data.path}: kpt_shape is {short(shape)}, expected [points, 2 or 3]"
        ) from None
    return points * values


# Which images


def _images(data: _Data, split: Split) -> list[tuple[Path, str]]:
    """List the images of a split, each with the place that names it."""
    content, path = data.content, data.path
    given = [key for key in content if content[key]]
    usual = {kind: kind for kind in ("train", "val", "test") if kind in given}
    keys = {**usual, **by_kind([key for key in given if kind_of(key) not in usual], str(path))}
    key = next((keys[kind] for kind in KINDS[split] if kind in keys), None)
    if key is None:
        raise UserError(f"{path}: has no {' or '.join(KINDS[split])}: which images are they?")
    files, guessed = [], False
    for place in _places(data, key):
        found, elsewhere = data.find(place)
        if found is None:
            _refuse_place(path, data.roots[0] / place)
        if elsewhere:
            data.notices.append(f"{path}: {key}: {place} is found as {found}")
        guessed |= elsewhere
        files += _images_of(data, found)
    if guessed:
        _require_distinct(data, keys.values())
    if not files:
        raise UserError(
            f"{path}: {key}: {', '.join(_places(data, key))} contains no images "
            f"({', '.join(EXTENSIONS)})"
        )
    return files


def _places(data: _Data, key: str) -> list[str]:
    """The folders and lists of a key."""
    value = data.content[key]
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise UserError(
            f"{data.path}: {key} is {short(value)}, expected a folder or a list of them"
        )
    return places


def _require_distinct(data: _Data, keys: Iterable[str]) -> None:
    """Raise UserError if two places that are written differently were found as the same one."""
    written: dict[str, str] = {}
    for place in (each for key in keys for each in _places(data, key)):
        found, _ = data.find(place)
        if found is None:
            continue
        other = written.setdefault(os.path.realpath(found), place)
        if other != place:
            raise UserError(f"{data.path}: {place}: no such folder, and {found} is {other} already")


def _images_of(data: _Data, place: Path) -> list[tuple[Path, str]]:
    """List the images in a folder, or those that a text file names."""
    if os.path.isdir(place):
        listing = list_images(place)
        # Labels may lie beside the images.
        listing.left_out.pop(".txt", None)
        data.notices += describe_left_out(place, listing.left_out)
        return [(file, str(place)) for file in sorted(place / name for name in listing.files)]
    if place.suffix != ".txt":
        _refuse_place(data.path, place)
    finder = ImageFinder(place.parent, *data.roots)
    lines = enumerate(map(str.strip, read_lines(place, _MOST_LIST_BYTES)), start=1)
    files = [(Path(finder.find(line, f"{place}:{row}")), f"{place}:{row}")
             for row, line in lines if line]  # fmt: skip
    data.notices += finder.notices()
    return files


def _refuse_place(path: Path, place: Path) -> None:
    raise UserError(f"{path}: {place}: neither a folder nor a .txt file that lists images")


# Labels


def _label_file(image: Path) -> Path:
    """Replace the last `images` in the path by `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] in _LABELS:
            parts[place] = _LABELS[parts[place]]
            break
    return Path(*parts)


class _Labels:
    """Reads the labels of images."""

    def __init__(self, num_classes: int, keypoints: int | None):
        self._num_classes, self._keypoints = num_classes, keypoints
        self._folders: dict[Path, NameIndex] = {}
        self._outlines, self._first_outline = 0, ""

    def read(self, image: Path, place: str) -> StatedImage:
        """Read the labels of an image, which `place` names."""
        path = self._find(_label_file(image))
        lines = read_lines(path, _MOST_LABEL_BYTES) if path is not None else []
        rows = [
            (row, *self._parse(line, f"{path}:{row}"))
            for row, line in enumerate(lines, start=1)
            if line.strip()
        ]
        return StatedImage(
            os.fspath(image),
            place,
            np.array([box for _, _, box in rows], np.float64).reshape(-1, 4),
            np.array([label for _, label, _ in rows], np.int32),
            lambda number: f"{path}:{rows[number][0]}",
        )

    def notices(self) -> list[str]:
        """Tell which labels have other names, and which are no plain boxes."""
        notices = [line for index in self._folders.values() for line in index.notices("label file")]
        if self._outlines:
            notices.append(
                f"{self._outlines:,} labels are outlines or oriented boxes: the upright box around "
                f"each is read (the first in {self._first_outline})"
            )
        return notices

    def _find(self, path: Path) -> Path | None:
        if os.path.lexists(path):
            return path
        folder = path.parent
        if folder not in self._folders:
            names = files_in(folder) if os.path.isdir(folder) else []
            self._folders[folder] = NameIndex(n[:-4] for n in names if n.endswith(".txt"))
        stem = self._folders[folder].find(path.stem)
        return None if stem is None else folder / f"{stem}.txt"

    def _parse(self, line: str, place: str) -> tuple[int, list[float]]:
        """Parse a line into its label and the corners of its box."""
        if len(line) > _LONGEST_LINE:
            raise UserError(f"{place}: the line has {len(line):,} characters")
        try:
            label, *values = map(number, re.split(r"[ \t]+", line.strip(" \t")))
        except ValueError:
            raise UserError(
                f"{place}: {short(line.strip())} contains words, expected class cx cy w h"
            ) from None
        if not 0 <= label < self._num_classes or label != int(label):
            raise UserError(
                f"{place}: class {label:g} is none of the {self._num_classes} in the YAML file"
            )
        if self._keypoints is not None and len(values) == 4 + self._keypoints:
            values = values[:4]
        outlined = self._keypoints is None and len(values) >= 6 and len(values) % 2 == 0
        if len(values) != 4 and not outlined:
            poses = "" if self._keypoints is None else f", or {5 + self._keypoints} with key points"
            raise UserError(
                f"{place}: {len(values) + 1} numbers, expected 5: class cx cy w h{poses}"
            )
        far = next((v for v in values if math.isfinite(v) and abs(v) > _MOST_FRACTION), None)
        if far is not None:
            raise UserError(
                f"{place}: {far:g} looks like pixels, expected fractions of the image's sides"
            )
        if outlined:
            self._first_outline = self._first_outline or place
            self._outlines += 1
            xs, ys = values[::2], values[1::2]
            return int(label), [min(xs), min(ys), max(xs), max(ys)]
        x, y, width, height = values
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
