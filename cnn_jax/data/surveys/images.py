"""Survey of images before the first step: how many of each class, and the same picture twice."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool

from cnn_jax import processors
from cnn_jax.data.decode import bits
from cnn_jax.data.source import Source
from cnn_jax.errors import one_line

MOST_FILES = 100_000
"""The number of files, training and evaluation together, up to which equal ones are looked for."""

Presence = Bool[np.ndarray, "_ classes"]

_NAMED = 12  # classes at most whose numbers are listed
_PART = 4096  # bytes at either end of a file that are compared before all of it


def notices(
    training: Source,
    held_out: Source,
    unit: str = "image",
    present: Sequence[Presence | None] | None = None,
    read_bits: int = 8,
) -> list[str]:
    """List the sources' own notices, the number of examples, and pictures that are in both.

    Sources that know their examples' `labels` (ints [examples], or bools [examples, classes])
    have them counted; those that know their `files` have them compared.

    Args:
        training: the training examples.
        held_out: the examples for evaluation, of the same classes.
        unit: the word for an example.
        present: which classes are in which training and evaluation examples, in place of `labels`.
        read_bits: the bits of a channel with which images are read.
    """
    deep_images = deep(training) if read_bits == 8 else ()
    of_sources = (*getattr(training, "notices", ()), *getattr(held_out, "notices", ()))
    own = dict.fromkeys((*of_sources, *deep_images))
    return [*map(one_line, own), *summary(training, held_out, unit, present)]


def summary(
    training: Source,
    held_out: Source,
    unit: str = "image",
    present: Sequence[Presence | None] | None = None,
) -> list[str]:
    """List the number of examples by class and split, and pictures in both, as in `notices`."""
    if present is None:
        present = [presence(source) for source in (training, held_out)]
    line = f"data: {_number(len(training), f'training {unit}')}, {len(held_out):,} for evaluation"
    known = present[0] is not None and present[1] is not None
    counted = _counts(line, training, present, unit) if known else [line]
    return [one_line(each) for each in (*counted, *equal_pictures(training, held_out))]


def deep(source: Source) -> list[str]:
    """Tell that images of 16 bits are scaled to 8, as the first file of a source shows."""
    files = getattr(source, "files", None)
    if not files or bits(files[0]) == 8:
        return []
    return [
        f"data: images of 16 bits a channel ({files[0]}) are scaled to 8; --bits 16 "
        "reads them as they are"
    ]


def presence(source: Source) -> Presence | None:
    """Mark the classes that each example has, if the source knows its `labels` or `present`."""
    if (present := getattr(source, "present", None)) is not None:
        return present
    labels = getattr(source, "labels", None)
    if labels is None:
        return None
    return labels if labels.ndim == 2 else labels[:, None] == np.arange(len(source.class_names))


def _counts(line: str, training: Source, present: Sequence[Presence], unit: str) -> list[str]:
    """Describe the number of examples by class and split, after the beginning of a line."""
    names = training.class_names
    trained, evaluated = (each.sum(axis=0).tolist() for each in present)
    least, most = min(trained), max(trained)
    span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    line += f"; {_number(len(names), 'class')} of {span} training {_plural(unit)}"
    if len(names) <= _NAMED:
        listed = zip(names, trained, evaluated, strict=True)
        line += f" (training + evaluation: {', '.join(f'{n} {t:,} + {e:,}' for n, t, e in listed)})"
    lines = [line]
    without = int((~present[0].any(axis=1)).sum())
    # Images without objects are told by the survey of boxes.
    if without and not hasattr(training, "object_count"):
        lines.append(f"data: {_number(without, f'training {unit}')} without any class")
    for of, numbers in ((f"training {unit}", trained), (f"{unit} for evaluation", evaluated)):
        lacking = [name for name, number in zip(names, numbers, strict=True) if not number]
        if lacking:
            more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
            classes = "the class" if len(lacking) == 1 else f"{len(lacking)} classes:"
            lines.append(f"data: no {of} of {classes} {', '.join(lacking[:_NAMED])}{more}")
    return lines


def _number(count: int, unit: str) -> str:
    return f"{count:,} {unit if count == 1 else _plural(unit)}"


def _plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith(("ch", "s")) else f"{unit}s"


def equal_pictures(training: Source, held_out: Source) -> list[str]:
    """Describe the files that are byte for byte in both splits, in a list of at most one line."""
    files = [getattr(source, "files", None) for source in (training, held_out)]
    if files[0] is None or files[1] is None:
        return []
    trained, evaluated = (list(dict.fromkeys(each)) for each in files)
    total = len(trained) + len(evaluated)
    if total > MOST_FILES:
        return [
            f"data: not looked for pictures that are in training and evaluation: {total:,} files "
            f"are more than {MOST_FILES:,}"
        ]
    pairs = pairs_of_equal_files(trained, evaluated)
    if not pairs:
        return []
    few, other = pairs[0]
    are = "pictures for evaluation is" if len(pairs) == 1 else "pictures for evaluation are"
    such = "" if few == other else f" ({few} is {other})"
    line = (
        f"data: {len(pairs):,} of {len(evaluated):,} {are} in the training set too, byte for "
        f"byte{such}; what is measured on them is too good"
    )
    return [one_line(line)]


def pairs_of_equal_files(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Find the files of `second` that have the bytes of one of `first`: pairs (second, first).

    Only files of equal sizes are read: their ends, and then as a whole where these are equal too.
    Empty and unreadable files have no pair.
    """
    groups = [(list(first), list(second))]
    with ThreadPoolExecutor(processors.available()) as pool:
        for key in (_size, _ends, _whole):
            groups = _refined(groups, key, pool)
    found = {file: group[0][0] for group in groups for file in group[1]}
    return [(file, found[file]) for file in second if file in found]


Group = tuple[list[str], list[str]]


def _refined(groups: list[Group], key: Callable[[str], Any], pool: Executor) -> list[Group]:
    """Divide groups of files by a key; parts without files on both sides are left out."""
    files = [file for group in groups for side in group for file in side]
    keys = iter(pool.map(key, files, chunksize=64))
    parts: dict[Any, Group] = defaultdict(lambda: ([], []))
    for number, group in enumerate(groups):
        for side, names in enumerate(group):
            for name in names:
                if value := next(keys):
                    parts[number, value][side].append(name)
    return [part for part in parts.values() if part[0] and part[1]]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _ends(path: str) -> bytes:
    """The first and the last bytes of a file."""
    try:
        with open(path, "rb") as file:
            start = file.read(_PART)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _PART))
            return start + file.read(_PART)
    except OSError:
        return b""


def _whole(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
