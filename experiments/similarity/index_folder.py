"""An index on disk.

INDEX/vectors.npy     a unit vector for each row, float32, memory-mapped by who reads it
INDEX/rows.jsonl      the file, the box and the label of each row, a line each
INDEX/index.json      the network, the number of rows; written last
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.ranges import LARGEST_INT, Range
from cnn_jax.reading import parse_json, read_lines
from cnn_jax.runs.folder import read_object

from .. import options as flags
from .regions import Region
from .search import Search

VERSION = 1
VECTORS, ROWS, CONFIG = "vectors.npy", "rows.jsonl", "index.json"

_COUNT = Annotated[int, Range(1, LARGEST_INT)]
_CONTENT: Mapping[str, Any] = {
    "rows": _COUNT,
    "size": _COUNT,
    "run": str,
    "network": str,
    "state": Literal["best", "last"] | None,
    "objects": str | None,
    "score_threshold": Annotated[float, Range(0, 1)] | None,
}


def write(
    folder: Path, found: Iterable[tuple[Region, np.ndarray]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write an index row by row; an earlier one in the folder is replaced at the end.

    Args:
        folder: that of the index.
        found: regions with their vectors, of which there is at least one.
        about: what `index.json` says besides.

    Returns:
        The content of `index.json`.

    Raises:
        UserError: nothing was found, or a file cannot be written.
    """
    config, rest = folder / CONFIG, iter(found)
    first = next(rest, None)
    if first is None:
        raise UserError(f"{folder}: nothing to compare was found in the images")
    count, size = 0, len(first[1])
    with files.stream(folder / VECTORS) as vectors, files.stream(folder / ROWS) as rows:
        begin = _write_header(vectors, 0, size)
        for region, vector in itertools.chain([first], rest):
            vectors.write(np.asarray(vector, "<f4").tobytes())
            rows.write(_line(region).encode())
            count += 1
        vectors.seek(0)
        assert _write_header(vectors, count, size) == begin
        # An index without this file is none: no kill leaves new vectors beside old rows.
        with files.writing(config):
            config.unlink(missing_ok=True)
    content = {"version": VERSION, **about, "rows": count, "size": size}
    files.replace(config, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return content


def _write_header(file: BinaryIO, count: int, size: int) -> int:
    """The header of an array's file, which NumPy pads so that the number of rows may grow."""
    about = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
    np.lib.format.write_array_header_1_0(file, about)
    return file.tell()


def _line(region: Region) -> str:
    box = None if region.box is None else [round(float(side), 2) for side in region.box]
    row = {"file": os.path.abspath(region.file), "box": box, "label": region.label}
    return json.dumps(row, ensure_ascii=False) + "\n"


class Index:
    """An index that is searched.

    Args:
        folder: that of the index.

    Attributes:
        folder: the same.
        config: what `index.json` says.
        vectors: float32 [rows, size], mapped from the disk.

    Raises:
        UserError: there is none, it is damaged, or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / CONFIG
        if not path.is_file():
            raise UserError(f"{folder}: no index: {CONFIG} is missing; make one with `index`")
        self.config = read_object(path)
        if (version := self.config.get("version")) != VERSION:
            raise UserError(f"{path}: version {version!r}: must be {VERSION}; make the index anew")
        try:
            for name, hint in _CONTENT.items():
                flags.checked(name, hint, self.config.get(name))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self.vectors = _mapped(self.folder / VECTORS)
        shape = self.config["rows"], self.config["size"]
        if self.vectors.shape != shape or len(self._lines) != shape[0]:
            raise UserError(f"{folder}: {VECTORS}, {ROWS} and {CONFIG} differ; make the index anew")

    @cached_property
    def _lines(self) -> list[str]:
        return list(filter(None, read_lines(self.folder / ROWS)))

    def __len__(self) -> int:
        return len(self.vectors)

    def region(self, row: int) -> Region:
        """The region of a row.

        Raises:
            UserError: its line is damaged.
        """
        name = f"{self.folder / ROWS}:{row + 1}"
        content = parse_json(self._lines[row], name)
        with contextlib.suppress(TypeError, ValueError, KeyError, UserError):
            box, label = content["box"], content["label"]
            left, top, right, bottom = map(float, (0, 0, 0, 0) if box is None else box)
            if np.isfinite([left, top, right, bottom]).all():
                return Region(
                    flags.checked("file", str, content["file"]),
                    None if box is None else (left, top, right, bottom),
                    flags.checked("label", str | None, label),
                )
        raise UserError(f"{name}: must have a file, a box of 4 numbers or null, and a label")

    @cached_property
    def regions(self) -> list[Region]:
        """Those of all rows."""
        return [self.region(row) for row in range(len(self))]

    def rows_of(self, region: Region) -> list[int]:
        """The rows that are a region themselves."""
        rows = self.rows_of_file(region.file)
        return [row for row in rows if self.region(row).same_as(region)]

    def rows_of_file(self, file: str) -> list[int]:
        """The rows of an image's file, or of another name of it."""
        return self._rows_by_file.get(os.path.realpath(file), [])

    @cached_property
    def _rows_by_file(self) -> dict[str, list[int]]:
        """The rows of each file."""
        real = cache(os.path.realpath)
        rows: dict[str, list[int]] = {}
        for row, region in enumerate(self.regions):
            rows.setdefault(real(region.file), []).append(row)
        return rows

    @cached_property
    def search(self) -> Search:
        """The search in its vectors."""
        return Search(self.vectors)


def _mapped(path: Path) -> np.ndarray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the index anew") from None
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise UserError(f"{path}: must be float32 [rows, size]; make the index anew")
    return vectors
