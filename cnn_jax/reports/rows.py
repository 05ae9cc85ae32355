"""Tables with a row for each example, as CSV or as JSON lines."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.runs.log import plain

Row = Mapping[str, Any]

ENDINGS = (".csv", ".jsonl")
"""Of the files, in lower case: what is behind the dot says the form."""


class RowsFile:
    """A table with a row for each example, as CSV or as JSON lines by the file's ending.

    In CSV, what is neither text nor number is written as JSON.

    Raises:
        UserError: the ending is another one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in ENDINGS:
            raise UserError(f"{self.path}: must end in {' or '.join(ENDINGS)}")

    def write(self, rows: Iterable[Row]) -> None:
        """Replace the file by these rows, which all have the same keys."""
        as_csv = self.path.suffix.lower() == ".csv"
        with files.stream(self.path) as file:
            for number, row in enumerate(rows):
                if as_csv and number == 0:
                    file.write(csv_line(row).encode())
                file.write((csv_line(row.values()) if as_csv else json_line(row)).encode())


def json_line(row: Row) -> str:
    """The line of one row as a JSON object."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def csv_line(values: Iterable[Any]) -> str:
    """The line of these cells in a CSV table."""
    text = io.StringIO()
    cells = (plain(value) for value in values)
    csv.writer(text, lineterminator="\n").writerow(
        json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict) else cell
        for cell in cells
    )
    return text.getvalue()
