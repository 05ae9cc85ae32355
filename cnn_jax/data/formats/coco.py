"""`coco:JSON,IMAGES`: box annotations in COCO's format, and the folder of the images."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.finding import ImageFinder
from cnn_jax.data.formats.boxes import BoxSource, StatedImage, number, require_folder, settle, short
from cnn_jax.data.formats.frames import Size
from cnn_jax.data.formats.run_lengths import Shape, box_of_outlines, box_of_runs, decode_counts
from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError
from cnn_jax.reading import read_json, user_path

_CROWD = {"": False, "0": False, "false": False, "none": False, "1": True, "true": True}

# The largest side of a mask: above it run lengths describe no image.
_MOST_SIDE = 2**24
_MOST_AREA = 1e12


def open_coco(argument: str, split: Split, settings: Settings) -> BoxSource:
    """Open one split of a data set in COCO's format.

    `coco:JSON,IMAGES` holds `settings.holdout_fraction` of the images out of training, selected by
    a hash of their names: the same in every run. `coco:JSON,IMAGES,JSON,IMAGES` has separate files
    for evaluation. Labels are the positions of the sorted category ids, which may have gaps.

    An annotation without `bbox` has the box around its outlines or run lengths. A category that is
    only the heading of others (`supercategory`) and has no annotations is no class.

    Raises:
        UserError: a file is faulty; the message names it and its line or entry.
    """
    spec = f"coco:{argument}"
    parts = [part.strip() for part in argument.split(",")]
    if len(parts) not in (2, 4) or not all(parts):
        raise UserError(f"--data {spec}: give coco:JSON,IMAGES or coco:JSON,IMAGES,JSON,IMAGES")
    if settings.holdout_groups is not None:
        raise UserError("--holdout-groups: coco holds out single images, so omit it")
    files = [user_path(part) for part in parts]
    trained, evaluated = files[:2], files[-2:]
    path, folder = trained if split == "train" else evaluated
    require_folder(folder, spec)
    content = _load(path)
    contents = {path: content}
    if len(parts) == 4:
        other = (evaluated if split == "train" else trained)[0]
        contents[other] = content if other == path else _load(other)
    class_names, notices = _class_names(contents)
    chosen = content["images"]
    if len(parts) == 2:
        names = [
            _entry(image, "file_name", str, path, f"images[{i}]") for i, image in enumerate(chosen)
        ]
        held = _held_out([str(folder / name) for name in names], settings.holdout_fraction)
        if split != "train" and not held:
            raise UserError(f"{path}: too few images to hold any out for evaluation")
        wanted = [(str(folder / name) in held) == (split != "train") for name in names]
    else:
        wanted = [True] * len(chosen)
    finder = ImageFinder(folder)
    items = _read(content, path, finder, list(class_names), wanted)
    images, repairs = settle(items, keep_bad_images=settings.keep_bad_images)
    notices = [*notices, *finder.notices(), *repairs]
    return BoxSource(tuple(class_names.values()), images, notices, reading=settings.reading)


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: has no list {key!r}, expected COCO's object annotations")
    return content


def _class_names(contents: Mapping[Path, dict[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """Return the names by id of the categories that are classes, in ascending order, and notices.

    Args:
        contents: all given files, the one to read first. Their categories must be the same.
    """
    tables = {path: _categories(content, path) for path, content in contents.items()}
    path, names = next(iter(tables.items()))
    for other, table in tables.items():
        if {key: name for key, (name, _) in table.items()} != {
            key: name for key, (name, _) in names.items()
        }:
            raise UserError(f"{other}: its categories differ from those of {path}")
    used = {
        _key(annotation.get("category_id"))
        for content in contents.values()
        for annotation in content["annotations"]
        if isinstance(annotation, dict)
    }
    above = {heading for _, heading in names.values() if isinstance(heading, str)}
    headings = {
        key
        for key, (name, own) in names.items()
        if key not in used and name != own and name in above
    }
    kept = {key: name for key, (name, _) in names.items() if key not in headings}
    if not kept or len(set(kept.values())) < len(kept):
        raise UserError(f"{path}: categories must have ids and names, each once")
    notices = [
        f"{path}: the category {names[key][0]!r} (id {key}) is left out: it is only the heading of "
        "others, and nothing is annotated with it"
        for key in sorted(headings)
    ]
    return kept, notices


def _categories(content: dict[str, Any], path: Path) -> dict[str, tuple[str, Any]]:
    """The names and the headings of all categories by id, in ascending order."""
    found: dict[str, tuple[str, Any]] = {}
    for i, entry in enumerate(content["categories"]):
        place = f"categories[{i}]"
        key = _id(entry, "id", path, place)
        name = _entry(entry, "name", str, path, place)
        if key in found:
            raise UserError(f"{path}: categories must have ids and names, each once")
        found[key] = name, entry.get("supercategory")
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(key: str) -> tuple[int, int, str]:
    """Sort ids that are numbers by number, before others."""
    digits = key.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 400:
        return 0, int(key), key
    return 1, 0, key


def _read(
    content: dict[str, Any],
    path: Path,
    finder: ImageFinder,
    classes: Sequence[str],
    wanted: Sequence[bool],
) -> list[StatedImage]:
    """Read the wanted images with their objects; the objects of all images are checked."""
    labels = {key: label for label, key in enumerate(classes)}
    by_image: dict[str, list[int]] = {}
    for i, image in enumerate(content["images"]):
        key = _id(image, "id", path, f"images[{i}]")
        if key in by_image:
            raise UserError(f"{path}: images[{i}]: a second image with id {key}")
        by_image[key] = []
    for i, annotation in enumerate(content["annotations"]):
        place = f"annotations[{i}]"
        key = _id(annotation, "image_id", path, place)
        if key not in by_image:
            raise UserError(f"{path}: {place}: there is no image with id {key}")
        category = _id(annotation, "category_id", path, place)
        if category not in labels:
            raise UserError(f"{path}: {place}: there is no category with id {category}")
        by_image[key].append(i)
    items = []
    for i, image in enumerate(content["images"]):
        place = f"{path}: images[{i}]"
        file = _entry(image, "file_name", str, path, f"images[{i}]")
        rows = by_image[_key(image["id"])]
        entries = [content["annotations"][row] for row in rows]
        size = _size(image, place)
        shapes = []
        for row, entry in zip(rows, entries, strict=True):
            shape, size = _shape(entry, size, f"{path}: annotations[{row}]")
            shapes.append(shape)
        if not wanted[i]:
            continue
        boxes = np.array([box for box, _ in shapes], np.float64).reshape(-1, 4)
        items.append(
            StatedImage(
                finder.find(file, place),
                place,
                boxes,
                np.array([labels[_key(entry["category_id"])] for entry in entries], np.int32),
                lambda number, rows=rows: f"{path}: annotations[{rows[number]}]",
                size,
                crowd=np.array([_crowd(entry, path, row)
                                for row, entry in zip(rows, entries, strict=True)], bool),
                area=_areas(entries, shapes, path, rows),
            )
        )  # fmt: skip
    return items


def _shape(entry: dict[str, Any], size: Size | None, place: str) -> tuple[Shape, Size | None]:
    """The box of an annotation, its area (NaN where only the box tells), and the image's size."""
    box = entry.get("bbox")
    segmentation = entry.get("segmentation")
    if box in (None, []) and segmentation:
        try:
            if isinstance(segmentation, dict):
                return _of_runs(segmentation, size)
            return box_of_outlines(_outlines(segmentation)), size
        except ValueError as error:
            raise UserError(f"{place}: segmentation: {error}") from None
    if not isinstance(box, list):
        raise UserError(f"{place}: bbox is {short(box)}, expected a list")
    if len(box) != 4 or not all(_is_number(value) for value in box):
        raise UserError(f"{place}: bbox is {short(box)}, expected [x, y, width, height]")
    x, y, width, height = map(_float, box)
    return ((x, y, x + width, y + height), math.nan), size


