"""Packed data: the canvases of a source in files that are mapped into memory, with checksums.

A folder of packed data has a folder for each split, and in it a file for each field of the
examples: the bytes of an array, one example after another. Fields with a row for each object, of
which an example has any number, lie likewise; `objects.bin` counts them. `manifest.json` says what
there is. It is written last, so a folder that has one is whole.

While a split is written, `progress.jsonl` has a line for each block of examples that is on the
disk. A command that was stopped goes on after the last of them.
"""

import json
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import files, memory
from cnn_jax.data.source import Example, Source, Split, Transform, names_digest, unchanged
from cnn_jax.data.transforms import EvaluationTransform, HostTransform, TrainingTransform
from cnn_jax.errors import UserError, one_line
from cnn_jax.progress import in_threads, track
from cnn_jax.reading import MIB, parse_json, read_json, read_text, require_file, user_path

MANIFEST = "manifest.json"
PROGRESS = "progress.jsonl"
PREFIX = "packed:"
"""The beginning of the data spec of packed data."""

_VERSION = 1
_BLOCK_BYTES = 64 * MIB
_FETCHED = 2**15  # bytes of an example from which on asking for it costs less than waiting
_AHEAD_BYTES = 512 * MIB  # of examples that wait to be written
_PIXELS = ("image", "mask")  # what is too large to be checked when a set is opened
_NAME, _COUNTED = "name", "pixels"  # fields that are no part of an example
_OBJECTS, _CHARACTERS = "objects", "characters"  # the files that count rows of an example


# Writing


@dataclass(frozen=True)
class Part:
    """A split to pack, and the preparation whose canvases are kept."""

    source: Source
    transform: HostTransform

    def row(self, index: int) -> dict[str, np.ndarray]:
        """The fields of an example."""
        example = dict(self.source[index])
        if "mask" in example:
            # Weights of classes count the pixels of the mask itself, not of its canvas.
            counts = np.bincount(example["mask"].ravel(), minlength=256)
            example[_COUNTED] = counts[: len(self.source.class_names)].astype(np.int64)
        row = {name: np.asarray(value) for name, value in self.transform.canvas(example).items()}
        name = one_line(self.source.describe(index)).encode()
        return row | {_NAME: np.frombuffer(name, np.uint8)}

    @property
    def counts(self) -> dict[str, str]:
        """The file that counts the rows of each field without a fixed number of them."""
        ragged = getattr(self.transform, "ragged", ())
        return {**dict.fromkeys(ragged, _OBJECTS), _NAME: _CHARACTERS}


@dataclass(frozen=True)
class _Field:
    """A file of a split: the bytes of an array of all its examples.

    Attributes:
        dtype: of its values, as NumPy writes it.
        shape: of an example's part; of one of its rows, where their number varies.
        counts: the field that counts an example's rows, if their number varies.
    """

    dtype: str
    shape: tuple[int, ...]
    counts: str | None


def _fields(row: Mapping[str, np.ndarray], counts: Mapping[str, str]) -> dict[str, _Field]:
    found = {}
    for name, value in row.items():
        counted = counts.get(name)
        shape = value.shape[1:] if counted else value.shape
        found[name] = _Field(value.dtype.str, shape, counted)
    counting = dict.fromkeys(field.counts for field in found.values() if field.counts)
    return found | {name: _Field("<i4", (), None) for name in counting}


def estimate(parts: Mapping[Split, Part]) -> dict[Split, int]:
    """The bytes that splits will take, as their first examples tell; objects may add some."""
    sizes = {}
    for split, part in parts.items():
        row = part.row(0)
        sizes[split] = len(part.source) * sum(value.nbytes for value in row.values())
    return sizes


