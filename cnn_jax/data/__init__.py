"""Data sources: `open_source` selects the reader for a data spec."""

import os
from collections import ChainMap
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

from cnn_jax.data.formats.coco import open_coco
from cnn_jax.data.formats.csv_tags import open_csv_tags
from cnn_jax.data.formats.folder import open_folder
from cnn_jax.data.formats.mask_tags import open_mask_tags
from cnn_jax.data.formats.masks import open_masks
from cnn_jax.data.formats.packed import (
    open_packed,
    open_packed_boxes,
    open_packed_masks,
    open_packed_tags,
)
from cnn_jax.data.formats.shape_boxes import open_shape_boxes
from cnn_jax.data.formats.shape_masks import open_shape_masks
from cnn_jax.data.formats.shape_tags import open_shape_tags
from cnn_jax.data.formats.shapes import open_shapes
from cnn_jax.data.formats.tfds import open_tfds
from cnn_jax.data.formats.tfds_boxes import open_tfds_boxes
from cnn_jax.data.formats.tfds_masks import open_tfds_masks
from cnn_jax.data.formats.voc import open_voc
from cnn_jax.data.formats.yolo import open_yolo
from cnn_jax.data.packed import folder_of, read_manifest
from cnn_jax.data.source import Settings, Source, Split
from cnn_jax.errors import UserError

Formats = Mapping[str, Callable[[str, Split, Settings], Source]]

FORMATS: Formats = {
    "shapes": open_shapes,
    "folder": open_folder,
    "tfds": open_tfds,
    "packed": open_packed,
}
"""The readers by format name, the part of a data spec before the colon; arguments: the rest of the
spec, the split and the settings."""

BOX_FORMATS: Formats = {
    "shapes": open_shape_boxes,
    "voc": open_voc,
    "coco": open_coco,
    "yolo": open_yolo,
    "tfds": open_tfds_boxes,
    "packed": open_packed_boxes,
}
"""Readers of examples with boxes."""

MASK_FORMATS: Formats = {
    "shapes": open_shape_masks,
    "masks": open_masks,
    "tfds": open_tfds_masks,
    "packed": open_packed_masks,
}
"""Readers of examples with masks."""

TAG_FORMATS: Formats = {
    "shapes": open_shape_tags,
    "csv": open_csv_tags,
    "masks": open_mask_tags,
    "packed": open_packed_tags,
}
"""Readers for multi-label classification: `labels` bool [classes]."""


Task = Literal["classify", "annotate", "detect", "segment"]

TASK_FORMATS: Mapping[Task, Formats] = {
    "classify": FORMATS,
    "detect": BOX_FORMATS,
    "segment": MASK_FORMATS,
    "annotate": TAG_FORMATS,
}
"""The readers of each task on images, in the order in which a format is taken for one's."""


def task_of(spec: str) -> Task:
    """The task that data was packed for, else the first one with a reader of its format.

    Raises:
        UserError: no task has one.
    """
    if (folder := folder_of(spec)) is not None:
        return read_manifest(folder)["about"]["task"]
    name = spec.partition(":")[0]
    for task, formats in TASK_FORMATS.items():
        if name in formats:
            return task
    raise UserError(_unknown(spec, name, ChainMap(*map(dict, TASK_FORMATS.values()))))


def open_source(
    spec: str,
    split: Split,
    *,
    seed: int = 0,
    image_size: int = 64,
    formats: Formats = FORMATS,
    **settings: Any,
) -> Source:
    """Open one split of the data that `spec` names.

    Args:
        spec: `FORMAT` or `FORMAT:ARGUMENT`, with FORMAT a key of `formats`.
        split: `train`, `eval` (evaluated during training) or `test`.
        seed: the run's seed, for generated data.
        image_size: the side in pixels of generated images; files keep their own size.
        formats: the readers of the task.
        **settings: the other fields of `Settings`.

    Raises:
        UserError: the format is unknown, or its reader raised the error.
    """
    name, _, argument = spec.partition(":")
    reader = formats.get(name)
    if reader is None:
        raise UserError(_unknown(spec, name, formats))
    return reader(argument, split, Settings(seed=seed, image_size=image_size, **settings))


def _unknown(spec: str, name: str, formats: Formats) -> str:
    known = ", ".join(formats)
    if os.path.isdir(spec) and "folder" in formats:
        return f"--data {spec}: a folder of images is given as folder:{spec}"
    nearest = get_close_matches(name, formats, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"--data {spec}: unknown format {name!r}; {hint}known: {known}"
