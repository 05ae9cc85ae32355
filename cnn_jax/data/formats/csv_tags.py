"""`csv:FILE,IMAGES`: a table of image files with their labels, and the images' folder."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from cnn_jax.data.decode import EXTENSIONS, decode
from cnn_jax.data.formats.folder import hold_out
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.errors import UserError

Labels = Bool[np.ndarray, "examples labels"]


class CsvTagsSource:
    """Images for multi-label classification; an image may have no label.

    Attributes:
        class_names: the labels' names, in the table's order, or sorted if it lists tags.
    """

    def __init__(
        self,
        images: Path,
        names: Sequence[str],
        labels: Labels,
        class_names: tuple[str, ...],
        draft_size: int | None = None,
    ):
        """Store the files, relative to `images`, and the labels of each."""
        self.class_names = class_names
        self._images = images
        self._names = names
        self._labels = labels
        self._draft_size = draft_size

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        image = decode(self.describe(index), draft_size=self._draft_size)
        return {"image": image, "labels": self._labels[index]}

    def describe(self, index: int) -> str:
        return os.path.join(self._images, self._names[index])


def open_csv_tags(argument: str, split: Split, settings: Settings) -> CsvTagsSource:
    """Open one split of a table: a header row, then a row per image that begins with its file name.

    The other columns are either one for each label, with 0 or 1, or a single column of tags
    separated by spaces or commas (as in the Planet contest's `train_v2.csv`). The extension of a
    file name may be omitted.

    The splits are the same in every run, for any seed. With `settings.test_every` N, `test` is the
    rows N, 2N, ... (counted from 1, without the header). Of the other rows,
    `settings.holdout_fraction` are `eval`, selected by a hash of their names, by whole groups with
    `settings.holdout_groups`; a fraction of 0 makes `eval` equal to `test`. Without `test_every`,
    `test` is `eval`.

    Raises:
        UserError: a file is missing or a row is invalid; the message names it.
    """
    table, comma, folder = argument.partition(",")
    if not comma or not table or not folder:
        raise UserError(f"--data csv:{argument}: give csv:FILE,IMAGES")
    path, images = Path(table).expanduser(), Path(folder).expanduser()
    if not images.is_dir():
        raise UserError(f"--data csv:{argument}: no such folder of images: {images}")
    names, labels, class_names = _read(path)
    rows = _rows(names, split, settings)
    if not rows:
        raise UserError(
            f"{path}: no rows for the split {split}; give --test-every or a larger "
            "--holdout-fraction"
        )
    files = [_file(images, names[row], path, row) for row in rows]
    return CsvTagsSource(images, files, labels[rows], class_names, settings.draft_size)


def _rows(names: Sequence[str], split: Split, settings: Settings) -> list[int]:
    """Return the rows of a split, in the table's order."""
    every = settings.test_every
    if every is not None and every < 2:
        raise UserError(f"--test-every {every}: must be 2 or more")
    test = set() if every is None else set(range(every - 1, len(names), every))
    rest = [name for row, name in enumerate(names) if row not in test]
    held = hold_out(rest, settings) if rest else set()
    evaluation = {row for row in range(len(names)) if row not in test and names[row] in held}
    chosen = {
        "train": set(range(len(names))) - test - evaluation,
        "eval": evaluation or test,
        "test": test or evaluation,
    }[split]
    return sorted(chosen)


def _read(path: Path) -> tuple[list[str], Labels, tuple[str, ...]]:
    """Read file names, labels and label names of a table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            heading, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as a table ({reason})") from None
    if len(heading) < 2 or not rows:
        raise UserError(
            f"{path}: needs a header and at least one more row, each with a file name and labels"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(heading):
            raise UserError(
                f"{path}: row {number} has {len(row)} fields, the header {len(heading)}"
            )
    names = [row[0].strip() for row in rows]
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=2):
        if name in seen:
            raise UserError(f"{path}: rows {seen[name]} and {number} are both for {name}")
        seen[name] = number
    if len(heading) == 2 and not {row[1].strip() for row in rows} <= {"0", "1"}:
        return names, *_listed([row[1] for row in rows], path)
    class_names = tuple(cell.strip() for cell in heading[1:])
    if len(set(class_names)) != len(class_names) or "" in class_names:
        raise UserError(f"{path}: the header's labels must be named and distinct: {class_names}")
    for number, row in enumerate(rows, start=2):
        for name, cell in zip(class_names, row[1:], strict=True):
            if cell.strip() not in ("0", "1"):
                raise UserError(f"{path}: row {number}, column {name}: {cell!r} is not 0 or 1")
    labels = np.array([[cell.strip() == "1" for cell in row[1:]] for row in rows])
    return names, labels, class_names


def _listed(cells: Sequence[str], path: Path) -> tuple[Labels, tuple[str, ...]]:
    """Parse a column of tags into labels and their sorted names."""
    tags = [[tag for tag in re.split(r"[,\s]+", cell) if tag] for cell in cells]
    class_names = tuple(sorted({tag for row in tags for tag in row}))
    if not class_names:
        raise UserError(f"{path}: its column of tags is empty")
    return np.array([[name in row for name in class_names] for row in map(set, tags)]), class_names


def _file(images: Path, name: str, table: Path, row: int) -> str:
    """Return the name of an existing file, with its extension."""
    if os.path.splitext(name)[1].lower() in EXTENSIONS:
        if (images / name).is_file():
            return name
    else:
        for ending in EXTENSIONS:
            if (images / (name + ending)).is_file():
                return name + ending
    raise UserError(f"{table}: row {row + 2}: no image {images / name}")
