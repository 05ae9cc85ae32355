"""The settings of a sweep: combinations of a grid, or values drawn at random, and their names."""

import hashlib
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_jax.errors import UserError, nearest

from ..options import Flag
from ..predict.names import folder_name

Setting = Mapping[str, Any]
"""Values of flags by name."""

_RANGE = re.compile(r"(uniform|log):([^:]+):([^:]+)")
_DIGITS = 4  # of a drawn number, so that names hold its value
_TRIES = 100  # draws for each setting that is asked for, as some were drawn before


@dataclass(frozen=True)
class Span:
    """A range that numbers are drawn from.

    Attributes:
        low, high: its ends.
        log: whether the logarithm is uniform, not the number.
        whole: whether numbers are rounded to whole ones.
    """

    low: float | int
    high: float | int
    log: bool
    whole: bool

    def draw(self, source: random.Random) -> float | int:
        """A number of the range, of four significant digits or whole."""
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = low + (high - low) * source.random()
        value = math.exp(value) if self.log else value
        value = round(value) if self.whole else float(f"{value:.{_DIGITS}g}")
        return min(max(value, self.low), self.high)


Grid = Mapping[str, tuple[Any, ...] | Span]
"""The values of each flag."""


def read(items: Sequence[str], known: Mapping[str, Flag]) -> Grid:
    """The values of flags from `NAME=VALUE,VALUE`, `NAME=uniform:LOW:HIGH` or `NAME=log:LOW:HIGH`.

    Semicolons separate where values hold commas. A value of a flag that takes several is their
    list, with blanks between.

    Raises:
        UserError: an item is of another form, its flag is unknown, or a value is illegal.
    """
    names = {
        spelled.replace("-", "_"): flag.name
        for flag in known.values()
        if not (flag.declared.hidden or flag.declared.positional)
        for spelled in (flag.name, *flag.declared.aliases.split())
    }
    grid: dict[str, tuple[Any, ...] | Span] = {}
    for item in items:
        spelled, equals, text = item.partition("=")
        name = names.get(spelled.lstrip("-").replace("-", "_"))
        if not equals or not text:
            raise UserError(f"--grid {item}: must be NAME=VALUE,VALUE,...")
        if name is None:
            raise UserError(f"--grid {item}: no such flag{nearest(spelled, names)}")
        if name in grid:
            raise UserError(f"--grid {item}: {name} is given twice")
        grid[name] = _span(known[name], text) or _values(known[name], text)
    return grid


def _values(flag: Flag, text: str) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
    if ";" in text and not parts[-1]:
        del parts[-1]
    values = tuple(flag.read(part.split() if flag.several else [part]) for part in parts)
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise UserError(f"--grid {flag.name}={text}: {_written(twice[0])} is given twice")
    return values


def _span(flag: Flag, text: str) -> Span | None:
    """The range that a text names for a flag of one number; None where it names none."""
    form = _RANGE.fullmatch(text)
    if form is None or flag.several or flag.type not in (int, float):
        return None
    low, high = (flag.read([end]) for end in form.groups()[1:])
    log = form[1] == "log"
    if not low < high or (log and low <= 0):
        expected = "0 < LOW < HIGH" if log else "LOW < HIGH"
        raise UserError(f"--grid {flag.name}={text}: must have {expected}")
    return Span(low, high, log, flag.type is int)


def combinations(grid: Grid) -> list[Setting]:
    """Every combination of the values; the last flag varies fastest.

    Raises:
        UserError: a flag has a range instead of values.
    """
    for name, values in grid.items():
        if isinstance(values, Span):
            raise UserError(f"--grid {name}: a range needs --random N, the number of draws")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def drawn(grid: Grid, count: int, seed: int) -> list[Setting]:
    """Different settings, drawn at random: numbers from ranges, and one of each list of values.

    The draw of a flag depends on its name, the seed and its number alone: more settings begin with
    the same ones.

    Raises:
        UserError: there are not so many.
    """
    found: list[Setting] = []
    for setting in itertools.islice(_draws(grid, seed), _TRIES * count):
        if setting not in found:
            found.append(setting)
        if len(found) == count:
            return found
    raise UserError(f"--random {count}: these values have only {len(found)} settings")


def _draws(grid: Grid, seed: int) -> Iterator[Setting]:
    for number in itertools.count():
        # A text as seed: Python's draws from it are the same on every machine and version.
        sources = {name: random.Random(f"{seed} {number} {name}") for name in grid}
        yield {
            name: values.draw(sources[name])
            if isinstance(values, Span)
            else values[int(sources[name].random() * len(values))]
            for name, values in grid.items()
        }


def arguments(setting: Setting, known: Mapping[str, Flag]) -> list[str]:
    """The setting as it is typed on a command line."""
    typed: list[str] = []
    for name, value in setting.items():
        flag = known[name]
        if flag.several and value is not None:
            typed += [flag.dashed, *map(str, value)]
        elif flag.type is bool and not flag.optional:
            typed.append(flag.dashed if value else f"--no-{flag.dashed[2:]}")
        else:
            typed.append(f"{flag.dashed}={value}")
    return typed


def run_name(setting: Setting, seed: int) -> str:
    """The name of a run's folder: `learning_rate=0.1,model=resnet18,seed=0`.

    A text with other characters than letters, digits and `._+-` has those replaced by `-`, and ends
    in a part of its hash; so does a name that is too long.
    """
    parts = [f"{name}={_safe(_written(value))}" for name, value in setting.items()]
    return folder_name(",".join([*parts, f"seed={seed}"]))


def _written(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _safe(text: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._+-]", "-", text)
    if cleaned == text:
        return text
    return f"{cleaned.strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
