"""Writers of packed data for every task, from the data sets that the other writers make."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cnn_jax import data
from cnn_jax.data import packed, packing
from cnn_jax.data.transforms import (
    BoxTransform,
    EvaluationTransform,
    HostTransform,
    MaskTransform,
    TrainingTransform,
)
from tests.faults import boxes, images

Random = np.random.Generator
Writer = Callable[[Path, Random], None]
Opener = Callable[[Path], None]


def formats() -> Mapping[str, tuple[Writer, Opener]]:
    """The writer and the opener of packed data for each task by name."""
    whole = (TrainingTransform(9), EvaluationTransform(9, 8))
    box, mask = BoxTransform(9, 4), MaskTransform((8, 9), resized=True)
    made = {
        "packed": ("classify", "folder", data.FORMATS, whole),
        "packed_tags": ("annotate", "csv_tags", data.TAG_FORMATS, whole),
        "packed_boxes": ("detect", "coco", data.BOX_FORMATS, (box, box)),
        "packed_masks": ("segment", "masks", data.MASK_FORMATS, (mask, mask)),
    }
    return {
        name: (partial(_write, task, of, transforms), partial(_read, table))
        for name, (task, of, table, transforms) in made.items()
    }


def _write(
    task: str, of: str, transforms: tuple[HostTransform, HostTransform], folder: Path, rng: Random
) -> None:
    with tempfile.TemporaryDirectory() as place:
        there = Path(place)
        {**images.formats(), **boxes.formats()}[of][0](there, rng)
        opened: Callable[[str], data.Source] = {
            "folder": partial(images._open_folder, there),
            "csv_tags": partial(images._open_csv, there),
            "masks": partial(images._open_masks, there),
            "coco": partial(boxes.open_coco, there),
        }[of]
        parts = {
            split: packing.Part(opened(split), transforms[split != "train"])
            for split in ("train", "eval", "test")
        }
        packing.write(folder, parts, {"task": task, "data": of, "seed": 0}, (), lambda line: None)


def _read(table: data.Formats, folder: Path) -> None:
    """Open every split, read every example, and compare all bytes with their checksums."""
    for split in ("train", "eval", "test"):
        source = data.open_source(f"packed:{folder}", split, formats=table)
        for index in range(len(source)):
            source[index]
            source.describe(index)
    packed.verify(folder)
