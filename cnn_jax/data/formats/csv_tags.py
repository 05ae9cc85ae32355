"""`csv:FILE,IMAGES`: a table of image files with their labels, and the images' folder."""

import ast
import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cnn_jax.data.decode import read_header
from cnn_jax.data.finding import plain_forms
from cnn_jax.data.formats.folder import hold_out
from cnn_jax.data.image_files import EXTENSIONS
from cnn_jax.data.image_reading import RGB, Reading
from cnn_jax.data.source import Example, Settings, Split
from cnn_jax.errors import UserError
from cnn_jax.reading import existing_below, read_text, user_path

Labels = Bool[np.ndarray, "_ labels"]

_FIELD_SEPARATORS = ",;\t|"
_TAG_SEPARATORS = {",": "commas", "|": "vertical bars", ";": "semicolons"}

_WORDS = {"true": True, "false": False, "yes": True, "no": False}

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ITEM = re.compile(rf"\s*({_QUOTED}|[^,'\"\[\]]+)\s*(,|$)", re.DOTALL)


class CsvTagsSource:
    """Images for multi-label classification; an image may have no label.

    Attributes:
        class_names: the labels' names, in the table's order, or sorted if it lists tags.
        labels: the labels of each image.
        files: the file of each image.
        notices: how the table was read, one line each.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: Labels,
        class_names: tuple[str, ...],
        reading: Reading = RGB,
        notices: Sequence[str] = (),
    ):
        """Store the files and the labels of each."""
        self.class_names = class_names
        self.files = files
        self.labels = labels
        self.notices = tuple(notices)
        self._reading = reading

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        image = self._reading.decode(self.describe(index))
        return {"image": image, "labels": self.labels[index]}

    def describe(self, index: int) -> str:
        return self.files[index]

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns as the image's header has them."""
        return read_header(self.files[index]).size


def open_csv_tags(argument: str, split: Split, settings: Settings) -> CsvTagsSource:
    """Open one split of a table: a header row, then a row per image that begins with its file name.

    Fields are separated by what first separates the header's: a comma, a semicolon, a tab or a
    vertical bar. The other columns are either one for each label, or a single column of tags.

    - A column for each label holds 1, 1.0, true or yes where the label holds, in any case, else 0,
      0.0, false or no. In a table without 0, -1 stands for it (as in CelebA's).
    - Tags are separated by commas if a comma occurs in any row, else by vertical bars, else by
      semicolons, else by blanks (as in the Planet contest's `train_v2.csv`). So a tag may contain
      blanks where something else separates. Lists in brackets, as Python and JSON write them, are
      read as such. A table that mixes these is refused.

    The extension of a file name may be omitted. Absolute paths of other machines, and
    percent-encoded names, are looked for below the images' folder.

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
    path, images = user_path(table), user_path(folder)
    if not images.is_dir():
        raise UserError(f"--data csv:{argument}: no such folder of images: {images}")
    content = _read(path)
    labels, class_names, notices = _labels(content, path)
    names = [row.fields[0] for row in content.rows]
    rows = _rows(names, split, settings)
    if not rows:
        raise UserError(
            f"{path}: no rows for the split {split}; give --test-every or a larger "
            "--holdout-fraction"
        )
    missing_stay = settings.keep_bad_images
    files = [
        _file(images, names[row], path, content.rows[row].number, missing_stay) for row in rows
    ]
    return CsvTagsSource(files, labels[rows], class_names, settings.reading, notices)


def _rows(names: Sequence[str], split: Split, settings: Settings) -> list[int]:
    """Return the rows of a split, in the table's order."""
    every = settings.test_every
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


# The table


class _Row(NamedTuple):
    """A row of a table: the number of its last line in the file, and its fields without blanks."""

    number: int
    fields: list[str]


class _Table(NamedTuple):
    heading: list[str]
    rows: list[_Row]


def _read(path: Path) -> _Table:
    """Read a table whose rows have as many fields as its header, each for another file."""
    text = read_text(path)
    if "\0" in text:
        raise UserError(f"{path}: not text (it holds zero bytes)")
    # An open quotation mark would make one field of many rows, unless the reader is strict.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    try:
        rows = [_Row(reader.line_num, [field.strip() for field in row]) for row in reader]
    except csv.Error as error:
        raise UserError(
            f"{path}: cannot be read as a table (row {reader.line_num}: {error})"
        ) from None
    rows = [row for row in rows if any(row.fields)]
    if len(rows) < 2 or len(rows[0].fields) < 2:
        raise UserError(
            f"{path}: needs a header and at least one more row, each with a file name and labels"
        )
    heading = rows.pop(0).fields
    if heading[0].lower().endswith(EXTENSIONS):
        raise UserError(
            f"{path}: its first row is for the image {heading[0]}; put a header above it, such as "
            "file,tags"
        )
    for number, fields in rows:
        if len(fields) != len(heading):
            raise UserError(
                f"{path}: row {number} has {len(fields)} fields, the header {len(heading)}"
            )
    table = _without_empty_columns(_Table(heading, rows))
    seen: dict[str, int] = {}
    for number, (name, *_) in table.rows:
        if not name:
            raise UserError(f"{path}: row {number} has no file name")
        if name in seen:
            raise UserError(f"{path}: rows {seen[name]} and {number} are both for {name}")
        seen[name] = number
    return table


def _separator(text: str) -> str:
    """Find the separator of fields: the first one in the header."""
    header = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0])
    return next((char for char in header if char in _FIELD_SEPARATORS), ",")


