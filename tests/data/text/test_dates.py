"""The built-in dates: a function of (seed, split, index), readable both ways, no day in common."""

import datetime

import pytest

from cnn_jax.data import text
from cnn_jax.data.text.dates import FORMATS, date_pair, write
from cnn_jax.errors import UserError


def test_pairs_are_a_function_of_seed_split_and_index():
    assert date_pair(3, "train", 7) == date_pair(3, "train", 7)
    assert date_pair(3, "train", 7) != date_pair(4, "train", 7)
    dates = text.open_sentence_pairs("dates", "eval", seed=3)
    assert len(dates) == 1000
    assert (dates.sources[7], dates.targets[7]) == date_pair(3, "eval", 7)


def test_no_day_is_in_two_splits():
    days = {s: {date_pair(0, s, i)[1] for i in range(1000)} for s in ("train", "eval", "test")}
    assert not days["train"] & days["eval"]
    assert not days["train"] & days["test"]
    assert not days["eval"] & days["test"]
    assert all(1950 <= datetime.date.fromisoformat(d).year <= 2049 for d in days["train"])


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        ("{weekday} the {d}{th} of {month} {y}", "Thursday the 3rd of July 2008"),
        ("{mm}/{dd}/{y}", "07/03/2008"),
        ("{dd}.{mm}.{yy}", "03.07.08"),
        ("{mon}. {dd}, {y}", "Jul. 03, 2008"),
    ],
)
def test_formats(pattern, written):
    assert pattern in FORMATS
    assert write(datetime.date(2008, 7, 3), pattern) == written


@pytest.mark.parametrize(
    ("day", "suffix"), [(1, "st"), (2, "nd"), (11, "th"), (13, "th"), (23, "rd")]
)
def test_ordinals(day, suffix):
    assert write(datetime.date(2000, 1, day), "{d}{th}") == f"{day}{suffix}"


def test_no_two_days_are_written_alike():
    """The text of a day in any format identifies the day."""
    days = [datetime.date(1950, 1, 1) + datetime.timedelta(days=97 * i) for i in range(376)]
    seen = {}
    for day in days:
        for pattern in FORMATS:
            assert seen.setdefault(write(day, pattern), day) == day


def test_an_argument_is_refused():
    with pytest.raises(UserError, match="give only dates"):
        text.open_sentence_pairs("dates:x", "train")
