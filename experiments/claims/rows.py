"""The values of a claim's runs, a row each, in CSV files.

`results/NAME.csv` has the committed ones, which are not measured again; `OUT/NAME/rows.csv` has
those that were measured here. A row is found by its key (see `Claim.key`), so that one of another
configuration, as a changed claim has it, counts no more.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.ranges import Range
from cnn_jax.reading import read_text

from .. import options as flags
from .claim import FOLDER, Claim, Variant

COMMITTED = FOLDER / "results"

_TYPES = {
    "key": str,
    "setting": str,
    "seed": Annotated[int, Range(0, 2**32 - 1)],
    "measure": str,
    "value": Annotated[float, Range(-1e300, 1e300)],
    "seconds": Annotated[float, Range(0, 1e9)],
    "device": str,
}


class Row(NamedTuple):
    """A value of a run.

    Attributes:
        key: the hash of all that decides it.
        setting: the label of its variant.
        seed: of the run.
        measure: its name in the claim.
        value: the number.
        seconds: the time of the run.
        device: what it ran on.
    """

    key: str
    setting: str
    seed: int
    measure: str
    value: float
    seconds: float
    device: str


Rows = Mapping[str, Row]
"""Rows by their keys."""


def read(path: Path) -> dict[str, Row]:
    """The rows of a file; none where there is no file.

    Raises:
        UserError: the file is no table of rows; the message names the line.
    """
    if not path.exists():
        return {}
    lines = list(csv.reader(io.StringIO(read_text(path))))
    if not lines or tuple(lines[0]) != Row._fields:
        raise UserError(f"{path}:1: expected the columns {','.join(Row._fields)}")
    found = {}
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(Row._fields):
            raise UserError(f"{path}:{number}: expected {len(Row._fields)} cells")
        try:
            row = Row(
                *(flags.read_value(k, _TYPES[k], [c]) for k, c in zip(_TYPES, cells, strict=True))
            )
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        found[row.key] = row
    return found


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows, sorted, so that files with the same rows are the same."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Row._fields)
    table.writerows(sorted(rows, key=lambda row: row[1:4]))
    files.replace(path, text.getvalue())


def committed(claim: Claim) -> dict[str, Row]:
    """The committed rows of a claim."""
    return read(COMMITTED / f"{claim.name}.csv")


def value(claim: Claim, rows: Rows, variant: Variant, seed: int, measure: str) -> float | None:
    """A value of a claim, where its row is known."""
    row = rows.get(claim.key(variant, seed, claim.measures[measure]))
    return None if row is None or not math.isfinite(row.value) else row.value
