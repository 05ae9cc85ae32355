"""Names of the files that predictions are written to: one of its own for every input."""

import hashlib
import itertools
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnn_jax.errors import UserError

_LONGEST = 200  # bytes; file systems allow 255 with the ending


def output_names(inputs: Sequence[str]) -> list[str]:
    """Name the output of each input: a file name without ending.

    It is the stem of the input's file where no other input has it. Otherwise as many folders above
    the file are put before it as tell those of this stem apart, and its ending behind it if need
    be: `x/1.png` and `y/1.png` become `x_1` and `y_1`, `a.jpg` and `a.png` become `a_jpg` and
    `a_png`. An input that is given several times gets numbers. Names that differ only in case are
    taken for the same, as some file systems do.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, file in enumerate(inputs):
        groups[_key(Path(file).stem)].append(index)
    names: dict[int, str] = {}
    taken: set[str] = set()
    # Stems that one input has come first, so that they stay as they are.
    for group in sorted(groups.values(), key=len):
        for index, name in zip(group, _told_apart([inputs[index] for index in group]), strict=True):
            tries = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
            names[index] = next(free for free in tries if _key(free) not in taken)
            taken.add(_key(names[index]))
    return [names[index] for index in range(len(inputs))]


def require_other_files(inputs: Iterable[str], outputs: Iterable[str | Path]) -> None:
    """Raise UserError if an output would replace one of the inputs."""
    read = {os.path.realpath(file): file for file in inputs}
    for output in outputs:
        if (file := read.get(os.path.realpath(output))) is not None:
            raise UserError(
                f"{file}: a prediction would replace this input; name another folder with "
                "--directory"
            )


def folder_name(name: str) -> str:
    """A name, such as a class's, as the name of one folder."""
    cleaned = "".join("_" if char in "/\\\0" else char for char in name)
    return _shortened("_" * len(cleaned) if cleaned in (".", "..") else cleaned or "_")


def _told_apart(files: Sequence[str]) -> list[str]:
    """Names for files of one stem, the shortest that differ."""
    places = [os.path.abspath(file) for file in files]
    below = [_parts(file) for file in files]
    most = max(map(len, below))
    for parts, ending, depth in (
        *((below, ending, depth) for ending in (False, True) for depth in range(1, most + 1)),
        ([_parts(place) for place in places], True, None),
    ):
        names = [_joined(each, depth, ending) for each in parts]
        if len({*map(_key, names)}) == len({*places}):
            break
    several = Counter(places)
    numbers: Counter[str] = Counter()
    for index, place in enumerate(places):
        if several[place] > 1:
            numbers[place] += 1
            names[index] += f"-{numbers[place]}"
    return [_shortened(name) for name in names]


def _parts(file: str) -> list[str]:
    """The folders above a file and its name, without those that name no folder."""
    path = Path(file)
    return [part for part in path.parts if part not in (path.anchor, "..", ".")] or ["_"]


def _joined(parts: Sequence[str], depth: int | None, ending: bool) -> str:
    """The last parts of a path as one name, with or without the file's ending."""
    *above, name = parts if depth is None else parts[-depth:]
    stem, suffix = os.path.splitext(name)
    return "_".join([*above, stem]) + (suffix.replace(".", "_") if ending else "")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _shortened(name: str) -> str:
    """A name that file systems accept: a long one ends with a hash instead of its beginning."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST:
        return name
    kept = content[: _LONGEST - 17].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(content).hexdigest()[:16]}"
