"""Every flag with odd values from its own declaration: accepted in its range, or one line."""

import itertools
import math
import random

import pytest

from experiments import options as flags
from tests.faults.flags import VERBS, command_lines, exposed, odd_values, problem

every_verb = pytest.mark.parametrize("verb", VERBS)


@every_verb
def test_every_number_declares_a_finite_range_that_holds_its_default(verb):
    for flag in flags.declared(VERBS[verb]).values():
        if flag.type not in (int, float):
            continue
        assert math.isfinite(flag.range.low) and math.isfinite(flag.range.high), flag
        defaults = flag.default if isinstance(flag.default, tuple) else (flag.default,)
        assert all(value is None or value in flag.range for value in defaults), flag
        assert f"({flag.range})" in flags.help_text(flag)


@every_verb
def test_odd_values_of_every_flag_are_refused_in_one_line_or_lie_in_its_range(verb):
    rng = random.Random(0)
    for flag in exposed(verb):
        for text in odd_values(flag, rng):
            values = [text] * (flag.length or 1)
            argv = values if flag.declared.positional else [flag.dashed, *values]
            if flag.type is bool:
                argv = [f"{flag.dashed}={text}"]
            assert problem(verb, argv) is None, argv


def test_random_command_lines_are_refused_in_one_line_or_lie_in_their_ranges():
    for verb, argv in itertools.islice(command_lines(random.Random(1)), 1000):
        assert problem(verb, argv) is None, (verb, argv)


def test_the_check_can_fail(monkeypatch):
    monkeypatch.setattr(flags.Flag, "_legal", lambda self, item: True)
    assert "is accepted" in problem("classify", ["--learning-rate", "nan"])
    assert "is accepted" in problem("classify", ["--batch-size", "0"])
    assert "no text" in problem("classify", ["--out", "\udcff"])
