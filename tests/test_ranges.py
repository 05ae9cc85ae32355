"""Ranges: what lies in them, how they read, and dataclasses that check their fields by them."""

import dataclasses
from typing import Annotated, Literal

import pytest

from cnn_jax.errors import UserError
from cnn_jax.ranges import Range, check_ranges, ranges, split

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("limits", "words", "inside", "outside"),
    [
        (Range(0, 1), "in [0, 1]", [0, 1, 0.5, 1e-320], [-1e-9, 1.5, NAN, INF, -INF, 10**400]),
        (Range(0, 1, below=True), "in [0, 1)", [0, 0.5], [1, 1 - 1e-9, NAN]),
        (Range(0, 1, above=True), "in (0, 1]", [1e-30, 1], [0, 1e-320, -0.0]),
        (Range(-1e9, 1e9), "in [-1e9, 1e9]", [-1e9, 0], [1.1e9]),
        (Range(1, 2**31 - 1), "in [1, 2147483647]", [1, 2**31 - 1], [0, 2**31]),
    ],
)
def test_numbers_in_and_out_of_a_range(limits, words, inside, outside):
    assert str(limits) == words
    assert all(number in limits for number in inside)
    assert not any(number in limits for number in outside)


@pytest.mark.parametrize(("low", "high"), [(0, INF), (NAN, 1), (1, 1), (2, 1)])
def test_a_range_has_two_finite_ends(low, high):
    with pytest.raises(ValueError, match="no ends of a range"):
        Range(low, high)


def test_a_type_and_its_range_come_apart():
    limits = Range(0, 1)
    assert split(Annotated[float, limits]) == (float, limits)
    assert split(Annotated[float, limits] | None) == (float | None, limits)
    assert split(Annotated[tuple[float, ...], limits]) == (tuple[float, ...], limits)
    assert split(Literal["a"] | None) == (Literal["a"] | None, None)


def test_every_number_of_a_dataclass_is_checked():
    @dataclasses.dataclass
    class Settings:
        share: Annotated[float, Range(0, 1)] = 0.5
        sizes: Annotated[tuple[int, ...], Range(1, 9)] | None = None
        name: str = ""

    assert set(ranges(Settings)) == {"share", "sizes"}
    check_ranges(Settings(sizes=(1, 9)))
    with pytest.raises(UserError, match=r"^share nan: must be in \[0, 1\]$"):
        check_ranges(Settings(share=NAN))
    with pytest.raises(UserError, match=r"^sizes 1 10: must be in \[1, 9\]$"):
        check_ranges(Settings(sizes=(1, 10)))
