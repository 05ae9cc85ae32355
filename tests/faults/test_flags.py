"""Every flag with values at and beyond the ends of its range: in its range, or one line."""

import math

import pytest

from cnn_jax.errors import UserError
from experiments import options as flags
from tests.faults.flags import PLAIN, TRAINING, parsed, require_legal, typeable
from tests.verbs import OPTIONS

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
    for flag in flags.declared(OPTIONS[verb]).values():
        if flag.type in (int, float) and not flag.choices:
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


# By verb: flags with values that were once taken.
SENSELESS = {
    "classify": (
        *("--learning-rate -1", "--weight-decay -1e-4", "--bias-rate -1", "--decay-factor -1"),
        *("--clip-norm -1", "--clip-norm 0", "--label-smoothing -1", "--label-smoothing 2"),
        *("--ema 1.5", "--mixup -1", "--mixup 1e30", "--cutmix -1", "--milestones 0.5 2"),
        *("--checkpoint-every -1", "--eval-batch-size 0", "--batch-size 0", "--batch-size -1"),
        *("--keep 0", "--accumulate 0", "--workers -1", "--workers 1000000", "--seed -1"),
        *("--seed 4294967296", "--canvas-size -1", "--canvas-size 1000000"),
        *("--resize 0", "--resize 1000000", "--warmup-epochs -1"),
    ),
    "annotate": ("--f-beta 0", "--f-beta 1e30", "--k 0", "--patch-size -1", "--patch-size 0"),
    "detect": (
        *("--crop-size 0", "--crop-size 1000000", "--scales 0", "--scales 1000000"),
        *("--max-proposals 0", "--max-proposals 1000000", "--grid-ratios 0", "--grid-ratios 1e30"),
    ),
    "segment": ("--border-weight -1", "--image-shape 0 9", "--tile 1000000"),
    "translate": (
        *("--hidden-size 0", "--hidden-size 1000000", "--embedding-size 0"),
        *("--embedding-size 1000000", "--label-smoothing 2", "--buckets 0", "--buckets 1000000"),
    ),
    "predict": ("--batch-size 0", "--top -1"),
    "benchmark": ("--rounds 0", "--batch-size 0", "--seconds 0"),
}


@pytest.mark.parametrize(
    ("verb", "line"), [(verb, line) for verb, lines in SENSELESS.items() for line in lines]
)
def test_numbers_that_make_no_sense_are_refused(verb, line):
    name, *_ = line.split()
    with pytest.raises(UserError, match=rf"^{name} .*: must be .* in [\[(]"):
        parsed(verb, line.split())


def test_the_check_can_fail(monkeypatch):
    monkeypatch.setattr(flags.Flag, "_legal", lambda self, item: True)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_what_is_no_value_of_a_flag_is_refused_by_the_flag_s_name("classify")
