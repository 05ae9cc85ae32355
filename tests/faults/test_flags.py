"""Every flag with values at and beyond the ends of its range: in its range, or one line."""

import math

import pytest

from cnn_jax.errors import UserError
from experiments import options as flags
from tests.faults.flags import PLAIN, TRAINING, options, parsed, require_legal, typeable

every_verb = pytest.mark.parametrize("verb", [*TRAINING, *PLAIN])

NO_VALUES = ("nan", "inf", "-inf", "1e400", "9" * 5000, "1.5x", "", "a\0b", "\udcff")


def beyond(flag):
    """Texts that are no legal value of a flag: below, above, not finite, no text."""
    if flag.range is None:
        # What is neither a name nor a choice; 400 digits are a name.
        return NO_VALUES[-3:]
    low, high = flag.range.low, flag.range.high
    ends = [low - 1, high + 1, -high - 1, 10 * high + 10, 2**63, 10**400]
    ends += [low] * flag.range.above + [high] * flag.range.below
    return [*map(str, ends), *NO_VALUES, *(["0.5"] if flag.type is int else [])]


@every_verb
def test_every_number_declares_a_finite_range_that_holds_its_default(verb):
    for flag in flags.declared(options(verb)).values():
        if flag.type in (int, float):
            assert math.isfinite(flag.range.low) and math.isfinite(flag.range.high), flag
            defaults = flag.default if isinstance(flag.default, tuple) else (flag.default,)
            assert all(value is None or value in flag.range for value in defaults), flag
            assert f"({flag.range})" in flags.help_text(flag)


@every_verb
def test_what_is_no_value_of_a_flag_is_refused_by_the_flag_s_name(verb):
    for flag in typeable(verb):
        if flag.type is bool or flag.declared.positional:
            continue
        for text in beyond(flag):
            with pytest.raises(UserError) as caught:
                parsed(verb, [flag.dashed, *[text] * (flag.length or 1)])
            assert str(caught.value).startswith(flag.dashed), (text, str(caught.value))
            assert "must be" in str(caught.value)


@every_verb
def test_the_ends_of_every_range_are_legal_where_they_belong_to_it(verb):
    for flag in typeable(verb):
        if flag.range is None:
            continue
        for end in (flag.range.low, flag.range.high):
            if end in flag.range:
                value = (flag.type(end),) * (flag.length or 1) if flag.several else flag.type(end)
                require_legal(flag, flag.read([str(flag.type(end))] * (flag.length or 1)))
                assert flag.checked(value) == value


def test_the_check_can_fail(monkeypatch):
    monkeypatch.setattr(flags.Flag, "_legal", lambda self, item: True)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_what_is_no_value_of_a_flag_is_refused_by_the_flag_s_name("classify")
