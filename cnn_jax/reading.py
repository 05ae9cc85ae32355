"""Reading of files that others wrote: regular files of a sensible size, in a known encoding.

Every reader of data and of run folders goes through here. So a named pipe, a device, an endless
file, a bomb of nested or repeated parts, or text in an unknown encoding ends with one line.
"""

import codecs
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cnn_jax.errors import UserError

MIB = 2**20

MOST_BYTES = 4096 * MIB
"""The largest table or list that is read; COCO's own annotations of training have 450 MB."""

MOST_YAML_BYTES = MIB
"""The largest YAML file: the names of 21,000 classes take half of it."""

_DEEPEST_YAML = 100
_MOST_YAML_NODES = 1_000_000
_PART = 16 * MIB
LONGEST_PATH = 4096
"""The most characters of a path."""


_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# What Python calls encodings, but is none of a file; decoding them may take very long.
_NO_ENCODINGS_OF_FILES = {
    "idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7",
}  # fmt: skip

# What file managers, archives and network drives leave in folders; other names begin with a dot.
_LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "#recycle"}

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


# Bytes and text


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Read a regular file.

    Args:
        path: the file.
        most: the largest legal size in bytes.

    Raises:
        UserError: the file is missing, unreadable, larger than `most`, or not a regular file.
    """
    size = require_file(path, most)
    try:
        with open(path, "rb") as file:
            return file.read(size)  # `read` takes the memory for what it is told, used or not
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: cannot be read ({error.strerror})") from None


def require_file(path: str | os.PathLike[str], most: int | None = None) -> int:
    """Return the size of a file in bytes.

    Raises:
        UserError: `path` is not a regular file, or has more than `most` bytes.
    """
    name = os.fspath(path)
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be read ({reason})") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{name}: is {_kind(found.st_mode)}, not a file")
    if most is not None and found.st_size > most:
        raise UserError(
            f"{name}: {found.st_size:,} bytes; a file of this kind may have {most:,} at most"
        )
    return found.st_size


def read_text(
    path: str | os.PathLike[str], most: int = MOST_BYTES, encoding: str | None = None
) -> str:
    """Read a text file: UTF-8, or what its byte-order mark says, or the given encoding.

    Raises:
        UserError: the file cannot be read or is not text in this encoding; the message names the
            file and the line.
    """
    require_file(path, most)
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = bytearray()
            while part := file.read(_PART):
                data += part
                # A file of endless zeros is not read to its end.
                if encoding is None and _zeros(data) in part:
                    line = data.count(b"\n", 0, data.index(_zeros(data))) + 1
                    raise UserError(f"{name}:{line}: not text (it holds zero bytes)")
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None
    return decode_text(data, name, encoding)


def decode_text(data: bytes | bytearray, name: str, encoding: str | None = None) -> str:
    """Decode bytes as `read_text` does; `name` is for the message."""
    encoding = _marked(data) or encoding or "utf-8"
    try:
        if codecs.lookup(encoding).name in _NO_ENCODINGS_OF_FILES:
            raise LookupError
        return data.decode(encoding)
    except LookupError:
        raise UserError(f"{name}: its encoding {encoding!r} is unknown") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}:{line}: not text in {error.encoding} (byte {data[error.start]:#04x}); "
            "convert the file to UTF-8, for example with iconv"
        ) from None
    except ValueError as error:  # such as a codec that is none for text
        raise UserError(f"{name}: not text in {encoding} ({error})") from None


def read_lines(path: str | os.PathLike[str], most: int = MOST_BYTES) -> list[str]:
    """Read the lines of a text file, without their ends; see `split_lines`."""
    return split_lines(read_text(path, most))


def split_lines(text: str) -> list[str]:
    r"""Split a text at the ends of its lines: `\n`, `\r\n`, or `\r` where no `\n` occurs.

    No other character ends a line, unlike in `str.splitlines`: a sentence may contain them.
    """
    if "\n" in text:
        lines = [line.removesuffix("\r") for line in text.split("\n")]
    else:
        lines = text.split("\r")
    return lines[:-1] if not lines[-1] else lines


def _zeros(data: bytes | bytearray) -> bytes:
    """Zero bytes that no text has in a row, in the encoding that its mark declares."""
    marked = _marked(data) or ""
    return bytes(8 if "32" in marked else 4 if "16" in marked else 1)


def _marked(data: bytes | bytearray) -> str | None:
    """The encoding that a byte-order mark declares."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)


# JSON and YAML


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file cannot be read or is not JSON, or has a text that no file could have
            (half of a surrogate pair); the message names the file, and the line where known.
    """
    text = read_text(path)
    return parse_json(text, os.fspath(path))


def parse_json(text: str, name: str) -> Any:
    """Parse JSON as `read_json` does; `name` is for the message."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}:{error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{name}: its values are nested too deeply") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{name}: not JSON ({str(error).partition(';')[0]})") from None
    if _SURROGATE.search(text.encode("utf-8", "surrogatepass")):
        _require_characters(content, name)
    return content


