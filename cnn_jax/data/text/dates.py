"""`dates`: dates as people write them, and in ISO form; no download is needed.

Pair i of a split is a pure function of (seed, split, i). The splits have different days, so no
date of the evaluation occurs in training in any form.
"""

import datetime

import numpy as np

from cnn_jax.data.source import Settings, Split
from cnn_jax.data.text.pairs import Pairs
from cnn_jax.errors import UserError

SIZES: dict[Split, int] = {"train": 20_000, "eval": 1_000, "test": 1_000}

# A hundred years, so that two digits determine the year.
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# By custom, the day comes first with dots and hyphens, the month with slashes.
FORMATS = (
    *("{d} {month} {y}", "{d} {mon} {y}", "{dd} {month} {yy}", "{d}{th} {month} {y}"),
    *("{d}{th} of {month} {y}", "the {d}{th} of {month}, {y}", "{month} {d}, {y}"),
    *("{month} {d}{th}, {y}", "{mon} {d}, {y}", "{mon}. {dd}, {y}", "{month} the {d}{th}, {y}"),
    *("{weekday}, {d} {month} {y}", "{weekday}, {month} {d}, {y}", "{day} {d} {mon} {y}"),
    *("{weekday} the {d}{th} of {month} {y}", "{dd}.{mm}.{y}", "{d}.{m}.{y}", "{dd}.{mm}.{yy}"),
    *("{mm}/{dd}/{y}", "{m}/{d}/{y}", "{m}/{d}/{yy}", "{y}/{mm}/{dd}", "{dd}-{mon}-{y}"),
    *("{d}-{mon}-{yy}", "{d}. {month} {y}", "{y} {month} {d}", "{month} {y}, the {d}{th}"),
)


def open_dates(argument: str, split: Split, settings: Settings) -> Pairs:
    """Generate one split of the dates.

    Raises:
        UserError: an argument is given; the format has none.
    """
    if argument:
        raise UserError(f"--data dates:{argument}: dates are generated, give only dates")
    written = [date_pair(settings.seed, split, index) for index in range(SIZES[split])]
    sources, targets = zip(*written, strict=True)
    return Pairs(sources, targets, f"dates {split}")


def date_pair(seed: int, split: Split, index: int) -> tuple[str, str]:
    """Write a date in a random format, and in ISO form."""
    rng = np.random.default_rng([seed, *b"dates", *split.encode(), index])
    place = {"eval": 0, "test": 1}
    while True:
        day = FIRST + datetime.timedelta(days=int(rng.integers((LAST - FIRST).days + 1)))
        # Every eleventh day is for evaluation, and the day after it for the test.
        part = day.toordinal() % 11
        if part == place[split] if split in place else part > 1:
            break
    text = write(day, FORMATS[rng.integers(len(FORMATS))])
    case = (str, str, str.lower, str.upper)[rng.integers(4)]
    return case(text), day.isoformat()


def write(day: datetime.date, pattern: str) -> str:
    """Write a date in one of `FORMATS`."""
    month, weekday = _MONTHS[day.month - 1], _DAYS[day.weekday()]
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return pattern.format(
        d=day.day,
        dd=f"{day.day:02}",
        m=day.month,
        mm=f"{day.month:02}",
        y=day.year,
        yy=f"{day.year % 100:02}",
        month=month,
        mon=month[:3],
        weekday=weekday,
        day=weekday[:3],
        th="th" if 11 <= day.day <= 13 else suffix,
    )