def _of_runs(segmentation: dict[str, Any], size: Size | None) -> tuple[Shape, Size]:
    own, counts = segmentation.get("size"), segmentation.get("counts")
    if not (
        isinstance(own, list)
        and len(own) == 2
        and all(isinstance(side, int) and 0 < side <= _MOST_SIDE for side in own)
    ):
        raise ValueError(f"size is {short(own)}, expected [rows, columns]")
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
        raise ValueError(f"counts is {short(counts)}, expected run lengths")
    rows, columns = own
    if size is not None and size != (rows, columns):
        raise ValueError(
            f"its mask is {columns} x {rows}, but the image's size is {size[1]:g} x {size[0]:g}"
        )
    return box_of_runs(counts, rows, columns), (float(rows), float(columns))


def _outlines(segmentation: Any) -> list[list[float]]:
    """The outlines of an object's parts; a single one may stand without its list."""
    if isinstance(segmentation, list) and all(map(_is_number, segmentation)):
        segmentation = [segmentation]
    if not isinstance(segmentation, list) or not all(
        isinstance(part, list) and all(map(_is_number, part)) for part in segmentation
    ):
        raise ValueError(f"is {short(segmentation)}, expected lists of x1, y1, x2, y2, ...")
    outlines = [[_float(value) for value in part] for part in segmentation]
    if not all(math.isfinite(value) for part in outlines for value in part):
        raise ValueError("a coordinate is not finite")
    return outlines


