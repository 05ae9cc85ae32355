"""Packed data: the canvases of a source in files that are mapped into memory, with checksums.

A folder of packed data has a folder for each split, and in it a file for each field of the
examples: the bytes of an array, one example after another. Fields with a row for each object, of
which an example has any number, lie likewise; `objects.bin` counts them. `manifest.json` says what
there is. It is written last, by `cnn_jax.data.packing`, so a folder that has one is whole.
"""

import json
import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.source import Example, Source, Split, Transform, unchanged
from cnn_jax.data.transforms import EvaluationTransform, HostTransform, TrainingTransform
from cnn_jax.errors import UserError
from cnn_jax.progress import track
from cnn_jax.reading import read_json, require_file, user_path

MANIFEST = "manifest.json"
PROGRESS = "progress.jsonl"
PREFIX = "packed:"
"""The beginning of the data spec of packed data."""

VERSION = 1
_FETCHED = 2**15  # bytes of an example from which on asking for it costs less than waiting
_PIXELS = ("image", "mask")  # what is too large to be checked when a set is opened
NAME, COUNTED = "name", "pixels"  # fields that are no part of an example
OBJECTS, CHARACTERS = "objects", "characters"  # the files that count rows of an example


@dataclass(frozen=True)
class Field:
    """A file of a split: the bytes of an array of all its examples.

    Attributes:
        dtype: of its values, as NumPy writes it.
        shape: of an example's part; of one of its rows, where their number varies.
        counts: the field that counts an example's rows, if their number varies.
    """

    dtype: str
    shape: tuple[int, ...]
    counts: str | None


def folder_of(spec: str) -> Path | None:
    """The folder of a data spec of packed data; None for other data."""
    return user_path(spec.removeprefix(PREFIX)) if spec.startswith(PREFIX) else None


