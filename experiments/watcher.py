"""The last line of a run of several processes of which one died: it says which.

JAX hears every process's heartbeat, and where one stops it ends the others at once, from a thread
that runs no Python. So a process beside each of them passes its standard error on, reads what JAX
says there, and has the last word. It is this file, run as a script that needs nothing else.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_FATAL = b"JAX distributed service detected fatal errors"
_DEAD = re.compile(rb"tasks are unhealthy[^\n]*\n((?:[^\n]*\d\n)+)")
_FIRST_DEAD = b"Failed to send RPC to coordination service"
# The beginnings of XLA's errors that a lost connection has; they come as several types.
_LOST = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")
_LONGEST = 2**16  # bytes of JAX's message


@contextmanager
def watched(hosts: Sequence[str], patience: float) -> Iterator[None]:
    """Let the process's last line say which other process died, if one does in the block.

    Args:
        hosts: the machine of every process.
        patience: seconds after which JAX has heard of a death.
    """
    reader, writer = os.pipe()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    # Signals to a whole job are not for the one that has the last word.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        command = [sys.executable, "-S", __file__, *hosts]
        subprocess.Popen(command, stdin=reader, start_new_session=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        if _LOST.match(reason):
            # Most often another process's death, which JAX will have heard of soon.
            print(f"the processes lost each other: {reason}", file=sys.stderr)
            time.sleep(patience)
        raise


def last_line(text: bytes, hosts: Sequence[str]) -> str | None:
    """The line after JAX's message about dead processes; None where there is no such message."""
    if _FATAL not in text:
        return None
    dead: list[int] = []
    if found := _DEAD.search(text):
        dead = [int(re.findall(rb"\d+", line)[-1]) for line in found[1].splitlines()]
    elif _FIRST_DEAD in text:
        dead = [0]
    named = [f"{index} (on {hosts[index]})" for index in sorted(set(dead)) if index < len(hosts)]
    who = f"process {' and '.join(named)}" if named else "another process"
    return f"error: {who} of {len(hosts)} died; --resume continues from the last checkpoint"


def _pass_on(hosts: Sequence[str]) -> None:
    """Copy standard input to standard error until its last writer has ended."""
    kept = b""
    while chunk := os.read(0, 2**16):
        os.write(2, chunk)
        kept = (kept + chunk)[-_LONGEST:]
    if line := last_line(kept, hosts):
        os.write(2, f"{line}\n".encode())


if __name__ == "__main__":
    _pass_on(sys.argv[1:])
