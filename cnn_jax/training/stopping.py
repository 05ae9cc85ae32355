"""Requests to end a run before its end: signals, and a limit of time.

A training or an evaluation notes them and ends between two batches (`noted`). Whatever else a run
does is ended where it is (`limited`): what it has finished is on disk, and is not done again.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cnn_jax.errors import UnfinishedError
from cnn_jax.training import parallel


@contextmanager
def limited(
    minutes: float | None = None, timer: Callable[..., Any] = threading.Timer
) -> Iterator[None]:
    """Raise UnfinishedError inside the block when SIGUSR1 comes, or when the time is over.

    Args:
        minutes: the limit; when they are over, the process sends itself SIGUSR1.
        timer: makes, of seconds and a function, an object with `start` and `cancel`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def end(_number: int, _frame: Any) -> None:
        nonlocal asked
        asked = True
        raise UnfinishedError("stopped")

    def send() -> None:
        # To the thread that handles it, which may be waiting.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, end)
    alarm = None if minutes is None else timer(60 * minutes, send)
    try:
        if alarm is not None:
            alarm.daemon = True
            alarm.start()
        yield
    except Exception:
        if asked:  # some libraries make another exception of it
            raise UnfinishedError("stopped") from None
        raise
    finally:
        if alarm is not None:
            alarm.cancel()
        signal.signal(signal.SIGUSR1, previous)


@contextmanager
def noted(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that the signals set inside the block; a second Ctrl-C interrupts at once.

    JAX hears SIGTERM itself where there are several processes, tells the others, and finds a step
    for all of them (`parallel.agreed_stop`). There the other signals are passed on as SIGTERM.
    """
    stop = threading.Event()

    def request(number: int, _frame: Any) -> None:
        if number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if not parallel.alone():
            signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ours = [s for s in signals if s != signal.SIGTERM or parallel.alone()]
    previous = {s: signal.signal(s, request) for s in ours}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
