"""`tfds:NAME[/CONFIG][:VERSION]`: data sets of TensorFlow Datasets, read without TensorFlow."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.decode import read_header
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.source import Example, Settings, Source, Split, Subset
from cnn_jax.data.splits import Kind, kind_of, serving
from cnn_jax.errors import UserError
from cnn_jax.reading import MIB, list_files, require_file

FORM = "tfds:NAME, tfds:NAME/CONFIG or tfds:NAME/CONFIG:VERSION"

_MOST_METADATA_BYTES = 64 * MIB

# TFDS's own names of splits. A set may have others of the same meaning beside them (`test2015`).
_USUAL = ("train", "validation", "test")


class TfdsSource:
    """Classification on one split of a prepared data set; images stay encoded until read.

    Attributes:
        class_names: the names of the label feature.
    """

    def __init__(
        self,
        records: "Records",
        image_feature: str,
        label_feature: str,
        class_names: tuple[str, ...],
        reading: Reading = RGB,
    ):
        """Store the records, which allow random access and hold encoded images."""
        self.class_names = class_names
        self._records = records
        self._image_feature = image_feature
        self._label_feature = label_feature
        self._reading = reading

    def __len__(self) -> int:
        return len(self._records.rows)

    def __getitem__(self, index: int) -> Example:
        record = self._records.row(index, self.describe(index))
        label = self._label(record, index)
        image = self._reading.decode(record[self._image_feature], name=self.describe(index))
        return {"image": image, "label": label}

    def classes(self, index: int) -> np.ndarray:
        """Return the label alone."""
        return np.array([self._label(self._records.row(index, self.describe(index)), index)])

    def _label(self, record: dict[str, Any], index: int) -> np.int32:
        label = record[self._label_feature]
        if label < 0:
            raise UserError(
                f"{self.describe(index)}: has no label; this split is for contest submissions"
            )
        return np.int32(label)

    def describe(self, index: int) -> str:
        return f"{self._records.title}[{index}]"

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns as the image's header has them."""
        name = self.describe(index)
        return read_header(self._records.row(index, name)[self._image_feature], name=name).size


@dataclass(frozen=True)
class Records:
    """A split of a prepared data set: random access to records with encoded images.

    Attributes:
        title: the data set's name and its split, for messages.
        rows: the records, dictionaries by the features' names.
        features: TFDS's own description of the records.
        span: the records of the split.
    """

    title: str
    rows: Sequence[Any]
    features: Any
    span: range

    def row(self, index: int, name: str) -> dict[str, Any]:
        """Read a record, called `name` in messages.

        Raises:
            UserError: its file is damaged or missing.
        """
        try:
            return self.rows[index]
        except IndexError:
            raise
        except Exception as error:
            raise UserError(f"{name}: cannot be read ({_reason(error)})") from error

    def part(self, source: Source) -> Source:
        """Return the split's examples from a source of all rows.

        Raises:
            UserError: there are none.
        """
        if not self.span:
            raise UserError(f"{self.title}: no examples are left for this split")
        return source if len(self.span) == len(self.rows) else Subset(source, self.span)


def open_tfds(name: str, split: Split, settings: Settings) -> Source:
    """Open one split of a data set for classification.

    Raises:
        UserError: as in :func:`open_records`, or the data set is not for image classification.
    """
    records = open_records(name, split, settings)
    from tensorflow_datasets import features

    why = "to classify images by"
    image = only_feature(records, features.Image, "image", name, why)
    label = only_feature(records, features.ClassLabel, "label", name, why)
    names = tuple(records.features[label].names)
    source = TfdsSource(records, image, label, names, settings.reading)
    return records.part(source)


def open_records(name: str, split: Split, settings: Settings) -> Records:
    """Open one split of a data set, which is downloaded and prepared first if possible.

    The split `eval` is `validation`, else `test`; the split `test` is `test`, else `validation`.
    If neither exists, both are the last `settings.holdout_fraction` of `train` (whose records
    TFDS has shuffled), which is then excluded from training.

    Data sets are read from array_record files below `settings.data_dir`, or `TFDS_DATA_DIR`, or
    `~/tensorflow_datasets`. The preparation of certain sets needs TensorFlow, once.

    Raises:
        UserError: the name or the configuration is unknown, or the data set is not prepared and
            cannot be.
    """
    if not name:
        raise UserError(f"--data tfds: lacks a name, give {FORM}")
    if settings.holdout_groups is not None:
        raise UserError(f"--holdout-groups: tfds:{name} has no file names to group, so omit it")
    # Imported here because it takes a second, which other formats should not pay for.
    import tensorflow_datasets as tfds

    builder = builder_of(tfds, name, settings)
    prepare(builder, name, settings)
    features, found = builder.info.features, found_splits(builder.info.splits)
    chosen = serving(split, found) or found.get("train")
    if chosen is None:
        available = _list(builder.info.splits) or "none"
        raise UserError(f"--data tfds:{name}: has no split 'train', only {available}")
    try:
        rows = builder.as_data_source(split=chosen, decoders=_undecoded(tfds, features))
        count = len(rows)
    except NotImplementedError:
        raise UserError(
            f"--data tfds:{name}: {builder.data_dir} holds {builder.info.file_format.value} files; "
            f"prepare it elsewhere and give that --data-dir: {_command(name, 'DIR')}"
        ) from None
    except Exception as error:
        # Damaged or missing files, on which TFDS raises almost anything.
        raise UserError(
            f"--data tfds:{name}: {builder.data_dir} cannot be read ({_reason(error)})"
        ) from error
    span = range(count)
    if serving("eval", found) is None:
        fraction = settings.holdout_fraction
        boundary = count - (max(1, round(count * fraction)) if fraction else 0)
        span = range(boundary) if split == "train" else range(boundary, count)
    return Records(f"tfds:{name} {chosen}", rows, features, span)


