"""Worker processes that end with their parent; the function is sent once and called many times.

They are a standard pool. Grain's own workers outlive a killed parent, and their shared memory
raises warnings when the interpreter ends.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from cnn_jax import memory
from cnn_jax.errors import UserError

WORKER_BYTES = 200_000_000
"""The memory that a worker takes before it does anything, most of it for what it imports."""

_OF_PARENT = (signal.SIGINT, signal.SIGUSR1)
"""Signals that go to whole groups of processes, of which only the parent is to act on them."""


@contextmanager
def worker_processes(
    function: Callable[[Any], Any], workers: int, flag: str = "--workers"
) -> Iterator[Callable[[Any], Future]]:
    """Start processes that call `function`; pending calls are cancelled when the block ends.

    Args:
        function: the function, which must be picklable.
        workers: the number of processes.
        flag: the user's name for that number.

    Yields:
        A function that submits a call with one argument.

    Raises:
        UserError: there is no memory for so many processes, or one died.
    """
    memory.require(workers * WORKER_BYTES, f"{flag} {workers}", "a smaller number")
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(function,),
    )

    def submit(argument: Any) -> Future:
        # A process is started where one is lacking. It inherits what is blocked, so that Ctrl-C
        # or a time limit does not end it in the middle of its imports, before it ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_PARENT)
        try:
            return pool.submit(_call_in_worker, argument)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield submit
    except BrokenProcessPool:
        raise UserError(
            f"{flag} {workers}: a worker process died, perhaps for lack of memory; "
            "try fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# The function of a worker process.
_worker_function: Callable[[Any], Any] | None = None


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Prepare a process to call `function` and to end with its parent, not earlier."""
    global _worker_function
    _worker_function = function
    # The parent handles them, and may still need results.
    for number in _OF_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_PARENT)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(30, os._exit, (0,)).start())
    # A killed parent cannot end its processes.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call_in_worker(argument: Any) -> Any:
    assert _worker_function is not None
    return _worker_function(argument)
