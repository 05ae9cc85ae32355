"""Limits of time by an injected clock, and real signals, in what is no training."""

import os
import signal
import threading
import time

import pytest

from cnn_jax.errors import UnfinishedError
from cnn_jax.training import stopping


class Timer:
    """A timer whose time is over when the test says so."""

    made: "list[Timer]"

    def __init__(self, seconds, function):
        self.seconds, self.function, self.running = seconds, function, False
        Timer.made.append(self)

    def start(self):
        self.running = True

    def cancel(self):
        self.running = False


@pytest.fixture(autouse=True)
def made():
    Timer.made = []
    return Timer.made


def test_a_limit_ends_what_is_under_way(made):
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(UnfinishedError, match="stopped"), stopping.limited(2.5, Timer):
        (timer,) = made
        assert timer.running and timer.seconds == 150
        # From another thread, as a timer does, while this one waits.
        threading.Thread(target=lambda: (time.sleep(0.2), timer.function())).start()
        threading.Event().wait(60)
        pytest.fail("nothing ended it")
    assert not timer.running
    assert signal.getsignal(signal.SIGUSR1) is before


def test_what_ends_in_time_is_not_disturbed(made):
    with stopping.limited(1.0, Timer):
        pass
    assert not made[0].running
    with stopping.limited(None, Timer):
        pass
    assert len(made) == 1


def test_a_request_is_none_of_the_exceptions_that_code_mends():
    with pytest.raises(UnfinishedError), stopping.limited():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(60)
        except Exception:
            pytest.fail("taken for a failure")


def test_a_request_that_a_library_makes_an_exception_of_is_still_one():
    with pytest.raises(UnfinishedError), stopping.limited():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(60)
        except BaseException:
            raise ValueError("from a library") from None


def test_failures_stay_what_they_are():
    with pytest.raises(ZeroDivisionError), stopping.limited():
        raise ZeroDivisionError


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_training_only_notes_a_request(number):
    with stopping.limited():
        before = signal.getsignal(number)
        with stopping.noted(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT) as stop:
            assert not stop.is_set()
            os.kill(os.getpid(), number)
            assert stop.wait(60)
        assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), stopping.noted(signal.SIGINT) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)


def test_other_threads_have_no_signals():
    found = []

    def enter():
        with stopping.limited(1.0, Timer), stopping.noted(signal.SIGUSR1) as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]
