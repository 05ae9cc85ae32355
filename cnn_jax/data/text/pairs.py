"""`pairs:FILE` (tab-separated) and `pairs:PREFIX.en,PREFIX.de` (parallel): sentence pairs."""

import gzip
import hashlib
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnn_jax.data.source import Settings, Split
from cnn_jax.errors import UserError

# The names of a split's files, of which the first existing ones count, if training's have `train`.
_VALIDATION = ("val", "valid", "validation", "dev")
_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "eval": (*_VALIDATION, "test"),
    "test": ("test", *_VALIDATION),
}


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
    """Open one split of sentence pairs in files of UTF-8 text, gzip-compressed or not.

    - `FILE`: a line is `SOURCE TAB TARGET`; further columns (an attribution) are ignored.
    - `SOURCE_FILE,TARGET_FILE`: line i of one is the translation of line i of the other.

    If a file does not exist, its name with `.gz` is tried. If `train` is part of the files' names,
    the split `eval` is the files with `val`, `valid`, `validation` or `dev` instead, else `test`;
    the split `test` is `test`, else those. If there are none, both splits are held out of the
    pairs. Each has `settings.holdout_fraction` of the distinct source sentences, selected by a
    hash of the sentence. So all translations of a sentence are in one split, which is the same in
    every run with any seed.

    Raises:
        UserError: a file is missing, empty or not UTF-8, a line has no tab, the files have
            different numbers of lines, or there is nothing to hold out. The message names the file
            and the line.
    """
    if not argument:
        raise UserError("--data pairs: lacks a file, give pairs:FILE or pairs:SOURCE,TARGET")
    paths = [Path(part).expanduser() for part in argument.split(",")]
    if len(paths) > 2:
        raise UserError(f"--data pairs:{argument}: give one file, or two with a comma between")
    evaluation = _split_files(paths, "eval")
    if split != "train" and evaluation is not None:
        return _read(_split_files(paths, split))
    pairs = _read([_existing(path) for path in paths])
    if evaluation is not None:
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
        # Sentences that differ only in case or spacing stay together.
        key = " ".join(source.casefold().split()).encode()
        share = int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
        if share < fraction:
            return "eval"
        return "test" if share < 2 * fraction else "train"

    return pairs.take([i for i, source in enumerate(pairs.sources) if place(source) == split])


def _split_files(paths: Sequence[Path], split: Split) -> list[Path] | None:
    """Find a split's own files beside those of training; None if there are none."""
    if any("train" not in path.name for path in paths):
        return None
    for name in _SPLIT_NAMES[split]:
        existing = [_find(p.with_name(p.name.replace("train", name))) for p in paths]
        if all(existing):
            return existing
    return None


def _find(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _existing(path: Path) -> Path:
    existing = _find(path)
    if existing is None:
        problem = "is a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"--data pairs: {path}: {problem}")
    return existing


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
        rows = []
        for number, line in enumerate(columns[0], start=1):
            if "\t" not in line:
                raise UserError(f"{name}:{number}: no tab; a line is SOURCE, a tab, TARGET")
            source, target, *_ = line.split("\t")
            rows.append((source, target))
    lines = [i for i, row in enumerate(rows, start=1) if all(side.strip() for side in row)]
    if not lines:
        raise UserError(f"{name}: contains no sentence pairs")
    sources = [rows[i - 1][0].strip() for i in lines]
    targets = [rows[i - 1][1].strip() for i in lines]
    return Pairs(sources, targets, name, lines, len(rows) - len(lines))


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, Unicode-normalised; only a newline ends a line."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not data.strip():
        raise UserError(f"{path}: is empty")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(normalize(line.decode("utf-8").removesuffix("\r")))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line); convert the "
                "file, for example with iconv"
            ) from None
    return texts


def normalize(text: str) -> str:
    """Apply canonical composition (NFC): an accented letter becomes one character."""
    return unicodedata.normalize("NFC", text)
