"""Ctrl-C at any moment of a command: one line, exit status 130, within seconds.

1. While a command imports its modules nothing is open yet, and the process ends at once.
2. After that KeyboardInterrupt is raised, so that what is half written is taken back.
3. Python drops an exception that is raised in a callback, a long compilation looks for none, and
   threads may wait for each other. So a thread ends the process where it still runs after a while.

A training takes the first Ctrl-C as a request to stop (see `cnn_jax.training.loop`).
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import Any, NoReturn

STATUS = 130  # what a shell reports of a command that SIGINT ended
SECONDS = 4.0  # from the signal to the end of the process at the latest

_is_command = False  # until `end_at_once`


def is_command() -> bool:
    """Tell whether this process is one of this project's commands, whose modules are imported."""
    # Python sets "-m" until it has found the module that it is told to run.
    return PurePath(sys.argv[0] if sys.argv else "").name in ("-m", "cnn-jax")


def end_at_once() -> None:
    """Let Ctrl-C end the process at once, until `raised` is entered and after it is left."""
    global _is_command
    _is_command = True
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
        sys.unraisablehook = _silent_hook


@contextmanager
def raised() -> Iterator[None]:
    """Raise KeyboardInterrupt inside the block, and end the process where that does not suffice."""
    previous = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or previous not in (_end, signal.default_int_handler):
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    left = threading.Event()
    # Every signal's number is written to the pipe as it comes, whatever the main thread does.
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    asked = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    arguments = (reader, left, lambda: signal.getsignal(signal.SIGINT) is interrupt)
    threading.Thread(target=_watch, args=arguments, daemon=True).start()
    try:
        signal.signal(signal.SIGINT, interrupt)
        yield
    except BaseException:
        if asked:  # some libraries make another exception of it
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.set_wakeup_fd(earlier)
        left.set()
        os.close(writer)


def end_within(seconds: float, status: int) -> None:
    """Let a command end with a status even where threads that nobody waits for do not."""
    if _is_command:
        timer = threading.Timer(seconds, os._exit, (status,))
        timer.daemon = True
        timer.start()


def end() -> NoReturn:
    """End the process without waiting for its threads; what is being written is taken back."""
    files = sys.modules.get("cnn_jax.files")
    if files is not None:
        files.take_back()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # a bar on the terminal hides it
    os.write(2, f"{show_cursor}interrupted\n".encode())
    os._exit(STATUS)


def _end(number: int, frame: Any) -> None:
    end()


def _watch(reader: int, left: threading.Event, ends: Callable[[], bool]) -> None:
    """End the process some seconds after a SIGINT that `ends` it, or after a training's second."""
    handled = 0
    with open(reader, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] != signal.SIGINT:
                continue
            if not ends():
                handled += 1
                if handled < 2:
                    continue
            if not left.wait(SECONDS):
                end()


def _silent_hook(unraisable: Any) -> None:
    """Report what cannot be raised, but for an interrupt: the process ends anyway."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
