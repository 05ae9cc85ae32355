"""`coco:JSON,IMAGES`: box annotations in COCO's format, and the folder of the images."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.formats.boxes import BoxedImage, BoxSource, Repairs, image_size, require_folder
from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError


def open_coco(argument: str, split: Split, settings: Settings) -> BoxSource:
    """Open one split of a data set in COCO's format.

    `coco:JSON,IMAGES` holds `settings.holdout_fraction` of the images out of training, selected by
    a hash of their names: the same in every run. `coco:JSON,IMAGES,JSON,IMAGES` has separate files
    for evaluation. Labels are the positions of the sorted category ids, which may have gaps.

    Raises:
        UserError: a file is faulty; the message names it and its line or entry.
    """
    spec = f"coco:{argument}"
    parts = [part.strip() for part in argument.split(",")]
    if len(parts) not in (2, 4) or not all(parts):
        raise UserError(f"--data {spec}: give coco:JSON,IMAGES or coco:JSON,IMAGES,JSON,IMAGES")
    if settings.holdout_groups is not None:
        raise UserError("--holdout-groups: coco holds out single images, so omit it")
    files = [Path(part).expanduser() for part in parts]
    trained, evaluated = files[:2], files[-2:]
    path, folder = trained if split == "train" else evaluated
    require_folder(folder, spec)
    content = _load(path)
    class_names = _class_names(content, path)
    if len(parts) == 4:
        other = (evaluated if split == "train" else trained)[0]
        if _class_names(_load(other), other) != class_names:
            raise UserError(f"{other}: its categories differ from those of {path}")
    images, notices = _read(content, path, folder)
    if len(parts) == 2:
        chosen = _held_out([image.path for image in images], settings.holdout_fraction)
        if split != "train" and not chosen:
            raise UserError(f"{path}: too few images to hold any out for evaluation")
        images = [image for image in images if (image.path in chosen) == (split != "train")]
    return BoxSource(tuple(class_names.values()), images, notices)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not JSON (not UTF-8)") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: has no list {key!r}, expected COCO's object annotations")
    return content


def _class_names(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the categories' names by id, in ascending order."""
    entries = [
        (_entry(entry, "id", int, path, f"categories[{i}]"),
         _entry(entry, "name", str, path, f"categories[{i}]"))
        for i, entry in enumerate(content["categories"])
    ]  # fmt: skip
    names = dict(sorted(entries))
    if not names or len(names) < len(entries) or len(set(names.values())) < len(names):
        raise UserError(f"{path}: categories must have ids and names, each once")
    return names


def _read(content: dict[str, Any], path: Path, folder: Path) -> tuple[list[BoxedImage], list[str]]:
    """Read all images, and notices about repairs."""
    labels = {number: label for label, number in enumerate(_class_names(content, path))}
    by_image: dict[Any, list[int]] = {}
    for i, image in enumerate(content["images"]):
        number = _entry(image, "id", int, path, f"images[{i}]")
        if number in by_image:
            raise UserError(f"{path}: images[{i}]: a second image with id {number}")
        by_image[number] = []
    for i, annotation in enumerate(content["annotations"]):
        place = f"annotations[{i}]"
        number = _entry(annotation, "image_id", int, path, place)
        if number not in by_image:
            raise UserError(f"{path}: {place}: there is no image with id {number}")
        if _entry(annotation, "category_id", int, path, place) not in labels:
            category = annotation["category_id"]
            raise UserError(f"{path}: {place}: there is no category with id {category}")
        box = _entry(annotation, "bbox", list, path, place)
        if len(box) != 4 or not all(_is_number(value) for value in box):
            raise UserError(f"{path}: {place}: bbox is {box}, expected [x, y, width, height]")
        by_image[number].append(i)
    repairs = Repairs()
    images = []
    for i, image in enumerate(content["images"]):
        file = folder / _entry(image, "file_name", str, path, f"images[{i}]")
        rows = by_image[image["id"]]
        entries = [content["annotations"][row] for row in rows]
        boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        size = image.get("height"), image.get("width")
        boxes, kept = repairs.repair(
            boxes,
            size if all(_is_number(side) and side > 0 for side in size) else image_size(file),
            lambda number, rows=rows: f"{path}: annotations[{rows[number]}]",
        )
        areas = [entry.get("area") for entry in entries]
        own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        known = [a if _is_number(a) else b for a, b in zip(areas, own.tolist(), strict=True)]
        images.append(
            BoxedImage(
                str(file),
                boxes[kept],
                np.array([labels[entry["category_id"]] for entry in entries], np.int32)[kept],
                crowd=np.array([bool(entry.get("iscrowd")) for entry in entries], bool)[kept],
                area=np.array(known, np.float64)[kept],
            )
        )
    return images, repairs.notices()


def _entry(entry: Any, key: str, kind: type, path: Path, place: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {int: "a whole number", str: "a text", list: "a list"}[kind]
        raise UserError(f"{path}: {place}: {key} is {value!r}, expected {name}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _held_out(names: list[str], fraction: float) -> set[str]:
    """Select a fraction of the images, those with the smallest hashes; never all."""
    if fraction == 0 or len(names) < 2:
        return set()
    wanted = min(max(round(fraction * len(names)), 1), len(names) - 1)
    hashes = {name: hashlib.sha256(Path(name).name.encode()).digest() for name in names}
    return set(sorted(names, key=lambda name: (hashes[name], name))[:wanted])
