"""`voc:DIR`: PASCAL VOC's folders `JPEGImages`, `Annotations` and `ImageSets/Main`."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnn_jax.data.finding import NameIndex
from cnn_jax.data.formats.boxes import BoxSource, StatedImage, number, require_folder, settle, short
from cnn_jax.data.formats.frames import Size
from cnn_jax.data.formats.xml import Element, read_xml
from cnn_jax.data.image_files import EXTENSIONS, describe_left_out, list_images
from cnn_jax.data.source import Settings, Split
from cnn_jax.data.splits import KINDS, by_kind, kind_of
from cnn_jax.errors import UserError
from cnn_jax.reading import LONGEST_PATH, MIB, files_in, folders_in, read_lines, user_path

# The folders, and other names that tools give them; in any case.
_FOLDERS = {
    "Annotations": ("annotations",),
    "JPEGImages": ("jpegimages", "images"),
    "ImageSets/Main": ("main",),
}

_MOST_LIST_BYTES = 256 * MIB

# Lists for a class have a second column, whose sign marks the presence of the class.
_WITH_COLUMN = re.compile(r"(.*\S)\s+(-1|0|1)")

_MARKS = {"": False, "false": False, "no": False, "unspecified": False, "true": True, "yes": True}


def open_voc(directory: str, split: Split, settings: Settings) -> BoxSource:
    """Open one split of a data set in PASCAL VOC's layout.

    The split `train` is `ImageSets/Main/train.txt`, else `trainval.txt`; `eval` is `val.txt`, else
    `test.txt`; `test` is `test.txt`, else `val.txt`. The names may be in other cases and forms
    (`Train.txt`, `validation.txt`), the folders in other cases. The classes are all those in
    annotations of the folder, sorted, so every split has the same classes.

    These files count pixels from 1, and the last pixel belongs to the box. So a box in continuous
    coordinates is [xmin - 1, ymin - 1, xmax, ymax]. A box with xmin = xmax, a typical slip in
    annotation tools, has no area.

    Raises:
        UserError: a folder, a file or an object is faulty; the message names it and the line.
    """
    if not directory:
        raise UserError("--data voc: lacks a folder, give voc:DIR")
    if settings.holdout_groups is not None:
        raise UserError("--holdout-groups: voc has its own lists in ImageSets/Main, so omit it")
    root = user_path(directory)
    places = {name: _folder(root, name) for name in _FOLDERS}
    for place in places.values():
        require_folder(place, f"voc:{directory}")
    labelled, pictures = places["Annotations"], places["JPEGImages"]
    known = {name[:-4]: name for name in files_in(labelled) if name.lower().endswith(".xml")}
    files, notices = _pictures(pictures)
    listing, names = _listed(places["ImageSets/Main"], split, {*known, *files})
    annotated, pictured = NameIndex(known), NameIndex(files)
    stems = [annotated.find(name) for name in names]
    for name, stem in zip(names, stems, strict=True):
        if stem is None:
            raise UserError(f"{labelled}/{name}.xml: cannot be read: no such file, in {listing}")
    annotations = {stem: _read(labelled / file) for stem, file in known.items()}
    class_names = sorted({item.name for each in annotations.values() for item in each.objects})
    if not class_names:
        raise UserError(f"{labelled}: no objects in any of its {len(known)} files")
    labels = {name: label for label, name in enumerate(class_names)}
    items = []
    for name, stem in zip(names, stems, strict=True):
        annotation = annotations[stem]
        found = pictured.find(name)
        if found is None and not settings.keep_bad_images:
            raise UserError(f"{pictures}/{name}.jpg: no such image, {split} lists it")
        choice = [f"{name}.jpg"] if found is None else files[found]
        file = annotation.file if annotation.file in choice else choice[0]
        if len(choice) > 1:
            notices.append(f"{pictures}: {' and '.join(choice)} have one name; {file} is read")
        items.append(_annotated(annotation, pictures / file, labels))
    images, repairs = settle(items, keep_bad_images=settings.keep_bad_images)
    notices += annotated.notices("annotation") + pictured.notices("image")
    return BoxSource(tuple(class_names), images, [*notices, *repairs], reading=settings.reading)


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    line: int


@dataclass(frozen=True)
class _Annotation:
    path: Path
    file: str
    size: Size | None
    objects: list[_Object]


def _folder(root: Path, name: str) -> Path:
    """The folder of this name, or of this name in another case; `name` itself if there is none."""
    usual, place = root / name, root
    if os.path.isdir(usual) or not os.path.isdir(root):
        return usual
    for part in (["imagesets"], _FOLDERS[name]) if "/" in name else (_FOLDERS[name],):
        found = [each for each in folders_in(place) if each.casefold() in part]
        if not found:
            return usual
        place /= min(found, key=lambda each: part.index(each.casefold()))
    return place


def _pictures(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The images by their names without endings, VOC's own JPEG first, and notices."""
    listing = list_images(folder)
    files: dict[str, list[str]] = {}
    for name in listing.files:
        if os.sep not in name:
            files.setdefault(os.path.splitext(name)[0], []).append(name)
    for names in files.values():
        names.sort(key=lambda name: (_preference(name), name))
    return files, describe_left_out(folder, listing.left_out)


