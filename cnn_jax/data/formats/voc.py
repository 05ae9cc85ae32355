"""`voc:DIR`: PASCAL VOC's folders `JPEGImages`, `Annotations` and `ImageSets/Main`."""

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import numpy as np

from cnn_jax.data.decode import EXTENSIONS
from cnn_jax.data.formats.boxes import BoxedImage, BoxSource, Repairs, image_size, require_folder
from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError

# The list of files of each split, of which the first existing one counts.
_LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "trainval"),
    "eval": ("val", "test"),
    "test": ("test", "val"),
}


def open_voc(directory: str, split: Split, settings: Settings) -> BoxSource:
    """Open one split of a data set in PASCAL VOC's layout.

    The split `train` is `ImageSets/Main/train.txt`, else `trainval.txt`; `eval` is `val.txt`, else
    `test.txt`; `test` is `test.txt`, else `val.txt`. The classes are all those in annotations of
    the folder, sorted, so every split has the same classes.

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
    root = Path(directory).expanduser()
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        require_folder(root / folder, f"voc:{directory}")
    names = _listed(root, split)
    known = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    annotations = {name: _read(root / "Annotations" / f"{name}.xml") for name in {*names, *known}}
    class_names = sorted({item.name for each in annotations.values() for item in each.objects})
    if not class_names:
        raise UserError(f"{root / 'Annotations'}: no objects in any of its {len(known)} files")
    files = {path.stem: path for path in sorted((root / "JPEGImages").iterdir())
             if path.suffix.lower() in EXTENSIONS}  # fmt: skip
    labels = {name: label for label, name in enumerate(class_names)}
    repairs = Repairs()
    images = []
    for name in names:
        if name not in files:
            raise UserError(f"{root / 'JPEGImages' / name}.jpg: no such image, {split} lists it")
        images.append(_boxed(annotations[name], files[name], labels, repairs))
    return BoxSource(tuple(class_names), images, repairs.notices())


@dataclass
class _Element:
    """An XML element: its first line, its text and its children."""

    tag: str
    line: int
    text: str = ""
    children: list["_Element"] = field(default_factory=list)

    def find(self, tag: str) -> "_Element | None":
        return next((child for child in self.children if child.tag == tag), None)


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    line: int


@dataclass(frozen=True)
class _Annotation:
    path: Path
    size: tuple[int, int] | None
    objects: list[_Object]


def _listed(root: Path, split: Split) -> list[str]:
    """Read the names of a split's images."""
    folder = root / "ImageSets" / "Main"
    paths = [folder / f"{name}.txt" for name in _LISTS[split]]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{folder}: has neither {' nor '.join(p.name for p in paths)}")
    # Lists for a class have a second column, whose sign marks the presence of the class.
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path}: names no images")
    return names


def _read(path: Path) -> _Annotation:
    """Read an annotation file, with boxes in continuous coordinates."""
    root = _parse(path)

    def child(element: _Element, tag: str) -> _Element:
        first = element.find(tag)
        if first is None:
            raise UserError(f"{path}:{element.line}: <{element.tag}> has no <{tag}>")
        return first

    def number(element: _Element, tag: str) -> float:
        leaf = child(element, tag)
        try:
            return float(leaf.text)
        except ValueError:
            raise UserError(
                f"{path}:{leaf.line}: <{tag}> is {leaf.text.strip()!r}, expected a number"
            ) from None

    objects = []
    for element in root.children:
        if element.tag != "object":
            continue
        name = child(element, "name")
        if not name.text.strip():
            raise UserError(f"{path}:{name.line}: <name> is empty, expected a class")
        corners = child(element, "bndbox")
        x1, y1, x2, y2 = (number(corners, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        # A side without length is kept; other sides begin at the start of their first pixel.
        box = (x1 - (x1 < x2), y1 - (y1 < y2), x2 - (x2 < x1), y2 - (y2 < y1))
        difficult = element.find("difficult") is not None and number(element, "difficult") > 0
        objects.append(_Object(name.text.strip(), box, difficult, element.line))
    size = root.find("size")
    sides = None if size is None else (int(number(size, "height")), int(number(size, "width")))
    return _Annotation(path, sides if sides and min(sides) > 0 else None, objects)


def _parse(path: Path) -> _Element:
    """Parse an XML file, with the line of each element, which ElementTree lacks."""
    top = _Element("", 0)
    stack = [top]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        stack[-1].children.append(_Element(tag, parser.CurrentLineNumber))
        stack.append(stack[-1].children[-1])

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise UserError(f"{path}:{error.lineno}: not well-formed XML ({reason})") from None
    return top.children[0]


def _boxed(
    annotation: _Annotation, file: Path, labels: dict[str, int], repairs: Repairs
) -> BoxedImage:
    objects = annotation.objects
    boxes = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
    size = annotation.size or image_size(file)
    boxes, kept = repairs.repair(
        boxes, size, lambda number: f"{annotation.path}:{objects[number].line}"
    )
    return BoxedImage(
        str(file),
        boxes[kept],
        np.array([labels[item.name] for item in objects], np.int32)[kept],
        difficult=np.array([item.difficult for item in objects], bool)[kept],
    )
