"""`yolo:DATA.yaml`: a text file of labels for each image, `class cx cy w h` in fractions of it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cnn_jax.data.decode import EXTENSIONS
from cnn_jax.data.formats.boxes import BoxedImage, BoxSource, Repairs
from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError

_KEYS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "eval": ("val", "test"),
    "test": ("test", "val"),
}

# Fractions are rounded to six digits, so this distance beyond the border is no mistake.
_SLACK = 2e-3


def open_yolo(argument: str, split: Split, settings: Settings) -> BoxSource:
    """Open one split of a data set in YOLO's format.

    The YAML file has `names` (a list, or names by number), optionally `path`, and `train`, `val`
    and `test`: a folder of images, a text file that lists them, or a list of either, relative to
    `path`. The split `eval` is `val`, else `test`; the split `test` is `test`, else `val`.

    The labels of `.../images/A.jpg` are in `.../labels/A.txt`; without that file the image has no
    objects. A line with more than two points is an outline, of which the box is used.

    Raises:
        UserError: a file is faulty; the message names it and the line.
    """
    if not argument:
        raise UserError("--data yolo: lacks a file, give yolo:DATA.yaml")
    if settings.holdout_groups is not None:
        raise UserError("--holdout-groups: yolo names its own splits, so omit it")
    path = Path(argument).expanduser()
    content = _load(path)
    class_names = _class_names(content, path)
    key = next((key for key in _KEYS[split] if content.get(key)), None)
    if key is None:
        raise UserError(f"{path}: has no {' or '.join(_KEYS[split])}: which images are they?")
    root = path.parent / str(content.get("path") or ".")
    places = content[key] if isinstance(content[key], list) else [content[key]]
    files = [file for place in places for file in _images(root, str(place), path)]
    if not files:
        raise UserError(
            f"{path}: {key}: {content[key]} contains no images ({', '.join(EXTENSIONS)})"
        )
    repairs = Repairs()
    images = [_boxed(file, len(class_names), repairs) for file in files]
    return BoxSource(class_names, images, repairs.notices(), relative=True)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{line}: not YAML ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys 'names', 'train' and 'val'")
    return content


def _class_names(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or sorted(names) != list(range(len(names))):
        raise UserError(f"{path}: names must be a list, or have the numbers from 0 on")
    count = content.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{path}: nc is {count}, but there are {len(names)} names")
    return tuple(str(names[number]) for number in range(len(names)))


def _images(root: Path, place: str, path: Path) -> list[Path]:
    """List the images in a folder or in a list."""
    listed = root / place
    if listed.is_dir():
        return sorted(p for p in listed.rglob("*") if p.name.lower().endswith(EXTENSIONS))
    if listed.suffix == ".txt" and listed.is_file():
        lines = listed.read_text().splitlines()
        return [listed.parent / line.strip() for line in lines if line.strip()]
    raise UserError(f"{path}: {listed}: neither a folder nor a .txt file that lists images")


def _label_file(image: Path) -> Path:
    """Replace the last `images` in the path by `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def _boxed(image: Path, num_classes: int, repairs: Repairs) -> BoxedImage:
    path = _label_file(image)
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    rows = [
        (number, *_parse(line, f"{path}:{number}", num_classes))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    boxes = np.array([box for _, _, box in rows], np.float64).reshape(-1, 4)
    boxes, kept = repairs.repair(
        boxes, (1.0, 1.0), lambda number: f"{path}:{rows[number][0]}", _SLACK
    )
    labels = np.array([label for _, label, _ in rows], np.int32)
    return BoxedImage(os.fspath(image), boxes[kept], labels[kept])


def _parse(line: str, place: str, num_classes: int) -> tuple[int, list[float]]:
    """Parse a line into its label and the corners of its box."""
    try:
        label, *values = (float(word) for word in line.split())
    except ValueError:
        raise UserError(
            f"{place}: {line.strip()!r} contains words, expected class cx cy w h"
        ) from None
    if not 0 <= label < num_classes or label != int(label):
        raise UserError(f"{place}: class {label:g} is none of the {num_classes} in the YAML file")
    if len(values) == 4:
        x, y, width, height = values
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(values) < 6 or len(values) % 2:
        raise UserError(f"{place}: {len(values) + 1} numbers, expected 5: class cx cy w h")
    xs, ys = values[::2], values[1::2]
    return int(label), [min(xs), min(ys), max(xs), max(ys)]
