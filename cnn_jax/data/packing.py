"""The writing of packed data, whose form `cnn_jax.data.packed` describes.

While a split is written, `progress.jsonl` has a line for each block of examples that is on the
disk. A command that was stopped goes on after the last of them.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import files, memory
from cnn_jax.data.packed import (
    CHARACTERS,
    COUNTED,
    MANIFEST,
    NAME,
    OBJECTS,
    PROGRESS,
    VERSION,
    Field,
    checksum,
    read_manifest,
)
from cnn_jax.data.source import Source, Split, names_digest
from cnn_jax.data.transforms import HostTransform
from cnn_jax.errors import UserError, one_line
from cnn_jax.progress import in_threads
from cnn_jax.reading import MIB, parse_json, read_text

_BLOCK_BYTES = 64 * MIB
_AHEAD_BYTES = 512 * MIB  # of examples that wait to be written


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
            example[COUNTED] = counts[: len(self.source.class_names)].astype(np.int64)
        row = {name: np.asarray(value) for name, value in self.transform.canvas(example).items()}
        name = one_line(self.source.describe(index)).encode()
        return row | {NAME: np.frombuffer(name, np.uint8)}

    @property
    def counts(self) -> dict[str, str]:
        """The file that counts the rows of each field without a fixed number of them."""
        ragged = getattr(self.transform, "ragged", ())
        return {**dict.fromkeys(ragged, OBJECTS), NAME: CHARACTERS}


def _fields(row: Mapping[str, np.ndarray], counts: Mapping[str, str]) -> dict[str, Field]:
    found = {}
    for name, value in row.items():
        counted = counts.get(name)
        shape = value.shape[1:] if counted else value.shape
        found[name] = Field(value.dtype.str, shape, counted)
    counting = dict.fromkeys(field.counts for field in found.values() if field.counts)
    return found | {name: Field("<i4", (), None) for name in counting}


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
        "version": VERSION,
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
    folder: Path, head: Mapping[str, Any], fields: Mapping[str, Field]
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
    row: Mapping[str, np.ndarray], fields: Mapping[str, Field], describe: Callable[[], str]
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
    folder: Path, fields: Mapping[str, Field], rows: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Append a block to the files, and then note it; a stop between them loses the block."""
    written = {}
    for name, field in fields.items():
        if name in (OBJECTS, CHARACTERS):
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
    return json.dumps({**content, "crc32": checksum(content)}, ensure_ascii=False) + "\n"
