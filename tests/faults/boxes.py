"""Writers of small data sets with boxes, in every format that is read, and their openers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax import data
from cnn_jax.data.source import Source

Writer = Callable[[Path, np.random.Generator], None]
Opener = Callable[[Path], None]


@dataclass(frozen=True)
class Picture:
    """An image and its objects.

    Attributes:
        name: the file's name without its ending.
        split: `train`, `val` or `test`.
        size: rows and columns.
        boxes: [x1, y1, x2, y2] in pixels.
        labels: the positions in the class names.
        marked: whether each object is difficult (VOC) or a crowd (COCO).
    """

    name: str
    split: str
    size: tuple[int, int]
    boxes: Sequence[tuple[float, float, float, float]]
    labels: Sequence[int]
    marked: Sequence[bool]

    def save(self, path: Path) -> None:
        """Write the image, grey with its boxes in white."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*self.size, 3), 90, np.uint8)
        for x1, y1, x2, y2 in np.rint(np.array(self.boxes).reshape(-1, 4)).astype(int):
            pixels[y1:y2, x1:x2] = 255
        Image.fromarray(pixels).save(path)


def pictures(rng: np.random.Generator, names: Sequence[str]) -> list[Picture]:
    """A few pictures with up to three objects, of each split at least one with all classes."""
    drawn = []
    for number, split in enumerate(["train"] * int(rng.integers(1, 4)) + ["val", "test"]):
        height, width = (int(side) for side in rng.integers(20, 50, 2))
        labels = [*range(len(names))] if split == "train" else []
        labels += rng.integers(len(names), size=rng.integers(3)).tolist()
        boxes = []
        for _ in labels:
            x, y = rng.integers(0, [width - 8, height - 8])
            right, bottom = rng.integers([x + 2, y + 2], [width, height], endpoint=True)
            boxes.append((float(x), float(y), float(right), float(bottom)))
        marked = (rng.random(len(labels)) < 0.3).tolist()
        name = ("", "IMG_", "a b ", "नम")[rng.integers(4)] + str(number)
        drawn.append(Picture(name, split, (height, width), boxes, labels, marked))
    return drawn


def class_names(rng: np.random.Generator) -> list[str]:
    """Sorted names of one to three classes."""
    return sorted(["cat", "stop sign", "naïve", "猫"][: rng.integers(1, 4)])


# VOC


