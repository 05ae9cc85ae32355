"""A run's steps in a trace, which changes none of its bits."""

import gzip
import json

import jax
import pytest

from cnn_jax.errors import UserError
from cnn_jax.training.profiling import STEP_EVENT, Profile
from tests.checks import assert_same_bits
from tests.commands import rows
from tests.training.test_loop import Batches, Whole, fail, run


def profiled(out, first, last, batches=None, **settings):
    profile = Profile(range(first, last), out / "profile")
    return run(out, batches or Batches(), profile=profile, **settings)


def traces(out):
    return sorted((out / "profile").rglob("*.trace.json.gz"))


def events(trace):
    return json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]


def steps(trace):
    return [int(e["args"]["step_num"]) for e in events(trace) if e.get("name") == STEP_EVENT]


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("batches", "on_device", "marked"),
    # On the device one call makes all updates until the report after step 4, and so on.
    [(Batches, False, [2, 3, 4, 5]), (Whole, True, [2, 4])],
)
def test_a_trace_holds_the_steps_and_the_run_has_the_same_bits(
    tmp_path, batches, on_device, marked
):
    plain = run(tmp_path / "plain", Batches())
    out = tmp_path / "run"
    state = profiled(out, 2, 6, batches(), on_device=on_device)
    (trace,) = traces(out)
    assert steps(trace) == marked
    assert any("hlo_op" in event.get("args", {}) for event in events(trace))  # what the device does
    assert {"launch", "reporting"} <= {event.get("name") for event in events(trace)}  # and the host
    # TensorBoard's plugin looks for this place and this file.
    assert trace.parents[1] == out / "profile/plugins/profile"
    host = trace.name.removesuffix(".trace.json.gz")
    assert trace.with_name(f"{host}.xplane.pb").stat().st_size > 1000
    assert_same_bits(state, plain)
    assert rows(out) == rows(tmp_path / "plain")


def test_a_run_that_fails_amid_the_steps_writes_them_and_a_resumed_one_records_the_rest(tmp_path):
    plain, out = run(tmp_path / "plain", Batches()), tmp_path / "run"
    with pytest.raises(UserError, match=r"photo\.jpg"):
        profiled(out, 2, 8, Batches({7: fail}))
    (first,) = traces(out)
    made = steps(first)
    assert made[:2] == [2, 3] and 7 not in made
    resumed = profiled(out, 2, 8, resume=True)
    assert len(traces(out)) == 2
    assert {number for trace in traces(out) for number in steps(trace)} == set(range(2, 8))
    assert_same_bits(resumed, plain)


def test_no_process_but_the_first_records_and_all_make_equally_many_updates_at_a_time(tmp_path):
    first, other = (Profile(range(2, 6), tmp_path, enabled) for enabled in (True, False))
    for profile in (first, other):
        turns = [profile.until_turn(step) for step in (0, 2, 5, 6)]
        assert turns == [2, 4, 1, float("inf")]
    assert first.begins(2) and first.begins(5) and not (first.begins(6) or first.begins(1))
    assert not other.begins(2)


def test_another_profiler_at_work_is_told(tmp_path):
    jax.profiler.start_trace(str(tmp_path / "other"))
    try:
        with pytest.raises(UserError, match="--profile: Profile has already been started"):
            profiled(tmp_path / "run", 2, 4)
    finally:
        jax.profiler.stop_trace()


def test_a_trace_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/profile").write_text("in the way")
    with pytest.raises(UserError, match=r"run/profile.*cannot be written"):
        profiled(tmp_path / "run", 2, 4)
    assert not traces(tmp_path / "run")