def write(
    folder: Path,
    parts: Mapping[Split, Part],
    about: Mapping[str, Any],
    flags: Sequence[str],
    notify: Callable[[str], None],
) -> bool:
    """Pack splits into a folder, or go on where that was stopped.

    Args:
        folder: where to.
        parts: the splits; one whose examples are those of an earlier one is stored once.
        about: the task, the data's spec and what else tells packed sets apart, for the manifest.
        flags: those of the command, for messages.
        notify: is called with lines for the user.

    Returns:
        Whether anything was written: False if the same is packed there already.

    Raises:
        UserError: the folder holds something else, the disk has not the room, or an example cannot
            be read or has another shape than the others.
    """
    alike = _same(parts)
    own = {split: part for split, part in parts.items() if split not in alike}
    heads = {split: _head(part, about) for split, part in own.items()}
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if (
            manifest["about"] == about
            and {split: stored["head"] for split, stored in manifest["splits"].items()} == heads
        ):
            return False
        raise UserError(f"{folder}: other data is packed there; name another --out, or delete it")
    _require_room(folder, own, notify)
    splits = {}
    for split, part in own.items():
        splits[split] = _write_split(folder / split, split, part, heads[split], notify)
    content = {
        "version": _VERSION,
        "about": dict(about),
        "flags": list(flags),
        "splits": splits,
        "alike": alike,
    }
    files.replace(folder / MANIFEST, _signed(content))
    for split in own:
        (folder / split / PROGRESS).unlink(missing_ok=True)
    return True


def _same(parts: Mapping[Split, Part]) -> dict[Split, Split]:
    """The splits that are equal to an earlier one, such as `test` where there is only `eval`."""
    digests: dict[Any, Split] = {}
    alike = {}
    for split, part in parts.items():
        key = names_digest(part.source), json.dumps(part.transform.made, sort_keys=True)
        if key in digests:
            alike[split] = digests[key]
        digests.setdefault(key, split)
    return alike


