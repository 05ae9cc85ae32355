"""`tfds:NAME[/CONFIG]`: data sets of the TensorFlow Datasets catalogue, read without TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from cnn_jax.data.decode import decode
from cnn_jax.data.source import Example, Settings, Source, Split, Subset
from cnn_jax.errors import UserError

# The names of a split in TFDS, of which the first existing one counts.
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "eval": ("validation", "test"),
    "test": ("test", "validation"),
}


class TfdsSource:
    """Classification on one split of a prepared data set; images stay encoded until read.

    Attributes:
        class_names: the names of the label feature.
    """

    def __init__(
        self,
        name: str,
        records: Sequence[dict[str, Any]],
        image_feature: str,
        label_feature: str,
        class_names: tuple[str, ...],
        draft_size: int | None = None,
    ):
        """Store the records, which allow random access and hold encoded images."""
        self.class_names = class_names
        self._name = name
        self._records = records
        self._image_feature = image_feature
        self._label_feature = label_feature
        self._draft_size = draft_size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        label = record[self._label_feature]
        if label < 0:
            raise UserError(
                f"{self.describe(index)}: has no label; this split is for contest submissions"
            )
        image = decode(
            record[self._image_feature], name=self.describe(index), draft_size=self._draft_size
        )
        return {"image": image, "label": np.int32(label)}

    def describe(self, index: int) -> str:
        return f"{self._name}[{index}]"


@dataclass(frozen=True)
class Records:
    """A split of a prepared data set: random access to records with encoded images.

    Attributes:
        title: the data set's name and its split, for messages.
        rows: the records.
        features: TFDS's own description of the records.
        span: the records of the split.
    """

    title: str
    rows: Sequence[dict[str, Any]]
    features: Any
    span: range

    def part(self, source: Source) -> Source:
        """Return the split's examples from a source of all rows."""
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
    source = TfdsSource(records.title, records.rows, image, label, names, settings.draft_size)
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
        raise UserError("--data tfds: lacks a name, give tfds:NAME or tfds:NAME/CONFIG")
    if settings.holdout_groups is not None:
        raise UserError(f"--holdout-groups: tfds:{name} has no file names to group, so omit it")
    # Imported here because it takes a second, which other formats should not pay for.
    import tensorflow_datasets as tfds

    builder = builder_of(tfds, name, settings)
    prepare(builder, name, settings)
    features = builder.info.features
    available = set(builder.info.splits)
    chosen = next((place for place in SPLITS[split] if place in available), "train")
    if chosen not in available:
        raise UserError(f"--data tfds:{name}: has no split {chosen!r}, only {_list(available)}")
    try:
        rows = builder.as_data_source(split=chosen, decoders=_undecoded(tfds, features))
    except NotImplementedError:
        raise UserError(
            f"--data tfds:{name}: {builder.data_dir} holds {builder.info.file_format.value} files; "
            f"prepare it elsewhere and give that --data-dir: {_command(name, 'DIR')}"
        ) from None
    span = range(len(rows))
    if chosen == "train" and not available & {*SPLITS["eval"]}:
        boundary = len(rows) - max(1, round(len(rows) * settings.holdout_fraction))
        span = range(boundary) if split == "train" else range(boundary, len(rows))
    return Records(f"tfds:{name} {chosen}", rows, features, span)


def builder_of(tfds: Any, name: str, settings: Settings) -> Any:
    """Return TFDS's own object for a data set, prepared or not."""
    try:
        return tfds.builder(name, data_dir=settings.data_dir)
    except tfds.core.DatasetNotFoundError:
        nearest = get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise UserError(f"--data tfds:{name}: no data set of this name{hint}") from None
    except ValueError as error:
        # An unknown configuration or version; the last line lists the known ones.
        reason = " ".join(str(error).split())
        raise UserError(f"--data tfds:{name}: {reason}") from None


def prepare(builder: Any, name: str, settings: Settings) -> None:
    """Download and prepare a data set unless that has been done."""
    if builder.is_prepared():
        return
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        # This call uses the network, the disk and arbitrary code.
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise UserError(
            f"--data tfds:{name}: not in {builder.data_dir}, and preparing it here failed "
            f"({reason}); where there is a network and TensorFlow "
            f"(pip install 'cnn_jax[tfds-prepare]'), run: {_command(name, settings.data_dir)}"
        ) from error


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


def _list(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))
