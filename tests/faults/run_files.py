"""Corruptions of every file in a run's folder.

Files are found, not listed, and the values of `config.json` are drawn from the flags' declarations;
so a file or a flag that is added is covered.
"""

import contextlib
import io
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments import options as flags
from tests.faults.flags import TRAINING, odd_values

Corruption = Callable[[Path], None]
"""A function that corrupts the copy of a run's folder that it is given."""

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e30, 10**40, "", "x", "1", "\0", "\udcff", [], {}, [[]]),
    *([None], ["x"], [1, 2, 3], {"a": 1}, [[1, 2], [3]], float("nan"), float("inf")),
)
_DEEP = "[" * 100_000 + "]" * 100_000


def corruptions(rng: random.Random, run_folder: Path) -> Iterator[tuple[str, Corruption]]:
    """Corruptions of a run's folder, without end; each file has its turn.

    Yields:
        A description, and the function that corrupts a copy of the folder.
    """
    files = sorted(p.relative_to(run_folder) for p in run_folder.rglob("*") if p.is_file())
    folders = sorted(p.relative_to(run_folder) for p in run_folder.rglob("*") if p.is_dir())
    verb = json.loads((run_folder / "config.json").read_text())["verb"]
    while True:
        for file in rng.sample(files, len(files)):
            # A run's options are the most values that are read back.
            yield from _of_config(rng, verb, 2)
            content = (run_folder / file).read_bytes()
            kinds = [*_of_bytes(rng, file, content)]
            if file.suffix in (".json", ".jsonl"):
                kinds += itertools.islice(_of_values(rng, file, content), 6)
            yield from rng.sample(kinds, min(3, len(kinds)))
        folder = rng.choice(folders)
        yield f"{folder}/ missing", partial(_remove, file=folder)


def changed_options(rng: random.Random, verb: str) -> Iterator[tuple[str, Any]]:
    """Values of `config.json` that its flags do not allow, or that lie at their ends, without end.

    Yields:
        A key and a value.
    """
    known = list(flags.declared(TRAINING[verb]).values())
    while True:
        flag = rng.choice(known)
        texts = odd_values(flag, rng)
        value = rng.choice([*_ODD, *(_number(text) for text in rng.sample(texts, 4))])
        if flag.several and rng.random() < 0.7:
            value = [value] * (flag.length or rng.randint(1, 3))
        yield flag.name, value


def _of_config(rng: random.Random, verb: str, count: int) -> Iterator[tuple[str, Corruption]]:
    for name, value in itertools.islice(changed_options(rng, verb), count):
        shown = repr(value)[:60]
        yield f"config.json: {name} = {shown}", partial(_set, path=(name,), value=value)


def _number(text: str) -> Any:
    """A text as the number that it may be: JSON has both."""
    try:
        return int(text) if text.lstrip("-").isdigit() and len(text) < 4000 else float(text)
    except ValueError:
        return text


def _of_bytes(rng: random.Random, file: Path, content: bytes) -> Iterator[tuple[str, Corruption]]:
    """Corruptions of any file."""
    place = rng.randrange(len(content) + 1)
    middle = bytes(rng.randrange(256) for _ in range(20))
    flipped = bytearray(content)
    if flipped:
        flipped[min(place, len(content) - 1)] ^= 1 << rng.randrange(8)
    for description, new in (
        ("empty", b""),
        ("cut off", content[:place]),
        ("garbage", rng.randbytes(1000)),
        ("zeros", bytes(len(content))),
        ("with garbage within", content[:place] + middle + content[place:]),
        ("with a bit flipped", bytes(flipped)),
        ("in another encoding", content.decode("latin-1").encode("utf-16")),
        ("nested too deeply", _DEEP.encode()),
        ("a number of 5,000 digits", b'{"verb": ' + b"9" * 5000 + b"}"),
        ("half of a surrogate pair", b'{"verb": "\\ud800"}'),
        ("twice", content + content),
        ("a list", b"[1, 2]\n"),
        ("a text", b'"x"\n'),
    ):
        yield f"{file}: {description}", partial(_write, file=file, content=new)
    yield f"{file}: missing", partial(_remove, file=file)
    yield f"{file}: a folder", partial(_make_folder, file=file)


def _of_values(rng: random.Random, file: Path, content: bytes) -> Iterator[tuple[str, Corruption]]:
    """Corruptions of the values of a JSON file, or of a row of a file of rows, without end."""
    lines = content.decode().splitlines() if file.suffix == ".jsonl" else [content.decode()]
    while True:
        number = rng.randrange(len(lines))
        value = json.loads(lines[number])
        path = rng.choice([*_paths(value)])
        odd = rng.choice((*_ODD, _MISSING))
        new = _replaced(value, path, odd)
        text = json.dumps(new)
        if file.suffix == ".jsonl":
            text = "\n".join([*lines[:number], text, *lines[number + 1 :]]) + "\n"
        where = "/".join(map(str, path)) or "all"
        shown = "missing" if odd is _MISSING else repr(odd)[:60]
        yield f"{file}: {where} = {shown}", partial(_write, file=file, content=text.encode())


_MISSING = object()


def odd_contents(value: Any) -> Iterator[Any]:
    """A JSON value with each of its places taken by each odd value, or missing."""
    for path in _paths(value):
        for odd in (*_ODD, _MISSING):
            yield _replaced(value, path, odd)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values within a JSON value, its own among them."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value[:3]) if isinstance(value, list) else items:
        yield from _paths(item, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A JSON value with another one at a place within, or without the one there."""
    if not path:
        return None if new is _MISSING else new
    key, *rest = path
    inner = _replaced(value[key], tuple(rest), new) if rest else new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if inner is _MISSING:
        del copy[key]
    else:
        copy[key] = inner
    return copy


def _set(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(_replaced(json.loads(config.read_text()), path, value)))


def _write(folder: Path, file: Path, content: bytes) -> None:
    (folder / file).write_bytes(content)


def _remove(folder: Path, file: Path) -> None:
    path = folder / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _make_folder(folder: Path, file: Path) -> None:
    (folder / file).unlink()
    (folder / file).mkdir()


def outcome(main: Callable[[list[str]], None], argv: list[str]) -> tuple[int, str]:
    """Run a command in this process: its exit status, and what it wrote to stderr.

    An exception that is no user's mistake is status 1, with its type and text.
    """
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            flags.entry(lambda: main(argv))
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except Exception as error:
            status = 1
            errors.write(f"{type(error).__name__}: {error}")
    return status, errors.getvalue()


def problem(status: int, errors: str) -> str | None:
    """What is wrong with the outcome of a command on a corrupted run; None if nothing is.

    It is right if the command ends well, or with status 2 and one line that begins with `error:`.
    """
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    if status == 0 or (status == 2 and len(lines) == 1 and errors.endswith(lines[0] + "\n")):
        return None
    return f"status {status}: {errors[-500:]}"