def _size(image: dict[str, Any], place: str) -> Size | None:
    """Rows and columns as stated; None if they are missing or 0."""
    sides = []
    for key in ("height", "width"):
        value = image.get(key)
        side = 0.0 if value in (None, "") else _lenient(value)
        if side is None or not math.isfinite(side):
            raise UserError(f"{place}: {key} is {short(value)}, expected a number of pixels")
        sides.append(side)
    return (sides[0], sides[1]) if min(sides) > 0 else None


def _areas(
    entries: Sequence[dict[str, Any]], shapes: Sequence[Shape], path: Path, rows: Sequence[int]
) -> np.ndarray:
    """The stated areas, else those of outlines and masks; NaN where only the box tells."""
    areas = []
    for row, entry, (_, own) in zip(rows, entries, shapes, strict=True):
        value = entry.get("area")
        area = own if value in (None, "") else _lenient(value)
        unknown = value in (None, "") and math.isnan(own)
        if area is None or not (unknown or abs(area) <= _MOST_AREA):
            raise UserError(
                f"{path}: annotations[{row}]: area is {short(value)}, expected a number of pixels"
            )
        areas.append(area)
    return np.array(areas, np.float64)


def _crowd(entry: dict[str, Any], path: Path, row: int) -> bool:
    value = entry.get("iscrowd")
    crowd = _CROWD.get(value.strip().lower()) if isinstance(value, str) else bool(value)
    if crowd is None or isinstance(value, list | dict):
        raise UserError(f"{path}: annotations[{row}]: iscrowd is {short(value)}, expected 0 or 1")
    return crowd


def _entry(entry: Any, key: str, kind: type, path: Path, place: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {str: "a text", list: "a list"}[kind]
        raise UserError(f"{path}: {place}: {key} is {short(value)}, expected {name}")
    return value


def _id(entry: Any, name: str, path: Path, place: str) -> str:
    """An id as text: `7`, `7.0` and `"7"` are the same."""
    value = entry.get(name) if isinstance(entry, dict) else None
    key = _key(value)
    if key is None:
        raise UserError(f"{path}: {place}: {name} is {short(value)}, expected a whole number")
    return key


def _key(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: int | float) -> float:
    """The number in floating point: infinite where it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _lenient(value: Any) -> float | None:
    """A number, also one written as text; None if it is none."""
    if isinstance(value, str):
        try:
            return number(value)
        except ValueError:
            return None
    return _float(value) if _is_number(value) else None


def _held_out(names: list[str], fraction: float) -> set[str]:
    """Select a fraction of the images, those with the smallest hashes; never all."""
    if fraction == 0 or len(names) < 2:
        return set()
    wanted = min(max(round(fraction * len(names)), 1), len(names) - 1)
    hashes = {name: hashlib.sha256(Path(name).name.encode()).digest() for name in names}
    return set(sorted(names, key=lambda name: (hashes[name], name))[:wanted])