def _head(part: Part, about: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a split is made of; a command that goes on must find the same."""
    head = {
        "about": dict(about),
        "count": len(part.source),
        "class_names": list(part.source.class_names),
        "examples": names_digest(part.source),
        "made": dict(part.transform.made),
    }
    return json.loads(json.dumps(head))


def _require_room(folder: Path, parts: Mapping[Split, Part], notify: Callable[[str], None]) -> None:
    """Tell how large the packed data becomes; refuse what the disk has no room for."""
    sizes = estimate(parts)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in folder.glob("*/*.bin"))
    free = shutil.disk_usage(folder).free
    total = sum(sizes.values())
    listed = ", ".join(
        f"{split} {len(parts[split].source):,} examples ({memory.shown(size)})"
        for split, size in sizes.items()
    )
    notify(f"{folder}: {listed}; {memory.shown(total)} in all, {memory.shown(free)} free")
    if total - there > free:
        raise UserError(
            f"{folder}: the packed data would take {memory.shown(total)}, and the disk has "
            f"{memory.shown(free)} left; smaller canvases or another disk would do"
        )


def _write_split(
    folder: Path, split: Split, part: Part, head: dict[str, Any], notify: Callable[[str], None]
) -> dict[str, Any]:
    """Write the blocks of a split that are not there yet; return its part of the manifest."""
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    first = part.row(0)
    fields = _fields(first, part.counts)
    blocks = _blocks_there(folder, head, fields)
    done = sum(block["rows"] for block in blocks)
    if done:
        notify(f"{folder}: going on after {done:,} of {len(part.source):,} examples")
    with files.writing(folder):
        for name in fields:
            path = folder / f"{name}.bin"
            path.touch()
            os.truncate(path, sum(block["files"][name][0] for block in blocks))
        if not blocks:
            (folder / PROGRESS).write_text(json.dumps(head) + "\n")
    left = range(done, len(part.source))
    at_once = max(1, min(1024, _AHEAD_BYTES // sum(value.nbytes for value in first.values())))
    packing = in_threads(part.row, left, f"Packing {split}", at_once=at_once)
    rows: list[dict[str, np.ndarray]] = []
    size = 0
    for index, row in zip(left, packing, strict=True):
        _require_alike(row, fields, partial(part.source.describe, index))
        rows.append(row)
        size += sum(value.nbytes for value in row.values())
        if size >= _BLOCK_BYTES or index == left[-1]:
            blocks.append(_append(folder, fields, rows))
            rows, size = [], 0
    return {
        "head": head,
        "notices": [one_line(line) for line in getattr(part.source, "notices", ())],
        "fields": {
            name: {"dtype": field.dtype, "shape": list(field.shape), "counts": field.counts}
            for name, field in fields.items()
        },
        "blocks": blocks,
    }


def _blocks_there(
    folder: Path, head: Mapping[str, Any], fields: Mapping[str, _Field]
) -> list[dict[str, Any]]:
    """The blocks of a split that an earlier command has written.

    Raises:
        UserError: it packed something else.
    """
    path = folder / PROGRESS
    if not path.exists():
        return []
    lines = read_text(path).split("\n")[:-1]  # the last one may be half a line
    if not lines:
        return []
    if parse_json(lines[0], f"{path}") != head:
        raise UserError(
            f"{folder}: holds a part of other packed data; name another --out, or delete it"
        )
    blocks = [parse_json(line, f"{path}") for line in lines[1:]]
    for name in fields:
        file = folder / f"{name}.bin"
        size = sum(block["files"][name][0] for block in blocks)
        if (file.stat().st_size if file.exists() else 0) < size:
            return []  # what was written is lost, and is written again
    return blocks


def _require_alike(
    row: Mapping[str, np.ndarray], fields: Mapping[str, _Field], describe: Callable[[], str]
) -> None:
    """Refuse an example whose arrays differ from those of the first one."""
    for name, value in row.items():
        field = fields.get(name)
        shape = value.shape[1:] if field is not None and field.counts else value.shape
        if field is None or (value.dtype.str, shape) != (field.dtype, field.shape):
            expected = "" if field is None else f", not {field.dtype[1:]} {field.shape}"
            raise UserError(
                f"{describe()}: its {name} is {value.dtype.str[1:]} {shape}{expected} as that of "
                "the first example; packed examples are alike"
            )


def _append(
    folder: Path, fields: Mapping[str, _Field], rows: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Append a block to the files, and then note it; a stop between them loses the block."""
    written = {}
    for name, field in fields.items():
        if name in (_OBJECTS, _CHARACTERS):
            of = next(key for key, other in fields.items() if other.counts == name)
            data = np.array([len(row[of]) for row in rows], field.dtype).tobytes()
        else:
            data = b"".join(np.ascontiguousarray(row[name]).tobytes() for row in rows)
        path = folder / f"{name}.bin"
        with files.writing(path), path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written[name] = [len(data), zlib.crc32(data)]
    block = {"rows": len(rows), "files": written}
    path = folder / PROGRESS
    with files.writing(path), path.open("a") as file:
        file.write(json.dumps(block) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return block


def _signed(content: Mapping[str, Any]) -> str:
    """The manifest's text, with a checksum of its content."""
    return json.dumps({**content, "crc32": _checksum(content)}, ensure_ascii=False) + "\n"


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


# Reading


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
    checksum = content.pop("crc32", None) if isinstance(content, dict) else None
    if checksum is None or checksum != _checksum(content):
        raise UserError(f"{path}: damaged, or changed since it was written; pack the data again")
    if content["version"] != _VERSION:
        raise UserError(
            f"{path}: of version {content['version']}, this code reads {_VERSION}; pack the data "
            "again"
        )
    return content


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
            key: _Field(field["dtype"], tuple(field["shape"]), field["counts"])
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
            for key in (_OBJECTS, _CHARACTERS)
            if key in self._arrays
        }
        self._shown = [
            key for key in self._fields if key not in (_NAME, _COUNTED, _OBJECTS, _CHARACTERS)
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
        return self._field(_NAME, index).tobytes().decode()

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
        return found[0] if found and _OBJECTS not in self._arrays else None

    def classes(self, index: int) -> np.ndarray:
        """Return the classes of the objects to train on."""
        left_out = self._field("difficult", index) | self._field("crowd", index)
        return self._field("labels", index)[~left_out]

    def object_count(self, index: int) -> int:
        """The number of objects in an image."""
        return int(self._arrays[_OBJECTS][index])

    def object_counts(self) -> np.ndarray:
        """Return the number of objects in each image."""
        return self._arrays[_OBJECTS].astype(np.int64)

    def mask(self, index: int) -> np.ndarray:
        """Return only the mask."""
        return self._arrays["mask"][index]

    def mask_counts(self, index: int) -> np.ndarray:
        """The pixels of each class in the mask that was packed."""
        return self._arrays[_COUNTED][index]

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
        for size, checksum in self.blocks:
            if zlib.crc32(data[place : place + size]) != checksum:
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
