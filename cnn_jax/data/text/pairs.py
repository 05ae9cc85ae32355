"""`pairs:FILE` (tab-separated) and `pairs:PREFIX.en,PREFIX.de` (parallel): sentence pairs."""

import hashlib
import os
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import regex

from cnn_jax.data import splits
from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError
from cnn_jax.reading import (
    MIB,
    MOST_BYTES,
    decode_text,
    files_in,
    read_text,
    require_file,
    split_lines,
)

# A line of more characters is no sentence, and a text that packs tighter than this is none either.
_MOST_CHARACTERS = 100_000
_MOST_TIMES_SMALLER = 100
_MAGIC, _GZIP = b"\x1f\x8b", 31  # the first bytes of gzip, and zlib's number for it
# To compose so many marks in a row takes time that grows with their square.
_MARKS = regex.compile(r"\p{M}{500}")

_TRAINING = re.compile("|".join(sorted(splits.NAMES["train"], key=len, reverse=True)), re.I)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sentences and their translations, Unicode-normalised (NFC) and not empty.

    Attributes:
        sources, targets: sentence i, and its translation.
        name: their origin, for messages.
        lines: the number, from 1, of each pair's line; empty for pairs without a file.
        empty: the number of pairs dropped because one side is empty.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    name: str
    lines: Sequence[int] = field(default=())
    empty: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    def describe(self, index: int) -> str:
        """Return a pair's origin: `FILE:LINE`."""
        return f"{self.name}:{self.lines[index]}" if self.lines else f"{self.name}[{index}]"

    def take(self, rows: Sequence[int]) -> "Pairs":
        """Return the pairs at the given positions."""
        return Pairs(
            [self.sources[i] for i in rows],
            [self.targets[i] for i in rows],
            self.name,
            [self.lines[i] for i in rows] if self.lines else (),
            self.empty,
        )


def open_pairs(argument: str, split: Split, settings: Settings) -> Pairs:
    """Open one split of sentence pairs in files of text, gzip-compressed or not.

    - `FILE`: a line is `SOURCE TAB TARGET`; further columns (an attribution) are ignored. Tatoeba's
      four columns, in which each sentence follows its number, are recognised.
    - `SOURCE_FILE,TARGET_FILE`: line i of one is the translation of line i of the other.

    Text is UTF-8, or what a byte-order mark says. Lines end as on any system.

    If a file does not exist, its name with `.gz` is tried. If `train` is part of the files' names,
    the split `eval` is the files with another name of `cnn_jax.data.splits` in its place: one of
    validation's, else of test's; the split `test` the other way round. If there are none, both
    splits are held out of the pairs. Each has `settings.holdout_fraction` of the distinct source
    sentences, selected by a hash of the sentence. So all translations of a sentence are in one
    split, which is the same in every run with any seed.

    Raises:
        UserError: a file is missing, empty, damaged or not text, a line has no tab or is no
            sentence by its length, the files have different numbers of lines, two files are the
            same split, or there is nothing to hold out. The message names the file and the line.
    """
    if not argument:
        raise UserError("--data pairs: lacks a file, give pairs:FILE or pairs:SOURCE,TARGET")
    whole = Path(os.path.expanduser(argument))
    # A name may have a comma of its own.
    paths = (
        [whole]
        if _find(whole)
        else [Path(os.path.expanduser(part)) for part in argument.split(",")]
    )
    if len(paths) > 2:
        raise UserError(f"--data pairs:{argument}: give one file, or two with a comma between")
    own = _files_of(paths, split) if split != "train" else None
    if own is not None:
        return _read(own)
    pairs = _read([_existing(path) for path in paths])
    if split == "train" and _files_of(paths, "eval") is not None:
        return pairs
    part = hold_out(pairs, split, settings.holdout_fraction)
    if not len(part):
        raise UserError(
            f"{pairs.name}: no sentence of {len(pairs)} is in the split {split!r}; add more, or "
            "change --holdout-fraction"
        )
    return part


def hold_out(pairs: Pairs, split: Split, fraction: float) -> Pairs:
    """Return one of three splits of a set, divided by distinct source sentence.

    Args:
        pairs: the set.
        split: the split to return.
        fraction: the fraction of the distinct source sentences in each of `eval` and `test`.
    """

    def place(source: str) -> Split:
        digest = hashlib.sha256(_key(source).encode()).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        if share < fraction:
            return "eval"
        return "test" if share < 2 * fraction else "train"

    return pairs.take([i for i, source in enumerate(pairs.sources) if place(source) == split])


def joined(pairs: Pairs, count: int) -> Pairs:
    """Join consecutive pairs of a text into longer ones, with blanks between their sentences.

    Args:
        pairs: the pairs in the order of the text.
        count: the number of pairs of a longer one; the last one has what is left.
    """
    if count == 1:
        return pairs
    starts = range(0, len(pairs), count)

    def side(sentences: Sequence[str]) -> list[str]:
        return [" ".join(sentences[i : i + count]) for i in starts]

    lines = [pairs.lines[i] for i in starts] if pairs.lines else ()
    return Pairs(side(pairs.sources), side(pairs.targets), pairs.name, lines, pairs.empty)


def seen_in(training: Pairs, pairs: Pairs) -> list[int]:
    """Find the pairs whose source sentence is in the training data as well."""
    known = {_key(source) for source in training.sources}
    return [i for i, source in enumerate(pairs.sources) if _key(source) in known]