def _require_characters(content: Any, name: str) -> None:
    """Raise UserError if a text within holds half of a surrogate pair."""
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{name}: a text holds half of a surrogate pair, which is no character"
        ) from None


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file as mappings, lists and texts: `no`, `1.0` and dates stay as written.

    An empty value, `~` and `null` are None. A mapping's keys are texts.

    Raises:
        UserError: the file cannot be read or is not YAML, is nested too deeply, or grows beyond
            measure by its aliases; the message names the file, and the line where known.
    """
    name = os.fspath(path)
    text = read_text(path, MOST_YAML_BYTES)
    try:
        node = yaml.compose(text, Loader=_TextLoader)
        return None if node is None else _yaml_value(node, {}, set())[0]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{name}{line}: not YAML ({reason})") from None
    except RecursionError:
        raise UserError(f"{name}: its values are nested too deeply") from None


class _TextLoader(yaml.BaseLoader):
    """Reads all values as texts; its time grows with the square of the depth of brackets."""

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        if self.flow_level >= _DEEPEST_YAML:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass)


def _yaml_value(
    node: yaml.Node, known: dict[int, tuple[Any, int]], open_nodes: set[int]
) -> tuple[Any, int]:
    """The value of a node, and the number of values in it, those of aliases counted each time."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_nodes:
        raise yaml.composer.ComposerError(None, None, "an alias within its own anchor")
    if isinstance(node, yaml.ScalarNode):
        plain = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
        return (None if plain else node.value), 1
    open_nodes.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        items = [_yaml_value(item, known, open_nodes) for item in node.value]
        value: Any = [item for item, _ in items]
        count = 1 + sum(number for _, number in items)
    else:
        value, count = {}, 1
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key is no text", key.start_mark)
            value[key.value], number = _yaml_value(item, known, open_nodes)
            count += number
    open_nodes.discard(id(node))
    if count > _MOST_YAML_NODES:
        raise yaml.composer.ComposerError(None, None, "its aliases repeat too many values")
    known[id(node)] = value, count
    return value, count


# Folders


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        files: the paths relative to the folder, sorted.
        left_out: the number of entries that are no files, by kind: `named pipe`, `broken link`.
    """

    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_files(place: str | os.PathLike[str], below: str = "") -> Listing:
    """List the regular files at any depth below `place`/`below`, relative to `place`.

    Links are followed, but not to a folder that the link lies in, so a loop of links ends. Hidden
    entries and those that systems leave behind (`._*`, `.DS_Store`, `Thumbs.db`, `@eaDir`) are
    passed over.

    Raises:
        UserError: a folder cannot be read.
    """
    listing = Listing()

    def walk(relative: str, above: tuple[tuple[int, int], ...]) -> None:
        directory = os.path.join(place, relative)
        try:
            found = os.stat(directory)
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{directory}: cannot be read ({error.strerror})") from None
        own = found.st_dev, found.st_ino
        if own in above:
            listing.left_out["link to a folder above it"] += 1
            return
        for entry in entries:
            if is_left_by_systems(entry.name):
                continue
            path = os.path.join(relative, entry.name)
            try:
                mode = entry.stat().st_mode
            except OSError:
                listing.left_out["broken link" if entry.is_symlink() else "unreadable entry"] += 1
                continue
            if stat.S_ISDIR(mode):
                walk(path, (*above, own))
            elif stat.S_ISREG(mode):
                listing.files.append(path)
            else:
                listing.left_out[_kind(mode).partition(" ")[2]] += 1

    walk(below, tuple(_folders_above(os.path.join(place, below))))
    listing.files.sort()
    return listing


def _folders_above(place: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """The folders that `place` lies in, by device and number."""
    for folder in Path(os.path.realpath(place)).parents:
        try:
            found = os.stat(folder)
        except OSError:
            continue
        yield found.st_dev, found.st_ino


def folders_in(place: str | os.PathLike[str]) -> list[str]:
    """The names of the folders directly in `place`, sorted, without hidden and systems' ones.

    Raises:
        UserError: `place` cannot be read.
    """
    return sorted(_entries(place, os.DirEntry.is_dir))


def files_in(place: str | os.PathLike[str]) -> list[str]:
    """The names of the regular files directly in `place`, as `folders_in`."""
    return sorted(_entries(place, os.DirEntry.is_file))


def _entries(place: str | os.PathLike[str], wanted: Callable[[Any], bool]) -> Iterator[str]:
    try:
        with os.scandir(place) as entries:
            yield from (e.name for e in entries if not is_left_by_systems(e.name) and wanted(e))
    except OSError as error:
        raise UserError(f"{os.fspath(place)}: cannot be read ({error.strerror})") from None


def is_left_by_systems(name: str) -> bool:
    """Tell whether a name is hidden, or is left by a file manager or an archive."""
    return name.startswith(".") or name.casefold() in _LEFT_BY_SYSTEMS


def user_path(text: str) -> Path:
    """The path that a user wrote, in which `~` is the home folder."""
    # Unlike `Path.expanduser`, it leaves the name of an unknown user as it is.
    return Path(os.path.expanduser(text))


def existing_below(path: str, root: Path) -> Path | None:
    """Find a file of another machine by the last parts of its path, which exist below `root`.

    Both kinds of slashes separate parts. The longest tail that exists counts; None if none does.
    """
    if len(path) > LONGEST_PATH:
        return None
    parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]
    for first in range(len(parts)):
        candidate = root.joinpath(*parts[first:])
        # Unlike `Path.exists`, it is False for what no file can be called.
        if os.path.exists(candidate):
            return candidate
    return None


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a special entry")