def write_voc(folder: Path, drawn: Sequence[Picture], names: Sequence[str]) -> None:
    """Write PASCAL VOC's folders."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for picture in drawn:
        lists[picture.split].append(picture.name)
        picture.save(folder / "JPEGImages" / f"{picture.name}.png")
        objects = "".join(
            f"<object>\n<name>{names[label]}</name>\n<difficult>{int(marked)}</difficult>\n"
            f"<bndbox><xmin>{x1 + 1!r}</xmin><ymin>{y1 + 1!r}</ymin><xmax>{x2!r}</xmax>"
            f"<ymax>{y2!r}</ymax></bndbox>\n</object>\n"
            for (x1, y1, x2, y2), label, marked in zip(
                picture.boxes, picture.labels, picture.marked, strict=True
            )
        )
        height, width = picture.size
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<annotation>\n<filename>{picture.name}.png'
            f"</filename>\n<size><width>{width}</width><height>{height}</height><depth>3</depth>"
            f"</size>\n{objects}</annotation>\n"
        )
        _write(folder / "Annotations" / f"{picture.name}.xml", text)
    for split, listed in lists.items():
        _write(folder / "ImageSets/Main" / f"{split}.txt", "".join(f"{n}\n" for n in listed))


def open_voc(folder: Path, split: str) -> Source:
    """Open one split of what `write_voc` wrote."""
    return data.open_source(f"voc:{folder}", split, formats=data.BOX_FORMATS)


# COCO


def coco_content(drawn: Sequence[Picture], names: Sequence[str]) -> dict:
    """The objects of pictures as COCO has them."""
    annotations = [
        {
            "id": 0,
            "image_id": number,
            "category_id": 3 * label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1) / 2,
            "iscrowd": int(marked),
        }
        for number, picture in enumerate(drawn)
        for (x1, y1, x2, y2), label, marked in zip(
            picture.boxes, picture.labels, picture.marked, strict=True
        )
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    return {
        "images": [
            {"id": number, "file_name": f"{picture.name}.png", "height": picture.size[0],
             "width": picture.size[1]}
            for number, picture in enumerate(drawn)
        ],
        "annotations": annotations,
        "categories": [
            {"id": 3 * label + 1, "name": name, "supercategory": "none"}
            for label, name in enumerate(names)
        ],
    }  # fmt: skip


def write_coco(folder: Path, drawn: Sequence[Picture], names: Sequence[str]) -> None:
    """Write a file for training and one for evaluation, beside the folder of all images."""
    for picture in drawn:
        picture.save(folder / "images" / f"{picture.name}.png")
    for file, training in (("train.json", True), ("val.json", False)):
        content = coco_content([p for p in drawn if (p.split == "train") == training], names)
        _write(folder / file, json.dumps(content))


def open_coco(folder: Path, split: str) -> Source:
    """Open one split of what `write_coco` wrote."""
    spec = ",".join(f"{folder}/{part}" for part in ("train.json", "images", "val.json", "images"))
    return data.open_source(f"coco:{spec}", split, formats=data.BOX_FORMATS)


def with_run_lengths(content: dict, rng: np.random.Generator) -> dict:
    """Replace the boxes of some annotations by outlines or run lengths of the same box."""
    sizes = [(image["height"], image["width"]) for image in content["images"]]
    for annotation in content["annotations"]:
        x, y, width, height = map(int, annotation["bbox"])
        kind = int(rng.integers(3))
        if kind == 1:
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotation["segmentation"] = [corners]
        if kind == 2:
            rows, columns = sizes[annotation["image_id"]]
            mask = np.zeros((rows, columns), bool)
            mask[y : y + height, x : x + width] = True
            flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
            changes = np.flatnonzero(np.diff(flat))
            counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
            annotation["segmentation"] = {"size": [rows, columns], "counts": counts}
        if kind:
            del annotation["bbox"]
    return content


# YOLO


def write_yolo(folder: Path, drawn: Sequence[Picture], names: Sequence[str]) -> None:
    """Write the folders of images and labels, and `data.yaml`."""
    for picture in drawn:
        picture.save(folder / "images" / picture.split / f"{picture.name}.png")
        height, width = picture.size
        lines = [
            f"{label} {(x1 + x2) / 2 / width!r} {(y1 + y2) / 2 / height!r} "
            f"{(x2 - x1) / width!r} {(y2 - y1) / height!r}\n"
            for (x1, y1, x2, y2), label in zip(picture.boxes, picture.labels, strict=True)
        ]
        _write(folder / "labels" / picture.split / f"{picture.name}.txt", "".join(lines))
    splits = "".join(
        f"{split}: images/{split}\n"
        for split in ("train", "val", "test")
        if any(picture.split == split for picture in drawn)
    )
    listed = "".join(f"  {label}: {json.dumps(name)}\n" for label, name in enumerate(names))
    _write(folder / "data.yaml", f"path: .\n{splits}nc: {len(names)}\nnames:\n{listed}")


def open_yolo(folder: Path, split: str) -> Source:
    """Open one split of what `write_yolo` wrote."""
    return data.open_source(f"yolo:{folder}/data.yaml", split, formats=data.BOX_FORMATS)


# The campaign's view


def formats() -> Mapping[str, tuple[Writer, Opener]]:
    """The writer and the opener of each format by name; the opener reads every example."""
    openers = {
        "voc": open_voc,
        "coco": open_coco,
        "coco_masks": open_coco,
        "yolo": open_yolo,
        "yolo_poses": open_yolo,
        "yolo_lists": open_yolo,
    }
    writers = {
        "voc": _drawn(write_voc),
        "coco": _drawn(write_coco),
        "coco_masks": _coco_masks,
        "yolo": _drawn(write_yolo),
        "yolo_poses": _yolo_poses,
        "yolo_lists": _yolo_lists,
    }
    return {name: (writers[name], _reader(openers[name])) for name in writers}


def _drawn(write: Callable[[Path, Sequence[Picture], Sequence[str]], None]) -> Writer:
    def writer(folder: Path, rng: np.random.Generator) -> None:
        names = class_names(rng)
        write(folder, pictures(rng, names), names)

    return writer


def _coco_masks(folder: Path, rng: np.random.Generator) -> None:
    names = class_names(rng)
    write_coco(folder, pictures(rng, names), names)
    for name in ("train.json", "val.json"):
        content = json.loads((folder / name).read_text())
        _write(folder / name, json.dumps(with_run_lengths(content, rng)))


def _yolo_poses(folder: Path, rng: np.random.Generator) -> None:
    _drawn(write_yolo)(folder, rng)
    points = int(rng.integers(1, 4))
    file = folder / "data.yaml"
    _write(file, f"{file.read_text()}kpt_shape: [{points}, 3]\n")
    for path in sorted((folder / "labels").rglob("*.txt")):
        lines = path.read_text().splitlines()
        _write(path, "".join(f"{line}{' 0.5 0.5 2' * points}\n" for line in lines))


def _yolo_lists(folder: Path, rng: np.random.Generator) -> None:
    _drawn(write_yolo)(folder, rng)
    for split in ("train", "val", "test"):
        files = sorted((folder / "images" / split).iterdir())
        lines = "".join(f"./images/{split}/{file.name}\n" for file in files)
        _write(folder / f"{split}.txt", lines)
    file = folder / "data.yaml"
    _write(file, file.read_text().replace("images/train", "train.txt")
           .replace("images/val", "val.txt").replace("images/test", "test.txt"))  # fmt: skip


def _reader(opener: Callable[[Path, str], Source]) -> Opener:
    def read(folder: Path) -> None:
        for split in ("train", "eval", "test"):
            source = opener(folder, split)
            for index in range(len(source)):
                example = source[index]
                height, width = example["image"].shape[:2]
                boxes = example["boxes"]
                assert np.all(boxes[:, 2:] > boxes[:, :2]), "a box without area"
                assert np.all((boxes >= 0) & (boxes <= [width, height] * 2)), "a box outside"
                assert np.all(
                    (example["labels"] >= 0) & (example["labels"] < len(source.class_names))
                )
                assert np.all(np.isfinite(example["area"])), "an area that is not finite"
                assert len(example["labels"]) <= source.object_count(index)

    return read


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
