"""`--profile`: which steps are legal, and what a resumed run says of them."""

import json

import pytest

from cnn_jax.errors import UserError
from experiments import classify
from experiments import options as flags
from experiments.profiled import check_profiled, made_before, profiled_steps


def asked(given):
    return profiled_steps(flags.RunOptions(profile=given))


def test_the_steps_are_those_of_a_slice():
    assert asked("20:30") == range(20, 30)
    assert asked("0:1") == range(1)
    assert not asked(None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5:5", "--profile 5:5: START must be below STOP"),
        ("7", "--profile 7: give START:STOP, such as 20:30 for ten steps"),
        ("-1:3", "--profile -1:3: give START:STOP"),
        (f"0:1{'0' * 5000}", "give START:STOP"),
    ],
)
def test_what_are_no_steps_is_refused_before_the_data_is_read(given, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        classify.main(["--out", str(tmp_path / "run"), f"--profile={given}"])
    assert not (tmp_path / "run").exists()


def test_steps_beyond_the_run_are_refused():
    check_profiled(asked("0:7"), 7)
    check_profiled(asked(None), 7)
    with pytest.raises(UserError, match="--profile 3:8: the run has 7 steps, and STOP is at most"):
        check_profiled(asked("3:8"), 7)


def test_a_resumed_run_says_what_it_cannot_record():
    assert made_before(range(2, 6), 2) == [] == made_before(range(0), 9)
    assert made_before(range(2, 6), 3) == [
        "--profile: 1 of 4 steps were made before, and are not recorded"
    ]
    assert "4 of 4" in made_before(range(2, 6), 9)[0]


def test_the_flag_does_nothing_for_an_evaluation_and_is_not_part_of_the_run(tmp_path):
    parsed = flags.parse(classify.Options, ["--profile", "2:4"])
    assert "profile" not in flags.described(parsed, {})
    (tmp_path / "config.json").write_text(json.dumps(flags.described(parsed, {})))
    with pytest.raises(UserError, match="--profile: not used with --eval-only"):
        flags.parse(classify.Options, ["--out", str(tmp_path), "--eval-only", "--profile", "2:4"])
