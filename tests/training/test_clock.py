"""The clock of the device, with a clock and steps of the tests' own."""

import threading
import time

import pytest

from cnn_jax.training.clock import (
    ACTIVITIES,
    DeviceClock,
    Ledger,
    busy,
    main_cause,
    summary,
    warning,
)


def test_a_step_is_busy_from_its_launch_or_the_end_of_the_one_before():
    ledger = Ledger(0.0)
    ledger.activity(0, 10, "data")
    ledger.step(1, 3)
    ledger.step(2, 5)  # queued while the first one ran
    ledger.step(7, 8)
    times = ledger.take(10)
    assert times["steps"] == 5
    assert times["data"] == 5
    assert sum(times.values()) == 10
    assert busy(times) == 0.5


def test_time_without_a_step_counts_for_what_the_host_did():
    ledger = Ledger(0.0)
    for start, end, activity in ((0, 2, "data"), (2, 3, "launch"), (3, 9, "evaluation")):
        ledger.activity(start, end, activity)
    ledger.step(2.5, 4)
    ledger.step(6, 7)
    times = ledger.take(12)
    assert times == dict.fromkeys(times, 0) | {
        "steps": 2.5, "data": 2, "launch": 0.5, "evaluation": 4, "other": 3
    }  # fmt: skip


def test_intervals_share_a_step_that_runs_on():
    ledger = Ledger(0.0)
    ledger.activity(0, 4, "data")
    ledger.step(1, 6)
    first = ledger.take(4)
    ledger.activity(4, 10, "data")
    second = ledger.take(10)
    assert (first["steps"], first["data"]) == (3, 1)
    assert (second["steps"], second["data"]) == (2, 4)


class Host:
    """A host whose time passes only when it is told to."""

    def __init__(self):
        self.now = 0.0
        self.moved = threading.Condition()

    def __call__(self):
        return self.now

    def passes(self, seconds):
        with self.moved:
            self.now += seconds
            self.moved.notify_all()

    def wait(self, ready_at):
        """Stand for a device: return when the time of a result has come."""
        with self.moved:
            assert self.moved.wait_for(lambda: self.now >= ready_at, 10)


def settled(clock):
    """Wait until the thread of the clock has noted all that is ready."""
    deadline = time.monotonic() + 10
    while clock._running and time.monotonic() < deadline:
        time.sleep(0.001)


def step(ready_at):
    """Stand for a compiled step: its second result is ready at that time."""
    return "state", ready_at


def clock_of(host, **settings):
    return DeviceClock(host, host.wait, **{"synchronous": False, **settings})


def test_a_source_that_sleeps_is_told_as_waiting_for_data():
    host = Host()
    clock = clock_of(host)
    clock.step(step, 0.0, ends_with=1)  # compiles
    settled(clock)
    clock.take()
    for _ in range(4):
        with clock.during("data"):
            host.passes(3)
        clock.step(step, host.now + 1, ends_with=1)
        host.passes(1)
        settled(clock)
    times = clock.take()
    assert (times["steps"], times["data"]) == (4, 12)
    assert busy(times) == 0.25
    clock.close()


def test_a_host_that_computes_while_steps_run_loses_only_what_is_beyond_them():
    host = Host()
    clock = clock_of(host)
    clock.step(step, 0.0, ends_with=1)
    settled(clock)
    clock.take()
    clock.step(step, host.now + 5, ends_with=1)
    with clock.during("data"):
        # Threads that decode hold the lock for seven seconds, the step takes five.
        host.passes(5)
        settled(clock)
        host.passes(2)
    times = clock.take()
    assert (times["steps"], times["data"]) == (5, 2)
    clock.close()


def test_a_slow_evaluation_and_what_it_contains_are_told_apart():
    host = Host()
    clock = clock_of(host)
    with clock.during("evaluation"):
        host.passes(2)
        with clock.during("data"):
            host.passes(3)
        host.passes(4)
    with clock.during("saving"):
        host.passes(1)
    times = clock.take()
    assert (times["evaluation"], times["data"], times["saving"]) == (6, 3, 1)
    assert clock.total == times
    clock.close()


def test_the_first_call_of_a_function_counts_as_compiling():
    host = Host()

    def step(seconds):
        host.passes(seconds)
        return (host.now,)

    clock = clock_of(host, synchronous=True)
    clock.step(step, 20, ends_with=0)
    clock.step(step, 2, ends_with=0)
    times = clock.take()
    assert (times["compiling"], times["steps"], times["launch"]) == (20, 2, 0)


def test_a_step_that_fails_has_ended():
    host = Host()

    def fail(_):
        host.passes(0)
        raise RuntimeError("the device is gone")

    clock = DeviceClock(host, fail, synchronous=False)
    clock.step(lambda: (1,), ends_with=0)
    settled(clock)
    host.passes(5)
    assert busy(clock.take()) == 0
    clock.close()


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_every_activity_counts_under_its_name(activity):
    host = Host()
    clock = clock_of(host)
    with clock.during(activity):
        host.passes(1)
    assert clock.take() == dict.fromkeys(clock.total, 0) | {activity: 1}


def times(**seconds):
    return dict.fromkeys(("steps", *ACTIVITIES), 0.0) | seconds


def test_a_cause_is_told_when_it_costs_a_tenth_and_goes_on():
    assert main_cause(times(steps=80.0, data=11.0)) == "data"
    assert main_cause(times(steps=80.0, data=8.0)) is None
    assert main_cause(times(steps=1.0, data=1.0)) is None  # too early to tell
    assert (
        main_cause(times(steps=80.0, compiling=500.0, loading=99.0, saving=20.0, data=10.0))
        == "saving"
    )
    line = warning(times(steps=60.0, data=40.0), "data", "--workers 8 helps")
    assert line == "the device waits 40.0 % of the time for data; --workers 8 helps"


def test_the_summary_names_what_was_lost_largest_first():
    total = times(steps=97.0, data=1.0, evaluation=1.99, saving=0.01)
    assert summary(total) == (
        "device busy 97.0 % of 1 min 40 s; the rest: evaluation on the host 2.0 %, data 1.0 %"
    )
    assert summary(times(steps=5.0)) == "device busy 100.0 % of 5 s"
    assert summary(times()) == "device busy 0.0 % of 0 s"