def _key(source: str) -> str:
    """Reduce a sentence to what those that differ only in case or spacing have in common."""
    return " ".join(source.casefold().split())


def _files_of(paths: Sequence[Path], split: Split) -> list[Path] | None:
    """Find a split's own files beside those of training; None if there are none."""
    found = [_beside(path) for path in paths]
    complete = {kind: kind for kind in splits.NAMES if all(kind in files for files in found)}
    kind = splits.serving(split, complete)
    return None if kind is None else [files[kind] for files in found]


def _beside(path: Path) -> dict[splits.Kind, Path]:
    """Find the files named like one of training's but for the split, by kind of split.

    Raises:
        UserError: two files are the same split, or the folder cannot be read.
    """
    if not path.parent.is_dir():
        return {}
    names = {name.removesuffix(".gz") for name in files_in(path.parent)}
    for match in _TRAINING.finditer(path.name):
        start, end = path.name[: match.start()], path.name[match.end() :].removesuffix(".gz")
        middles = (
            name[len(start) : len(name) - len(end)]
            for name in names
            if len(name) > len(start + end) and name.startswith(start) and name.endswith(end)
        )
        usual = {name for kind in ("val", "test") for name in splits.NAMES[kind]}
        legal = [middle for middle in middles if middle.casefold() in usual]
        found = splits.by_kind(legal, f"{path.parent}{os.sep}{start}*{end}")
        if found:
            return {k: _existing(path.with_name(start + m + end)) for k, m in found.items()}
    return {}


def _find(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if os.path.isfile(candidate):
            return candidate
    return None


def _existing(path: Path) -> Path:
    existing = _find(path)
    if existing is None:
        require_file(path)
    return existing or path


def _read(paths: Sequence[Path]) -> Pairs:
    """Read the pairs of one tab-separated file or two parallel ones."""
    columns = [_read_lines(path) for path in paths]
    name = str(paths[0])
    if len(columns) == 2:
        if len(columns[0]) != len(columns[1]):
            raise UserError(
                f"{paths[0]} has {len(columns[0])} lines and {paths[1]} has {len(columns[1])}: "
                "line i of one must be the translation of line i of the other"
            )
        rows = list(zip(*columns, strict=True))
    else:
        rows = _columns(columns[0], name)
    lines = [i for i, row in enumerate(rows, start=1) if all(side.strip() for side in row)]
    if not lines:
        raise UserError(f"{name}: contains no sentence pairs")
    sources = [rows[i - 1][0].strip() for i in lines]
    targets = [rows[i - 1][1].strip() for i in lines]
    return Pairs(sources, targets, name, lines, len(rows) - len(lines))


def _columns(lines: Sequence[str], name: str) -> list[tuple[str, str]]:
    """The source and the target of each line of a table."""
    table = []
    for number, line in enumerate(lines, start=1):
        if "\t" not in line:
            raise UserError(f"{name}:{number}: no tab; a line is SOURCE, a tab, TARGET")
        table.append(line.split("\t"))
    numbered = all(len(row) == 4 and row[0].isdecimal() and row[2].isdecimal() for row in table)
    source, target = (1, 3) if numbered else (0, 1)
    return [(row[source], row[target]) for row in table]


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, Unicode-normalised."""
    text = _text(path)
    if not text.strip():
        raise UserError(f"{path}: is empty")
    lines = split_lines(text)
    for number, line in enumerate(lines, start=1):
        if len(line) > _MOST_CHARACTERS:
            raise UserError(f"{path}:{number}: {len(line):,} characters are no sentence")
        if len(line) > 500 and _MARKS.search(line):
            raise UserError(f"{path}:{number}: 500 combining marks in a row are no text")
        if "\0" in line:
            raise UserError(f"{path}:{number}: not text (it holds zero bytes)")
    return [normalize(line) for line in lines]


def _text(path: Path) -> str:
    """Read a text file, compressed or not."""
    require_file(path, MOST_BYTES)
    try:
        with path.open("rb") as file:
            packed = file.read(len(_MAGIC)) == _MAGIC
            if not packed:
                return read_text(path)
            file.seek(0)
            return decode_text(_unpacked(file, path), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _unpacked(file: BinaryIO, path: Path) -> bytes:
    """Decompress a file, as far as a text can be compressed; what follows its end is padding."""
    parts, size, read = [], 0, 0
    unpacker, packed = zlib.decompressobj(_GZIP), b""
    while packed or (packed := file.read(MIB)):
        parts.append(unpacker.decompress(packed, MIB))
        size += len(parts[-1])
        packed, read = unpacker.unconsumed_tail, file.tell()
        if size > MOST_BYTES or (size > 64 * MIB and size > _MOST_TIMES_SMALLER * read):
            raise UserError(
                f"{path}: unpacks to more than {size // MIB:,} MiB; no text of this size does"
            )
        if unpacker.eof:
            packed = unpacker.unused_data
            packed += file.read(MIB) if len(packed) < len(_MAGIC) else b""
            if not packed.startswith(_MAGIC):
                break
            unpacker = zlib.decompressobj(_GZIP)
    if not unpacker.eof:
        raise EOFError("it is cut off")
    return b"".join(parts)


def normalize(text: str) -> str:
    """Apply canonical composition (NFC): an accented letter becomes one character."""
    return unicodedata.normalize("NFC", text)
