"""The runs of a sweep in processes of their own: some at a time, each on its own device."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.runs.claim import is_claimed
from cnn_jax.runs.names import duration

from .. import options as flags
from .plan import PlannedRun

UNFINISHED = 75  # the status of a run that was asked to end early
_PERIOD = 0.2  # seconds between two looks at the processes
_TOGETHER = 0.9  # share of a GPU's memory for all the runs on it

# Where the sweep is killed, Linux asks its runs to save and end.
_GUARDED = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        sys.exit(75)
os.execv(command[0], command)
"""


@dataclass
class _Job:
    """A run whose process is alive, and the number of its place among those at a time."""

    run: PlannedRun
    process: subprocess.Popen
    place: int
    began: float


def command(verb: str, run: PlannedRun) -> list[str]:
    """The command line of a run: it starts the run, or resumes what a kill left of it."""
    module = f"{__package__.partition('.')[0]}.{verb}"
    resumed = ["--resume"] if run.started else []
    return [sys.executable, "-m", module, *run.arguments, f"--out={run.folder}", *resumed]


def guarded(line: Sequence[str]) -> list[str]:
    """The command line, in a process that is sent SIGTERM when this one ends."""
    return [sys.executable, "-S", "-c", _GUARDED, str(os.getpid()), *line]


def carry_out(
    verb: str,
    runs: Sequence[PlannedRun],
    places: Sequence[Mapping[str, str]],
    stop: threading.Event,
) -> dict[str, int]:
    """Carry runs out, as many at a time as there are places, and tell how each goes on.

    A run whose folder another process writes in has to wait for its end.

    Args:
        verb: the command that trains.
        runs: the runs, in order.
        places: the environment variables of each place, which show a run its device.
        stop: asks all runs to save and end; no further one is started.

    Returns:
        The exit statuses of the runs that were started, by name.
    """
    queue, asked = list(runs), False
    running: list[_Job] = []
    ended: dict[str, int] = {}
    waiting: set[str] = set()
    try:
        while running or (queue and not stop.is_set()):
            if stop.is_set() and not asked:
                asked = True
                for job in running:
                    job.process.terminate()
            for place in sorted(set(range(len(places))) - {job.place for job in running}):
                run = None if asked else next((r for r in queue if not is_claimed(r.folder)), None)
                if run is None:
                    break
                queue.remove(run)
                running.append(_start(verb, run, place, places[place]))
            for run in queue if not (running or asked) else ():
                if run.name not in waiting:
                    waiting.add(run.name)
                    _say(f"{run.name}: another process writes in its folder; waiting for its end")
            if asked:
                time.sleep(_PERIOD)
            else:
                stop.wait(_PERIOD)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                ended[job.run.name] = _ended(job, asked)
    finally:
        for job in running:
            job.process.kill()
            job.process.wait()
    return ended


def _start(verb: str, run: PlannedRun, place: int, variables: Mapping[str, str]) -> _Job:
    line = command(verb, run)
    _say(f"{run.name}: {'resumed' if run.started else 'started'}")
    with files.writing(run.log), run.log.open("ab") as log:
        process = subprocess.Popen(
            guarded(line),
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal is the sweep's alone, which passes it on as SIGTERM.
            start_new_session=True,
        )
    return _Job(run, process, place, time.monotonic())


def _ended(job: _Job, asked: bool) -> int:
    status = job.process.returncode
    if asked and status == -signal.SIGTERM:  # before it could heed the signal
        status = UNFINISHED
    files.replace(job.run.status_file, f"{status}\n")
    took = duration(time.monotonic() - job.began)
    if status == UNFINISHED:
        _say(f"{job.run.name}: stopped")
    elif status:
        flags.warn(f"{job.run.name}: {failure(job.run, status)}")
    else:
        _say(f"{job.run.name}: finished, {took}")
    return status


def failure(run: PlannedRun, status: int) -> str:
    """The reason why a run failed, in one line: its status, and the last line that it printed."""
    if status < 0:
        reason = f"killed by {signal.Signals(-status).name}"
    else:
        reason = {3: "its loss is not finite"}.get(status, f"failed with status {status}")
    return f"{reason} ({last_line(run) or 'it printed nothing'}); {run.log}"


def last_line(run: PlannedRun) -> str:
    """The last line that a run printed."""
    if not run.log.exists():
        return ""
    lines = run.log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def places(jobs: int | None) -> list[dict[str, str]]:
    """The environment variables of each of so many runs at a time.

    Args:
        jobs: the number; None for one on each accelerator of this machine, or one on its CPU. A
            single run sees all devices.

    Raises:
        UserError: there are more runs than TPU chips, which cannot be shared.
    """
    shown = _accelerators()
    count = jobs or max(len(shown), 1)
    if count == 1 or not shown:
        return [{} for _ in range(count)]
    if count > len(shown) and "TPU_VISIBLE_CHIPS" in shown[0]:
        raise UserError(f"--jobs {count}: there are {len(shown)} TPU chips, one for each run")
    shared = Counter(place % len(shown) for place in range(count))
    return [
        {**shown[place % len(shown)], **_share_of_memory(shared[place % len(shown)])}
        for place in range(count)
    ]


def _share_of_memory(runs: int) -> dict[str, str]:
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    return {} if runs == 1 or name in os.environ else {name: f"{_TOGETHER / runs:.2f}"}


def _accelerators() -> list[dict[str, str]]:
    """For each accelerator of this machine, the variables that show a process that one alone."""
    if not entry_points(group="jax_plugins") and find_spec("libtpu") is None:
        return []
    # Asked in another process: this one would keep the devices' memory for itself.
    asked = "import jax; print(jax.default_backend(), jax.local_device_count())"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    if told.returncode:
        return []  # each run tells why
    kind, count = told.stdout.split()[-2:]
    if kind == "gpu":
        known = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = known.split(",") if known else list(map(str, range(int(count))))
        return [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    if kind == "tpu":
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [{**alone, "TPU_VISIBLE_CHIPS": str(number)} for number in range(int(count))]
    return []


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