def _preference(name: str) -> int:
    ending = os.path.splitext(name)[1].lower()
    return EXTENSIONS.index(ending) if ending in EXTENSIONS else len(EXTENSIONS)


def _listed(folder: Path, split: Split, known: set[str]) -> tuple[Path, list[str]]:
    """Find the list of a split, and read its names, some of which are `known` as files' names."""
    stems = {name[:-4]: name for name in files_in(folder) if name.lower().endswith(".txt")}
    stem = _list_of(split, list(stems), folder)
    if stem is None:
        usual = ("train", "trainval") if split == "train" else KINDS[split]
        raise UserError(f"{folder}: has neither {' nor '.join(f'{name}.txt' for name in usual)}")
    path = folder / stems[stem]
    lines = [line.strip() for line in read_lines(path, _MOST_LIST_BYTES)]
    for row, line in enumerate(lines, start=1):
        if len(line) > LONGEST_PATH:
            raise UserError(f"{path}:{row}: the name of an image has {len(line):,} characters")
    names = [_name(line, known) for line in lines if line]
    if not names:
        raise UserError(f"{path}: names no images")
    return path, names


def _list_of(split: Split, stems: list[str], folder: Path) -> str | None:
    """The list that serves as a split: the usual name of its kind, else another form of it."""
    for kind in KINDS[split]:
        usual = [stem for stem in stems if stem == kind]
        found = by_kind(usual or [stem for stem in stems if kind_of(stem) == kind], str(folder))
        if found:
            return found[kind]
    both = [stem for stem in stems if stem.casefold() == "trainval"] if split == "train" else []
    return "trainval" if "trainval" in both else next(iter(both), None)


def _name(line: str, known: set[str]) -> str:
    """The name in a line of a list: without the mark of a class, and without an image's ending."""
    if line in known:
        return line
    match = _WITH_COLUMN.fullmatch(line)
    name = match[1] if match else line
    stem, ending = os.path.splitext(name)
    return stem if name not in known and ending.lower() in EXTENSIONS and stem in known else name


def _read(path: Path) -> _Annotation:
    """Read an annotation file, with boxes in continuous coordinates."""
    root = read_xml(path)

    def child(element: Element, tag: str) -> Element:
        first = element.find(tag)
        if first is None:
            raise UserError(f"{path}:{element.line}: <{element.tag}> has no <{tag}>")
        return first

    def value(element: Element, tag: str) -> float:
        leaf = child(element, tag)
        try:
            return number(leaf.text)
        except ValueError:
            raise UserError(
                f"{path}:{leaf.line}: <{tag}> is {short(leaf.text.strip())}, expected a number"
            ) from None

    def side(element: Element, tag: str) -> float:
        leaf = child(element, tag)
        length = value(element, tag) if leaf.text.strip() else 0.0
        if not math.isfinite(length):
            raise UserError(f"{path}:{leaf.line}: <{tag}> is {length}, expected pixels")
        return length

    def marked(element: Element, tag: str) -> bool:
        leaf = element.find(tag)
        if leaf is None:
            return False
        known = _MARKS.get(leaf.text.strip().lower())
        return value(element, tag) > 0 if known is None else known

    objects = []
    for element in root.children:
        if element.tag != "object":
            continue
        name = child(element, "name")
        if not name.text.strip():
            raise UserError(f"{path}:{name.line}: <name> is empty, expected a class")
        corners = child(element, "bndbox")
        x1, y1, x2, y2 = (value(corners, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        # A side without length is kept; other sides begin at the start of their first pixel.
        box = (x1 - (x1 < x2), y1 - (y1 < y2), x2 - (x2 < x1), y2 - (y2 < y1))
        objects.append(_Object(name.text.strip(), box, marked(element, "difficult"), element.line))
    size, file = root.find("size"), root.find("filename")
    sides = None if size is None else (side(size, "height"), side(size, "width"))
    # Tools that do not know the size write 0.
    stated = sides if sides and min(sides) > 0 else None
    return _Annotation(path, "" if file is None else file.text.strip(), stated, objects)


def _annotated(annotation: _Annotation, file: Path, labels: dict[str, int]) -> StatedImage:
    objects = annotation.objects
    return StatedImage(
        str(file),
        str(annotation.path),
        np.array([item.box for item in objects], np.float64).reshape(-1, 4),
        np.array([labels[item.name] for item in objects], np.int32),
        lambda number: f"{annotation.path}:{objects[number].line}",
        annotation.size,
        difficult=np.array([item.difficult for item in objects], bool),
    )
