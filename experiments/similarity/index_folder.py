"""An index on disk, and the exact search in it.

INDEX/vectors.npy     a unit vector for each row, float32, memory-mapped by who reads it
INDEX/rows.jsonl      the file, the box and the label of each row, a line each
INDEX/index.json      the network, the number of rows; written last
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.ops.neighbors import Neighbors, merge, nearest
from cnn_jax.ranges import LARGEST_INT, Range
from cnn_jax.reading import parse_json, read_lines
from cnn_jax.runs.folder import read_object

from .. import options as flags
from .regions import Region

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

# Numbers of a block of vectors, and products of a block of queries with it, at a time.
_BLOCK, _PRODUCTS = 2**26, 2**26


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
    config = folder / CONFIG
    count, size = 0, 0
    with files.stream(folder / VECTORS) as vectors, files.stream(folder / ROWS) as rows:
        for region, vector in found:
            if not count:
                size = len(vector)
                begin = _write_header(vectors, 0, size)
            vectors.write(np.asarray(vector, "<f4").tobytes())
            rows.write(_line(region).encode())
            count += 1
        if not count:
            raise UserError(f"{folder}: nothing to compare was found in the images")
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

    def search(self, queries: np.ndarray, k: int) -> Neighbors:
        """The `k` nearest rows of each query, block by block; exact.

        Args:
            queries: unit vectors [queries, size].
            k: the number of neighbours; at most all rows are given.
        """
        at_a_time = max(1, _PRODUCTS // min(self._rows_of_block, len(self)))
        found: list[Neighbors | None] = [None] * -(-len(queries) // at_a_time)
        for first in range(0, len(self), self._rows_of_block):
            block = self._first_block if first == 0 else self._block(first)
            for number, begin in enumerate(range(0, len(queries), at_a_time)):
                part = _nearest(jnp.asarray(queries[begin : begin + at_a_time]), block, k, first)
                before = found[number]
                found[number] = part if before is None else _merge(before, part, k)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *map(jax.device_get, found))

    @property
    def _rows_of_block(self) -> int:
        return max(1, _BLOCK // self.vectors.shape[1])

    def _block(self, first: int) -> jax.Array:
        """The vectors of the block that begins with a row, on the device."""
        return jnp.asarray(np.asarray(self.vectors[first : first + self._rows_of_block]))

    @cached_property
    def _first_block(self) -> jax.Array:
        """The first block, which stays on the device: of most indexes it is the only one."""
        return self._block(0)

    def neighbors(
        self, queries: np.ndarray, k: int, left_out: Sequence[Sequence[int]]
    ) -> Iterator[list[tuple[int, float]]]:
        """The `k` nearest rows of each query, with their cosines, without some rows of its own.

        Args:
            queries: unit vectors [queries, size].
            k: the number of neighbours.
            left_out: of each query, the rows that are no neighbours.
        """
        found = self.search(queries, k + max(map(len, left_out), default=0))
        for scores, rows, own in zip(*found, left_out, strict=True):
            kept = [(int(row), float(s)) for row, s in zip(rows, scores, strict=True)]
            yield [one for one in kept if one[0] not in own][:k]


def _mapped(path: Path) -> np.ndarray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the index anew") from None
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise UserError(f"{path}: must be float32 [rows, size]; make the index anew")
    return vectors


_nearest = jax.jit(nearest, static_argnums=2)
_merge = jax.jit(merge, static_argnums=2)
