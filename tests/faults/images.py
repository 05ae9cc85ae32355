"""Writers of small data sets of whole images and of masks, in every format, and their openers."""

import contextlib
import csv
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cnn_jax import data
from cnn_jax.data.label_colors import voc_colors
from cnn_jax.errors import UserError

Random = np.random.Generator
Writer = Callable[[Path, Random], None]
Opener = Callable[[Path], None]

SPLITS = {
    "train": ("train", "Training", "train2017"),
    "val": ("val", "valid", "Validation"),
    "test": ("test", "Testing", "test_set"),
}
"""Names of folders of splits by their kind."""


def formats() -> Mapping[str, tuple[Writer, Opener]]:
    """The writer and the opener of each format by name; the opener reads every example."""
    return {
        "folder": (write_folder, _reader(_open_folder)),
        "csv_columns": (write_columns, _reader(_open_csv)),
        "csv_tags": (write_tags, _reader(_open_csv)),
        "masks": (write_masks, _reader(_open_masks)),
        "masks_colors": (write_colored_masks, _reader(_open_masks)),
        "masks_tags": (write_masks, _reader(_open_mask_tags)),
        "tfds": (write_tfds, _naming(_reader(_open_tfds))),
        "tfds_masks": (write_tfds_masks, _naming(_reader(_open_tfds_masks))),
    }


def _reader(open_split: Callable[[Path, str], data.Source]) -> Opener:
    """An opener that reads every example of every split, and a survey's notices."""

    def read(folder: Path) -> None:
        for split in ("train", "eval", "test"):
            source = open_split(folder, split)
            for index in range(len(source)):
                source[index]
                source.describe(index)
            tuple(getattr(source, "notices", ()))

    return read


def _naming(read: Opener) -> Opener:
    """An opener that puts the folder before the messages: a record has no file of its own."""

    def naming(folder: Path) -> None:
        try:
            read(folder)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error

    return naming


# What all writers draw


def stems(rng: Random, count: int) -> list[str]:
    """Different names of files, without endings."""
    begin = ("", "IMG_", "a b ", "नम", "x.y-")[rng.integers(5)]
    return [f"{begin}{number}" for number in rng.permutation(10 + count)[:count].tolist()]


def class_names(rng: Random, least: int = 2) -> list[str]:
    """Different names of classes, sorted."""
    names = ["ant", "bee", "car", "stop sign", "été", "猫"]
    return sorted(rng.permutation(names)[: rng.integers(least, len(names) + 1)].tolist())


def save_image(rng: Random, path: Path, size: tuple[int, int] | None = None) -> None:
    """Write a picture of noise below `path`, to which an ending is added."""
    endings = (".png", ".png", ".jpg", ".bmp", ".tif", ".gif", ".ppm", ".webp", ".JPEG")
    height, width = size or rng.integers(1, 24, 2).tolist()
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path.with_name(path.name + endings[rng.integers(len(endings))]))


# One folder a class


def write_folder(folder: Path, rng: Random) -> None:
    """Classes below folders of splits, or alone; perhaps with folders within."""
    present = (("train", "val", "test"), ("train", "test"), ("train",), ())[rng.integers(4)]
    places = [folder / SPLITS[kind][rng.integers(3)] for kind in present] or [folder]
    for name in class_names(rng):
        for place in places:
            for stem in stems(rng, int(rng.integers(2, 4))):
                below = "more" if rng.random() < 0.1 else ""
                save_image(rng, place / name / below / stem)


def _open_folder(folder: Path, split: str) -> data.Source:
    return data.open_source(f"folder:{folder}", split)


# Tables


def write_columns(folder: Path, rng: Random) -> None:
    """A table with a column for each label."""
    yes, no = (("1", "0"), ("True", "False"), ("1.0", "0.0"), ("yes", "no"))[rng.integers(4)]
    names = class_names(rng, 1)
    rows = [[yes if holds else no for holds in rng.random(len(names)) < 0.5] for _ in range(6)]
    _write_table(folder, rng, names, rows)


def write_tags(folder: Path, rng: Random) -> None:
    """A table with a column of tags."""
    form = (", ", "|", ";", "json", "python")[rng.integers(5)]
    names = class_names(rng, 2)
    chosen = [names, *([n for n in names if rng.random() < 0.5] for _ in range(5))]
    written = {"json": json.dumps, "python": repr}.get(form, form.join)
    _write_table(folder, rng, ["tags"], [[written(tags)] for tags in chosen])


