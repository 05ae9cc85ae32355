"""Results of predictions as lines for a person, JSON or CSV, one input after another."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.reports.rows import csv_line, json_line

from ..options import PredictOptions
from .predictor import Result

_FORMS = ("csv", "json", "jsonl")

Write = Callable[[str], Any]
Show = Callable[[Result], None]


@contextmanager
def shown(options: PredictOptions) -> Iterator[Show]:
    """A function that shows each result: on standard output, or in the file of `--predictions`.

    Nothing is held back but the file, which is whole or is not there.

    Raises:
        UserError: the file has another ending, or cannot be written.
    """
    if options.predictions is None:
        form = "json" if options.json else "csv" if options.csv else ""
        # Elsewhere JSON's own escapes stand for what the encoding lacks.
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        with _written(form, sys.stdout.write, unicode) as show:
            yield show
        return
    path = Path(options.predictions)
    form = path.suffix.lower()[1:]
    if form not in _FORMS:
        raise UserError(f"--predictions {path}: must end in .csv, .json or .jsonl")
    with (
        files.stream(path) as file,
        _written(form, lambda text: file.write(text.encode()), True) as show,
    ):
        yield show


@contextmanager
def _written(form: str, write: Write, unicode: bool) -> Iterator[Show]:
    """A function that writes each result in a form; lines for a person where it is empty."""
    first = True

    def as_json(result: Result) -> None:
        nonlocal first
        for item in result.content:
            text = json.dumps(item, indent=2, ensure_ascii=not unicode)
            write(("[\n" if first else ",\n") + textwrap.indent(text, "  "))
            first = False

    def as_csv(result: Result) -> None:
        nonlocal first
        for item in result.content:
            row = flat_row(item)
            write((csv_line(row) if first else "") + csv_line(row.values()))
            first = False

    def as_lines(result: Result) -> None:
        for item in result.content:
            write(json_line(item))

    def for_people(result: Result) -> None:
        write(result.line + "\n")

    yield {"json": as_json, "csv": as_csv, "jsonl": as_lines}.get(form, for_people)
    if form == "json":
        write("[]\n" if first else "\n]\n")


def flat_row(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The cells of one object by column: `shares.road`, `predictions.1.label`, `bbox.3`.

    Texts of a list, of which there may be any number, share a cell, with semicolons between.
    """
    row: dict[str, Any] = {}
    for name, value in content.items():
        column = prefix + name
        if isinstance(value, Mapping):
            row |= flat_row(value, f"{column}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(item, str) for item in value):
                row[column] = ";".join(value)
            else:
                row |= flat_row({str(i): item for i, item in enumerate(value, 1)}, f"{column}.")
        else:
            row[column] = value
    return row
