"""Ctrl-C ends a command with one line and status 130, wherever it is caught."""

import signal
import subprocess
import sys
import time

import pytest

from tests.commands import heeding_interrupts

# What the command does when the signal comes.
MOMENTS = {
    "imports": "import cnn_jax.errors; ready(); time.sleep(60)",
    "parsing": "entry(lambda: (ready(), time.sleep(60)))",
    "writes": """
from cnn_jax import files
def write():
    class Slow(bytes): pass
    os.fsync = lambda descriptor: (ready(), time.sleep(60))
    files.replace(pathlib.Path(sys.argv[1], "report.html"), "page")
entry(write)""",
    "writes and looks for no signal": """
import hashlib
from cnn_jax import files
def write():
    def slow(descriptor):
        ready()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    os.fsync = slow
    files.replace(pathlib.Path(sys.argv[1], "report.html"), "page")
entry(write)""",
    "callback": """
class Deaf:
    def __del__(self):
        ready()
        time.sleep(60)  # what is raised here is lost
def main():
    Deaf()
    time.sleep(60)
entry(main)""",
    "waits": """
def main():
    try:
        ready()
        time.sleep(60)
    finally:
        time.sleep(60)
entry(main)""",
    "compiles": """
import hashlib
def main():
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as a compilation, looks for no signal
entry(main)""",
    "translated": """
def main():
    try:
        ready()
        time.sleep(60)
    except KeyboardInterrupt:
        raise ValueError("from a library")
entry(main)""",
    "twice": """
def main():
    signal.signal(signal.SIGINT, lambda *_: None)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    ready()
    time.sleep(60)
entry(main)""",
    "afterwards": "entry(lambda: None); ready(); time.sleep(60)",
}
START = """
import os, pathlib, signal, sys, time
sys.argv[0] = "cnn-jax"
import experiments.interrupts
experiments.interrupts.SECONDS = 1.0
def ready():
    print("ready", flush=True)
def entry(main):
    from experiments.options.messages import entry
    entry(main)
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_is_one_line_and_leaves_nothing_half_written(tmp_path, moment):
    process = subprocess.Popen(
        heeding_interrupts(sys.executable, "-c", START + MOMENTS[moment], tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert errors == "interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_only_commands_change_what_an_interrupt_does():
    code = "import signal, experiments; print(signal.getsignal(signal.SIGINT).__name__)"
    found = subprocess.run(
        heeding_interrupts(sys.executable, "-c", code),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "default_int_handler\n"
