"""`tfds:NAME[/CONFIG][:VERSION]` for detection: sets that list an image's objects or faces."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.data.decode import read_header
from cnn_jax.data.formats.boxes import Repairs, scaled
from cnn_jax.data.formats.frames import turn
from cnn_jax.data.formats.tfds import Records, only_feature, open_records
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.source import Example, Settings, Source, Split
from cnn_jax.errors import UserError

LISTS = ("objects", "faces")
"""The names of the list of objects, of which the first existing one counts."""

# The names in TFDS of our flags for ignored objects and for crowds.
_DIFFICULT = ("is_difficult", "invalid")
_CROWD = ("is_crowd",)


class TfdsBoxes:
    """Detection; the keys of its examples are those of `cnn_jax.data.formats.boxes.BoxSource`.

    TFDS gives boxes as [y1, x1, y2, x2] in fractions of the sides of the stored image: it decodes
    without regard to EXIF. Boxes are turned with images that EXIF turns.

    Attributes:
        class_names: the names of the objects' classes; `face` if there are only faces.
    """

    def __init__(
        self,
        records: Records,
        image: str,
        listed: str,
        class_names: tuple[str, ...],
        reading: Reading = RGB,
    ):
        """Store the records and the names of their features."""
        self.class_names = class_names
        self._reading = reading
        self._records = records
        self._image, self._listed = image, listed

    def __len__(self) -> int:
        return len(self._records.rows)

    def __getitem__(self, index: int) -> Example:
        name = self.describe(index)
        record = self._records.row(index, name)
        content = record[self._image]
        pixels, scale = self._reading.decode_scaled(content, name=name)
        header = read_header(content, name=name)
        objects = record[self._listed]
        height, width = header.stored
        boxes = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
        boxes = boxes * np.array([width, height, width, height])
        boxes, kept = Repairs().repair(
            turn(boxes, header.stored, header.orientation),
            header.size,
            lambda number: f"{self.describe(index)}: {self._listed}[{number}]",
        )
        boxes = boxes[kept].astype(np.float32)
        # The area may be that of an outline; TFDS stores COCO's as a whole number of pixels.
        own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        area = np.asarray(objects["area"])[kept] if "area" in objects else own
        return {
            **scaled(pixels, scale),
            "boxes": boxes,
            "labels": _labels(objects)[kept],
            "difficult": _any(objects, _DIFFICULT)[kept],
            "crowd": _any(objects, _CROWD)[kept],
            "area": np.asarray(area, np.float32),
        }

    def classes(self, index: int) -> np.ndarray:
        """Return the classes of the objects to train on, and of those without an area."""
        objects = self._objects(index)
        return _labels(objects)[~(_any(objects, _DIFFICULT) | _any(objects, _CROWD))]

    def object_count(self, index: int) -> int:
        """The number of boxes in a record, before those without an area are dropped."""
        return len(self._objects(index)["bbox"])

    def _objects(self, index: int) -> Mapping[str, Any]:
        return self._records.row(index, self.describe(index))[self._listed]

    def describe(self, index: int) -> str:
        return f"{self._records.title}[{index}]"


def open_tfds_boxes(name: str, split: Split, settings: Settings) -> Source:
    """Open one split of a data set for detection (`voc`, `coco`, `wider_face`, ...).

    Raises:
        UserError: as in `cnn_jax.data.formats.tfds.open_records`, or there are no boxes.
    """
    records = open_records(name, split, settings)
    from tensorflow_datasets import features as kinds

    image = only_feature(records, kinds.Image, "image", name, "to find objects in")
    features = records.features
    listed = next((key for key in LISTS if key in features), None)
    inner = getattr(features[listed], "feature", {}) if listed else {}
    if "bbox" not in inner:
        raise UserError(
            f"--data tfds:{name}: needs a list of boxes ({' or '.join(LISTS)}, with bbox), has "
            f"{', '.join(sorted(features))}"
        )
    names = tuple(inner["label"].names) if "label" in inner else ("face",)
    return records.part(TfdsBoxes(records, image, listed, names, settings.reading))


def _labels(objects: Mapping[str, Any]) -> np.ndarray:
    """Return the class of each object; 0 where there is only one."""
    return np.asarray(objects.get("label", np.zeros(len(objects["bbox"]))), np.int32)


def _any(objects: Mapping[str, Any], names: tuple[str, ...]) -> np.ndarray:
    """Return whether each object has any of these marks."""
    marked = np.zeros(len(objects["bbox"]), bool)
    for name in names:
        if name in objects:
            marked |= np.asarray(objects[name], bool)
    return marked