def original(spec: str) -> str:
    """The spec of the data that was packed; of other data its own."""
    folder = folder_of(spec)
    return spec if folder is None else read_manifest(folder)["about"]["data"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check what a folder of packed data says of itself.

    Raises:
        UserError: there is none, or it is damaged, not whole, or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        if list(folder.glob(f"*/{PROGRESS}")):
            raise UserError(
                f"{folder}: packing was stopped before its end; the same command goes on"
            )
        raise UserError(f"{folder}: no packed data there (no {MANIFEST})")
    content = read_json(path)
    written = content.pop("crc32", None) if isinstance(content, dict) else None
    if written is None or written != checksum(content):
        raise UserError(f"{path}: damaged, or changed since it was written; pack the data again")
    if content["version"] != VERSION:
        raise UserError(
            f"{path}: of version {content['version']}, this code reads {VERSION}; pack the data "
            "again"
        )
    return content


def checksum(content: Mapping[str, Any]) -> int:
    """The checksum of a manifest's content."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


class PackedSource:
    """A split of packed data: its examples have canvases, and need only be finished.

    Attributes:
        class_names, notices: those of the data that was packed.
        made: what the canvases are, as the transform that made them says.
        about: what the manifest says of the data.
        folder: where it lies.
        flags: those of the command that packed it.
    """

    mapped = True

    def __init__(self, folder: Path, split: Split):
        """Map the files of a split.

        Raises:
            UserError: one is missing or of another size than when it was written, or one that is no
                image has other bytes.
        """
        self.folder, self._split = folder, split
        manifest = read_manifest(folder)
        self.about, self.flags = manifest["about"], manifest["flags"]
        name = manifest["alike"].get(split, split)
        if name not in manifest["splits"]:
            raise UserError(f"{folder}: has no split {split!r}")
        stored = manifest["splits"][name]
        head = stored["head"]
        self.class_names = tuple(head["class_names"])
        self.made = head["made"]
        self.notices = tuple(stored["notices"])
        self._count = head["count"]
        self._fields = {
            key: Field(field["dtype"], tuple(field["shape"]), field["counts"])
            for key, field in stored["fields"].items()
        }
        self._files = {
            key: _File(
                folder / name / f"{key}.bin", [block["files"][key] for block in stored["blocks"]]
            )
            for key in self._fields
        }
        self._arrays = {}
        for key, file in self._files.items():
            data = file.mapped()
            if key not in _PIXELS:
                file.verify(data)
            field = self._fields[key]
            self._arrays[key] = data.view(field.dtype).reshape(-1, *field.shape)
        # The places of the rows of each example.
        self._ends = {
            key: np.concatenate([[0], np.cumsum(self._arrays[key], dtype=np.int64)])
            for key in (OBJECTS, CHARACTERS)
            if key in self._arrays
        }
        self._shown = [
            key for key in self._fields if key not in (NAME, COUNTED, OBJECTS, CHARACTERS)
        ]

    @property
    def channels(self) -> int:
        """The channels of the canvases."""
        return self._fields["image"].shape[-1]

    @property
    def bits(self) -> int:
        """The bits of their channels."""
        return 8 * np.dtype(self._fields["image"].dtype).itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedSource, (self.folder, self._split)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        self._fetch(np.array([index]))
        return {name: self._field(name, index) for name in self._shown}

    def _field(self, name: str, index: int) -> np.ndarray | np.generic:
        counts = self._fields[name].counts
        if counts is None:
            return self._arrays[name][index]
        first, end = self._ends[counts][index : index + 2].tolist()
        return self._arrays[name][first:end]

    def describe(self, index: int) -> str:
        return self._field(NAME, index).tobytes().decode()

    def _fetch(self, indices: np.ndarray) -> None:
        for name in _PIXELS:
            if name in self._arrays:
                self._files[name].fetch(self._arrays[name], indices)

    def gather(self, indices: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        """Copy examples into the first rows of arrays; every field has a fixed shape."""
        self._fetch(indices)
        for name in self._shown:
            into = rows[name][: len(indices)]
            # Of the modes, this one needs no array between.
            np.take(self._arrays[name], indices, axis=0, out=into, mode="clip")

    @property
    def labels(self) -> np.ndarray | None:
        """The label of each example, or bools of its tags; None where there is neither."""
        found = [self._arrays[name] for name in ("label", "labels") if name in self._arrays]
        return found[0] if found and OBJECTS not in self._arrays else None

    def classes(self, index: int) -> np.ndarray:
        """Return the classes of the objects to train on."""
        left_out = self._field("difficult", index) | self._field("crowd", index)
        return self._field("labels", index)[~left_out]

    def object_count(self, index: int) -> int:
        """The number of objects in an image."""
        return int(self._arrays[OBJECTS][index])

    def object_counts(self) -> np.ndarray:
        """Return the number of objects in each image."""
        return self._arrays[OBJECTS].astype(np.int64)

    def mask(self, index: int) -> np.ndarray:
        """Return only the mask."""
        return self._arrays["mask"][index]

    def mask_counts(self, index: int) -> np.ndarray:
        """The pixels of each class in the mask that was packed."""
        return self._arrays[COUNTED][index]

    def size(self, index: int) -> tuple[int, int]:
        """Return rows and columns of the mask."""
        height, width = self._arrays["mask"].shape[1:]
        return height, width

    def verify(self) -> Iterable[None]:
        """Read all bytes, and compare them with their checksums, a block at a time.

        Raises:
            UserError: some differ.
        """
        for file in self._files.values():
            yield from file.checked(file.mapped())


@dataclass(frozen=True)
class _File:
    """A file of packed data, and the bytes and the checksum of each of its blocks."""

    path: Path
    blocks: Sequence[Sequence[int]]

    def mapped(self) -> np.ndarray:
        """Map the file into memory.

        Raises:
            UserError: it is missing, or of another size than when it was written.
        """
        size, expected = require_file(self.path), sum(size for size, _ in self.blocks)
        if size != expected:
            raise UserError(
                f"{self.path}: has {size:,} bytes, not {expected:,} as when it was written; pack "
                "the data again"
            )
        if not size:
            return np.zeros(0, np.uint8)
        with self.path.open("rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(whole, np.uint8)

    def fetch(self, rows: np.ndarray, indices: np.ndarray) -> None:
        """Ask the system for rows all at once, where it would else read one after another."""
        size = rows[0].nbytes
        whole: Any = rows
        while isinstance(whole, np.ndarray):
            whole = whole.base
        whole = getattr(whole, "obj", whole)  # of the memoryview that NumPy puts between
        known = isinstance(whole, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED")
        if size < _FETCHED or not known:
            return
        for first in (indices * size // mmap.PAGESIZE * mmap.PAGESIZE).tolist():
            length = min(size + mmap.PAGESIZE, len(whole) - first)
            whole.madvise(mmap.MADV_WILLNEED, first, length)

    def checked(self, data: np.ndarray) -> Iterable[None]:
        """Compare the bytes with their checksums, a block at a time."""
        place = 0
        for size, written in self.blocks:
            if zlib.crc32(data[place : place + size]) != written:
                raise UserError(
                    f"{self.path}: damaged: bytes {place:,} to {place + size:,} have another "
                    "checksum than when they were written; pack the data again"
                )
            place += size
            yield

    def verify(self, data: np.ndarray) -> None:
        """Compare all bytes with their checksums."""
        for _ in self.checked(data):
            pass


def verify(folder: Path) -> list[str]:
    """Check every byte of packed data; return a line about each split.

    Raises:
        UserError: something is missing or damaged.
    """
    lines = []
    for split in read_manifest(folder)["splits"]:
        source = PackedSource(folder, split)
        for _ in track(source.verify(), f"Checking {split}"):
            pass
        lines.append(f"{folder}: {split}: all bytes of {len(source):,} examples are as written")
    return lines


def prepared(source: Source, transform: Transform) -> Transform:
    """Return what is still to be done to a source's examples: of packed ones, only the finish.

    Raises:
        UserError: the packed canvases are not those that `transform` makes.
    """
    below = source
    while not isinstance(below, PackedSource):
        below = getattr(below, "source", None)
        if below is None:
            return transform
    if not isinstance(transform, HostTransform) or dict(transform.made) != below.made:
        made = dict(transform.made) if isinstance(transform, HostTransform) else {}
        pairs = ", ".join(
            f"{name} {below.made.get(name, 'none')}, not {made.get(name, 'none')}"
            for name in {**below.made, **made}
            if below.made.get(name) != made.get(name)
        )
        raise UserError(
            f"{PREFIX}{below.folder}: packed with {pairs} as this run needs; pack the data for it, "
            f"or give the flags that it was packed with ({' '.join(below.flags) or 'none'})"
        )
    if isinstance(transform, TrainingTransform | EvaluationTransform):
        return unchanged
    return transform.finish
