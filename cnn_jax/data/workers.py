"""Worker processes that end with their parent: a function sent once, then called many times.

They are a standard pool and not Grain's own, whose workers outlive a killed parent and whose shared
memory complains when the interpreter ends.
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

from cnn_jax.errors import UserError


@contextmanager
def worker_processes(
    function: Callable[[Any], Any], workers: int, flag: str = "--workers"
) -> Iterator[Callable[[Any], Future]]:
    """Starts processes that call `function`; what is not begun when the block ends is cancelled.

    Args:
        function: can be pickled.
        workers: number of processes.
        flag: what the user calls that number.

    Yields:
        What submits a call with one argument.

    Raises:
        UserError: a process died.
    """
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(function,),
    )
    try:
        yield lambda argument: pool.submit(_call_in_worker, argument)
    except BrokenProcessPool:
        raise UserError(
            f"{flag} {workers}: a worker process died, of too little memory perhaps; "
            "try fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# What a worker process was started to do.
_worker_function: Callable[[Any], Any] | None = None


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Makes a process one that calls `function`, and that ends with its parent and not before."""
    global _worker_function
    _worker_function = function
    # Signals go to whole process groups: the parent answers them, and may need results until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(30, os._exit, (0,)).start())
    # A parent that is killed cannot end its processes.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call_in_worker(argument: Any) -> Any:
    assert _worker_function is not None
    return _worker_function(argument)