def _write_table(folder: Path, rng: Random, names: Sequence[str], rows: list[list[str]]) -> None:
    files = stems(rng, len(rows))
    for stem in files:
        save_image(rng, folder / "images" / stem)
    if rng.random() < 0.5:
        files = sorted(path.name for path in (folder / "images").iterdir())
    encoding = ("utf-8", "utf-8-sig")[rng.integers(2)]
    with (folder / "labels.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=",;\t"[rng.integers(3)])
        writer.writerow(["file", *names])
        writer.writerows([name, *row] for name, row in zip(files, rows, strict=True))


def _open_csv(folder: Path, split: str) -> data.Source:
    spec = f"csv:{folder}/labels.csv,{folder}/images"
    return data.open_source(spec, split, formats=data.TAG_FORMATS, test_every=3)


# Masks


def write_masks(folder: Path, rng: Random) -> None:
    """Masks of values, as one channel, a palette or three equal channels."""

    def draw(mask: np.ndarray) -> Image.Image:
        match rng.integers(4):
            case 0:
                image = Image.fromarray(mask).convert("P")
                image.putpalette(rng.integers(0, 256, 768).tolist())
                image.putdata(mask.ravel().tolist())
                return image
            case 1:
                return Image.fromarray(np.repeat(mask[..., None], 3, -1))
            case 2:
                return Image.fromarray(mask.astype(np.uint16))
        return Image.fromarray(mask)

    _write_masks(folder, rng, draw)
    if rng.random() < 0.5:
        (folder / "classes.txt").write_text("ground\nstop sign\nété\n", encoding="utf-8")


def write_colored_masks(folder: Path, rng: Random) -> None:
    """Masks in the colours of a table, or of VOC."""
    colors = rng.permutation(256 * 256)[:3, None] // [1, 256, 1] % 256
    rows = [",".join(map(str, [name, *color])) for name, color in zip("abc", colors, strict=True)]
    (folder / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows, ""]))
    if rng.random() < 0.3:
        (folder / "class_dict.csv").unlink()
        colors = voc_colors().colors[:3]
        rows = [
            " ".join(map(str, [*color, name])) for name, color in zip("abc", colors, strict=True)
        ]
        (folder / "class_dict.csv").write_text("\n".join(rows))
    colors = np.asarray(colors, np.uint8)
    _write_masks(folder, rng, lambda mask: Image.fromarray(colors[mask]))


def _write_masks(folder: Path, rng: Random, draw: Callable[[np.ndarray], Image.Image]) -> None:
    kinds = (("train", "val", "test"), ("train",), ())[rng.integers(3)]
    labels, split_first = ("labels", "masks")[rng.integers(2)], rng.random() < 0.3
    for kind in kinds or [""]:
        split = SPLITS[kind][rng.integers(3)] if kind else ""
        places = [Path(*((split, n) if split_first else (n, split))) for n in ("images", labels)]
        for number, stem in enumerate(stems(rng, int(rng.integers(2, 5)))):
            size = tuple(rng.integers(5, 16, 2).tolist())
            mask = rng.integers(0, 3, size, np.uint8)
            if number == 0:
                mask.flat[:3] = 0, 1, 2
            save_image(rng, folder / places[0] / stem, size)
            path = folder / places[1] / f"{stem}{('.png', '.tif', '.bmp')[rng.integers(3)]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = draw(mask)
            image.save(path if image.mode != "I;16" else path.with_suffix(".png"))


def _open_masks(folder: Path, split: str) -> data.Source:
    return data.open_source(f"masks:{folder}", split, formats=data.MASK_FORMATS)


def _open_mask_tags(folder: Path, split: str) -> data.Source:
    return data.open_source(f"masks:{folder}", split, formats=data.TAG_FORMATS, patch_size=4)


# TFDS


class FaultsPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures of two classes."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        }
    )
    SPLITS: ClassVar = {"train": 4, "validation": 2, "test": 2}

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.FEATURES)

    def _split_generators(self, dl_manager):
        return {split: self._examples(count) for split, count in self.SPLITS.items()}

    def _examples(self, count):
        rng = np.random.default_rng(count)
        for number in range(count):
            size = tuple(rng.integers(2, 9, 2).tolist())
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            yield number, {"image": _png(pixels), **self._truth(number, size)}

    def _truth(self, number, size):
        return {"label": number % 2}

    def _generate_examples(self):
        raise NotImplementedError


class FaultsPicturesAlone(FaultsPictures):
    """The same without a split for evaluation."""

    SPLITS: ClassVar = {"train": 12}


class FaultsMasks(FaultsPictures):
    """Pictures with masks of two classes."""

    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
        }
    )

    def _truth(self, number, size):
        return {"segmentation_mask": _png(np.indices(size).sum(axis=0).astype(np.uint8) % 2)}


def _png(pixels: np.ndarray) -> io.BytesIO:
    # TFDS stores what a file object holds as it is; arrays it would encode with TensorFlow.
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


@functools.cache
def _prepared(builder: type[FaultsPictures]) -> tempfile.TemporaryDirectory:
    """A folder with the prepared set, which is removed at the end of the process."""
    tfds.disable_progress_bar()
    place = tempfile.TemporaryDirectory(prefix="faults-tfds-")
    with contextlib.redirect_stdout(io.StringIO()):
        builder(data_dir=place.name, file_format="array_record").download_and_prepare()
    return place


def _copied(folder: Path, builder: type[FaultsPictures]) -> None:
    shutil.copytree(_prepared(builder).name, folder, dirs_exist_ok=True)


def write_tfds(folder: Path, rng: Random) -> None:
    """A prepared set of pictures, with or without splits for evaluation."""
    _copied(folder, (FaultsPictures, FaultsPicturesAlone)[rng.integers(2)])


def write_tfds_masks(folder: Path, rng: Random) -> None:
    """A prepared set of masks."""
    _copied(folder, FaultsMasks)


def _open_tfds(folder: Path, split: str) -> data.Source:
    alone = (folder / FaultsPicturesAlone.name).exists()
    name = (FaultsPicturesAlone if alone else FaultsPictures).name
    return data.open_source(f"tfds:{name}", split, data_dir=folder)


def _open_tfds_masks(folder: Path, split: str) -> data.Source:
    return data.open_source(
        f"tfds:{FaultsMasks.name}",
        split,
        formats=data.MASK_FORMATS,
        data_dir=folder,
        class_names=("even", "odd"),
    )
