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

# What a split's files are called, the first that exist, where training's are called `train`.
_VALIDATION = ("val", "valid", "validation", "dev")
_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "eval": (*_VALIDATION, "test"),
    "test": ("test", *_VALIDATION),
}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sentences and their translations, Unicode-normalised (NFC), neither of them empty.

    Attributes:
        sources, targets: sentence i, and its translation.
        name: where they come from, for messages.
        lines: the number, from 1, of each pair's line; none for pairs that come from no file.
        empty: number of pairs left out because one side is empty.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    name: str
    lines: Sequence[int] = field(default=())
    empty: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    def describe(self, index: int) -> str:
        """Where a pair comes from: `FILE:LINE`."""
        return f"{self.name}:{self.lines[index]}" if self.lines else f"{self.name}[{index}]"

    def take(self, rows: Sequence[int]) -> "Pairs":
        """The pairs at the given positions."""
        return Pairs(
            [self.sources[i] for i in rows],
            [self.targets[i] for i in rows],
            self.name,
            [self.lines[i] for i in rows] if self.lines else (),
            self.empty,
        )


def open_pairs(argument: str, split: Split, settings: Settings) -> Pairs:
    """Opens one split of sentence pairs in files of UTF-8 text, gzip-compressed or not.

    - `FILE`: a line is `SOURCE TAB TARGET`; further columns (an attribution) are passed over.
    - `SOURCE_FILE,TARGET_FILE`: line i of one is the translation of line i of the other.

    A file that is not there is looked for with `.gz` added. Where `train` is part of the files'
    names, the split `eval` is the files with `val`, `valid`, `validation` or `dev` in its place,
    else `test`; the split `test` is `test`, else those. Where there are none, both are held out of
    the pairs, each `settings.holdout_fraction` of the distinct source sentences, by a hash of the
    sentence: all translations of a sentence are on one side, the same in each run whatever its
    seed.

    Raises:
        UserError: naming the file and line: no such file, an empty one, invalid UTF-8, a line
            without a tab, files with different numbers of lines, or nothing to hold out.
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
    """One of three splits of a set, cut by distinct source sentence.

    Args:
        pairs: the set.
        split: which.
        fraction: share of the distinct source sentences in each of `eval` and `test`.
    """

    def place(source: str) -> Split:
        # Sentences that differ in case or spacing alone stay together.
        key = " ".join(source.casefold().split()).encode()
        share = int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
        if share < fraction:
            return "eval"
        return "test" if share < 2 * fraction else "train"

    return pairs.take([i for i, source in enumerate(pairs.sources) if place(source) == split])


def _split_files(paths: Sequence[Path], split: Split) -> list[Path] | None:
    """A split's own files, beside those of training; None where there are none."""
    if any("train" not in path.name for path in paths):
        return None
    for name in _SPLIT_NAMES[split]:
        found = [_find(p.with_name(p.name.replace("train", name))) for p in paths]
        if all(found):
            return found
    return None


def _find(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _existing(path: Path) -> Path:
    found = _find(path)
    if found is None:
        problem = "is a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"--data pairs: {path}: {problem}")
    return found


def _read(paths: Sequence[Path]) -> Pairs:
    """The pairs of one tab-separated file or two parallel ones."""
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
        raise UserError(f"{name}: holds no pair of sentences")
    sources = [rows[i - 1][0].strip() for i in lines]
    targets = [rows[i - 1][1].strip() for i in lines]
    return Pairs(sources, targets, name, lines, len(rows) - len(lines))


def _read_lines(path: Path) -> list[str]:
    """The lines of a text file, Unicode-normalised; only a newline ends a line."""
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
    """Canonical composition (NFC): letters with accents are one character, however written."""
    return unicodedata.normalize("NFC", text)
