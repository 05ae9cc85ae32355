"""Ranges of numbers, declared where a parameter is declared.

The range of a dataclass's field is metadata of its type, `Annotated[float, Range(0, 1)]`, and
holds for each number of a tuple. `check_ranges` refuses what lies outside; whoever shows the
parameter to a user, such as a command line, reads the same range.
"""

import dataclasses
import functools
import math
import typing
from typing import Annotated, Any, get_args, get_origin

import numpy as np

from cnn_jax.errors import check

LARGEST_INT = 2**31 - 1
"""The largest number of steps, and of what else is counted in 32 bits on a device."""

LARGEST_SIDE = 2**14
"""The most pixels on a side of an image that anything is made of."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Legal numbers: an interval, closed unless said otherwise.

    Attributes:
        low, high: its ends; always finite, so that neither NaN nor infinity is legal.
        above: True if `low` itself is not legal.
        below: True if `high` itself is not legal.
    """

    low: int | float
    high: int | float
    above: bool = False
    below: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{self.low} and {self.high} are no ends of a range")

    def __contains__(self, number: int | float) -> bool:
        if not self.low <= number <= self.high:
            return False
        # Devices compute in 32 bits: what rounds to an end is that end.
        return not (
            (self.above and np.float32(number) <= np.float32(self.low))
            or (self.below and np.float32(number) >= np.float32(self.high))
        )

    def __str__(self) -> str:
        left, right = "(" if self.above else "[", ")" if self.below else "]"
        return f"in {left}{_shown(self.low)}, {_shown(self.high)}{right}"


COUNTED = Annotated[int, Range(0, LARGEST_INT)]
"""The type of a number of steps."""


def _shown(number: int | float) -> str:
    """A number without a superfluous digit: 0.5, 2147483647, 1e9."""
    whole = f"{number:.10g}"
    short = f"{number:g}".replace("e+0", "e").replace("e+", "e")
    return short if abs(number) >= 1e6 and float(short) == number else whole


def split(hint: Any) -> tuple[Any, Range | None]:
    """A type without its range, and the range; `| None` around both is looked through."""
    if get_origin(hint) is Annotated:
        found = [mark for mark in hint.__metadata__ if isinstance(mark, Range)]
        return hint.__origin__, found[0] if found else None
    ranges = [found for one in get_args(hint) if (found := split(one)[1]) is not None]
    if not ranges or get_origin(hint) is tuple:
        return hint, None
    members = [split(one)[0] for one in get_args(hint)]
    return functools.reduce(lambda a, b: a | b, members), ranges[0]


def check_ranges(values: Any) -> None:
    """Check every field of a dataclass that has a range.

    Raises:
        UserError: a number, or one of a tuple's, lies outside; the message names the field.
    """
    for name, limits in ranges(type(values)).items():
        value = getattr(values, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        check(all(number in limits for number in numbers), name, value, str(limits))


@functools.cache
def ranges(owner: type) -> dict[str, Range]:
    """The ranges of a dataclass's fields, by name."""
    hints = typing.get_type_hints(owner, include_extras=True)
    found = {field.name: split(hints[field.name])[1] for field in dataclasses.fields(owner)}
    return {name: limits for name, limits in found.items() if limits is not None}