def found_splits(names: Iterable[str]) -> dict[Kind, str]:
    """The split of each kind; of several the one that is called as usual in TFDS."""
    found: dict[Kind, str] = {}
    for name in sorted(names, key=lambda name: (name not in _USUAL, name)):
        if (kind := kind_of(name)) is not None:
            found.setdefault(kind, name)
    return found


def builder_of(tfds: Any, name: str, settings: Settings) -> Any:
    """Return TFDS's own object for a data set, prepared or not.

    Raises:
        UserError: the name or the configuration is unknown, or the prepared files are damaged.
    """
    _require_files(tfds, name, settings)
    try:
        return tfds.builder(name, data_dir=settings.data_dir)
    except tfds.core.DatasetNotFoundError:
        nearest = get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise UserError(f"--data tfds:{name}: no data set of this name{hint}") from None
    except Exception as error:
        # An unknown configuration or version; the last line lists the known ones. Or damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--data tfds:{name}: {reason}") from None


def _require_files(tfds: Any, name: str, settings: Settings) -> None:
    """Raise UserError if a prepared set holds what is no file, which TFDS would read for ever."""
    data_dir = settings.data_dir or tfds.core.constants.DATA_DIR
    place = Path(os.path.expanduser(data_dir)) / re.split(r"[/:]", name)[0]
    if not place.is_dir():
        return
    listing = list_files(place)
    for kind in ("named pipe", "device", "socket"):
        if listing.left_out[kind]:
            raise UserError(f"--data tfds:{name}: {place} holds a {kind}, not only files")
    for file in listing.files:
        if file.endswith((".json", ".txt")):
            require_file(place / file, _MOST_METADATA_BYTES)


def prepare(builder: Any, name: str, settings: Settings) -> None:
    """Download and prepare a data set unless that has been done."""
    if builder.is_prepared():
        return
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        # This call uses the network, the disk and arbitrary code.
        raise UserError(
            f"--data tfds:{name}: {_failure(error, builder, name, settings)}"
        ) from error


def _failure(error: Exception, builder: Any, name: str, settings: Settings) -> str:
    """The reason why a data set cannot be prepared here, and what would help."""
    import requests  # It comes with TFDS, which downloads with it.

    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    # TFDS adds words to errors, and the new ones lack the module's name.
    missing = [cause.name for cause in causes if isinstance(cause, ImportError) and cause.name]
    if missing:
        package = missing[-1].partition(".")[0]
        extra = "'cnn_jax[tfds-prepare]'" if package == "tensorflow" else package
        return f"preparing it needs {package}, which is not installed here: pip install {extra}"
    begin = f"not in {builder.data_dir}, and preparing it here failed ({_reason(error)})"
    unreachable = (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout)
    if any(isinstance(cause, unreachable) for cause in causes):
        return f"{begin}; where there is a network, run: {_command(name, settings.data_dir)}"
    return begin


def _command(name: str, data_dir: Any) -> str:
    place = "" if data_dir is None else f" --data_dir={data_dir}"
    return f"tfds build {name} --file_format=array_record{place}"


def only_feature(records: Records, kind: type, usual: str, name: str, why: str) -> str:
    """Return the name of the feature of a kind: the usual one, or the only one.

    Raises:
        UserError: there is none, or there are several; `why` names its purpose.
    """
    features = records.features
    candidates = [feature for feature in features if isinstance(features[feature], kind)]
    if usual in candidates:
        return usual
    if len(candidates) != 1:
        raise UserError(
            f"--data tfds:{name}: needs one feature {usual!r} {why}, has {_list(features)}"
        )
    return candidates[0]


def _undecoded(tfds: Any, features: Any) -> dict[str, Any]:
    """Keep images encoded, because TFDS's own decoding differs from Pillow's."""
    return {
        name: tfds.decode.SkipDecoding()
        for name in features
        if isinstance(features[name], tfds.features.Image)
    }


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _list(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))