def _without_empty_columns(table: _Table) -> _Table:
    """Leave out the index that pandas writes first, and empty columns that Excel writes last."""
    heading, rows = table
    index = [str(number) for number in range(len(rows))]
    first = int(len(heading) > 2 and not heading[0] and [row.fields[0] for row in rows] == index)
    last = len(heading)
    while last > 2 and not heading[last - 1] and not any(row.fields[last - 1] for row in rows):
        last -= 1
    return _Table(heading[first:last], [_Row(n, fields[first:last]) for n, fields in rows])


# Labels


def _labels(table: _Table, path: Path) -> tuple[Labels, tuple[str, ...], list[str]]:
    """The labels of each row, their names, and notices."""
    cells = [row.fields[1:] for row in table.rows]
    truths = {cell: _truth(cell) for row in cells for cell in row}
    if False not in truths.values():
        truths |= {cell: False for cell in truths if re.fullmatch(r"-1(\.0*)?", cell)}
    if len(table.heading) == 2 and None in truths.values():
        return _listed(table, path)
    class_names = tuple(table.heading[1:])
    if len(set(class_names)) != len(class_names) or "" in class_names:
        raise UserError(f"{path}: the header's labels must be named and distinct: {class_names}")
    for number, (_, *row) in table.rows:
        for name, cell in zip(class_names, row, strict=True):
            if truths[cell] is None:
                raise UserError(f"{path}: row {number}, column {name}: {cell!r} is not 0 or 1")
    labels = np.array([[truths[cell] for cell in row] for row in cells], bool)
    return labels, class_names, []


def _truth(cell: str) -> bool | None:
    """Read a cell that says whether its label holds; None if it says neither."""
    if re.fullmatch(r"\+?[01](\.0*)?", cell):
        return float(cell) == 1
    return _WORDS.get(cell.casefold())


def _listed(table: _Table, path: Path) -> tuple[Labels, tuple[str, ...], list[str]]:
    """Parse a column of tags into labels and their sorted names."""
    cells = [(row.number, row.fields[1]) for row in table.rows]
    first = {mark: number for number, cell in reversed(cells) for mark in _marks(cell)}
    if "[" in first:
        plain = next((number for number, cell in cells if cell and "[" not in _marks(cell)), None)
        if plain is not None:
            raise UserError(
                f"{path}: the tags of row {first['[']} are a list in brackets, those of row "
                f"{plain} are not; write them alike"
            )
        tags, by = [_items(cell, path, number) for number, cell in cells], "lists in brackets"
    elif len(first) > 1:
        (one, row), (other, other_row) = sorted(first.items(), key=lambda item: item[1])[:2]
        raise UserError(
            f"{path}: {_TAG_SEPARATORS[one]} in the tags of row {row}, {_TAG_SEPARATORS[other]} in "
            f"those of row {other_row}; one of them must separate tags in all rows"
        )
    else:
        mark = next(iter(first), None)
        tags = [[tag.strip() for tag in cell.split(mark)] for _, cell in cells]
        by = "separated by " + (_TAG_SEPARATORS[mark] if mark else "blanks")
    tags = [[tag for tag in row if tag] for row in tags]
    for (number, _), row in zip(cells, tags, strict=True):
        for tag in row:
            if not tag.isprintable() or ("[" not in first and _torn(tag)):
                raise UserError(
                    f"{path}: row {number}: {tag[:60]!r} is no tag; separate tags by commas, or "
                    "write lists as ['car', 'stop sign']"
                )
    class_names = tuple(sorted({tag for row in tags for tag in row}))
    if not class_names:
        raise UserError(f"{path}: its column of tags is empty")
    places = {name: place for place, name in enumerate(class_names)}
    labels = np.zeros((len(tags), len(class_names)), bool)
    for number, row in enumerate(tags):
        labels[number, [places[tag] for tag in row]] = True
    return labels, class_names, [f"{path}: {len(class_names):,} tags, {by}"]


def _marks(cell: str) -> set[str]:
    """Find the separator of tags in a cell: `[` if it is a list in brackets."""
    if cell.startswith("[") and cell.endswith("]"):
        return {"["}
    return {mark for mark in _TAG_SEPARATORS if mark in cell}


def _torn(tag: str) -> bool:
    """Tell whether a tag is a part of a list that is written in another way."""
    unequal = any(tag.count(left) != tag.count(right) for left, right in ("()", "[]", "{}"))
    return unequal or tag[0] in "[{'\"" or tag.startswith(("('", '("'))


def _items(cell: str, path: Path, number: int) -> list[str]:
    """The tags of a list in brackets, as Python or JSON writes it, or with bare words."""
    rest, tags = cell.removeprefix("[").removesuffix("]").strip(), []
    while rest:
        match = _ITEM.match(rest)
        if match is None:
            raise UserError(f"{path}: row {number}: {cell[:60]!r} is not a list of tags")
        item = match[1].strip()
        try:
            tags.append(str(ast.literal_eval(item)).strip() if item[0] in "'\"" else item)
        except (ValueError, SyntaxError):
            raise UserError(f"{path}: row {number}: {item[:60]!r} is not a tag") from None
        rest = rest[match.end() :]
    return tags


# Files


def _file(images: Path, name: str, table: Path, row: int, missing_stays: bool) -> str:
    """Find the file of a name.

    Args:
        images: the folder of images.
        name: as the table has it: perhaps without ending, changed by Label Studio, or a path of
            another machine.
        table, row: the place of the name, for the message.
        missing_stays: whether to return a path in any case.

    Raises:
        UserError: there is no such file.
    """
    for written in (name, *plain_forms(name)):
        for ending in ("", *EXTENSIONS, *(ending.upper() for ending in EXTENSIONS)):
            path = os.path.join(images, written + ending)
            if os.path.isfile(path):
                return path
        found = existing_below(written, images)
        if found is not None and found.is_file():
            return str(found)
    if missing_stays:
        return os.path.join(images, name)
    raise UserError(f"{table}: row {row}: no image {images / name}")
