"""Whole commands in a process forked from a worker, which has imported everything already."""

import atexit
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import __main__ as console

STEPS = "--steps 2 --batch-size 8 --warmup 0 --report-every 1 --eval-every 2 --image-size 32 "
STEPS += "--eval-batch-size 100"
REGIONS = "--max-proposals 20 --regions 8 --pool-size 2 --units 8 --train-examples 20"
TINY = {
    "classify": f"classify {STEPS} --model resnet20 --width 0.25",
    "annotate": f"annotate {STEPS} --model resnet20 --width 0.25",
    "segment": f"segment {STEPS} --model unet_same --width 0.0625 --image-size 48",
    "translate": "translate --steps 2 --batch-size 8 --eval-batch-size 100 --warmup 0 "
    "--eval-every 2 --hidden-size 8 --embedding-size 8",
    "yolo": f"detect --system yolo {STEPS} --width 0.125 --grid 2 --max-detections 5",
    "fast_rcnn": f"detect --system fast_rcnn {STEPS} --width 0.125 --max-detections 5 {REGIONS}",
    "rcnn": f"detect --system rcnn {STEPS} --width 0.125 --crop-size 16 --max-proposals 10 "
    "--train-examples 20 --fit-images 10 --max-detections 5",
}
"""The smallest run of each verb and detector that trains, evaluates, saves and reports."""

Tell = Callable[[str], None]

MOST_MEMORY = 4 * 2**30
"""What a command may take. Where control groups can be made, it sees a machine of this memory."""

_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Ended:
    """The end of a command: status (None if it was killed for a limit), output and peak."""

    status: int | None
    output: str
    seconds: float
    peak: int

    @property
    def fault(self) -> str | None:
        """The fault of the end; None if it ended well, or with one line and its status."""
        last = self.output.strip().splitlines()[-1:] or [""]
        if self.peak > MOST_MEMORY:
            return f"took {self.peak / 2**30:.1f} GiB"
        if self.status is None:
            return f"hangs: not done after {self.seconds:.0f} s; {last[0]}"
        if "Traceback (most recent call last)" in self.output:
            return f"traceback: {last[0][:300]}"
        if self.status not in (0, 2, 3, 75):  # 75: a limit of time was over
            return f"status {self.status}: {last[0][:300]}"
        errors = re.findall(r"^error: .*", self.output, re.MULTILINE)
        if self.status in (2, 3) and len(errors) != 1:
            return f"status {self.status} with {len(errors)} lines of error: {last[0][:300]}"
        return None


def shared() -> Path:
    """The folder that the processes of a campaign share: compiled programs and finished runs."""
    folder = os.environ.get("FAULTS_FOLDER")
    if folder is None:
        folder = os.environ["FAULTS_FOLDER"] = tempfile.mkdtemp(prefix="faults-shared-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def finished(target: str) -> Path:
    """The folder of a finished run of `TINY`, made when it is first asked for."""
    run = shared() / target
    if not run.exists():
        with tempfile.TemporaryDirectory(dir=shared()) as folder:
            ended = forked([*TINY[target].split(), "--out", "run"], Path(folder), 300.0)
            assert ended.status == 0, ended.output[-2000:]
            # Another worker may have been faster.
            with contextlib.suppress(OSError):
                (Path(folder) / "run").rename(run)
    return run


def forked(argv: Sequence[str], folder: Path, seconds: float) -> Ended:
    """Run `cnn-jax ARGV` in a fork of this process, within `folder`."""

    def run() -> None:
        sys.argv = ["cnn-jax", *argv]
        console.console()

    return apart(run, folder, seconds)


def apart(function: Callable[[], None], folder: Path, seconds: float) -> Ended:
    """Call a function in a fork of this process, within `folder`.

    A fork has none of its parent's threads, and waits for ever for what they held. So whatever
    starts threads (a step, TensorStore's reading of a checkpoint) is done in a fork.
    """
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    begin, peak = time.monotonic(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's, about forks; no device has been touched yet
        child = os.fork()
    if child == 0:
        _become(function, folder, output)
    status: int | None = None
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        peak = max(peak, _peak(child))
        if time.monotonic() - begin > seconds or peak > MOST_MEMORY:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.05)
    for group in [
        *_GROUPS.glob(f"memory/cnn_jax_faults_{child}"),
        _GROUPS / f"cnn_jax_faults_{child}",
    ]:
        with contextlib.suppress(OSError):
            group.rmdir()
    text = output.read_bytes().decode("utf-8", "replace") if output.exists() else ""
    return Ended(status, text, time.monotonic() - begin, peak)


def _join_memory_group() -> None:
    """Limit the memory of this process and its children, where the system lets us."""
    first = _GROUPS / "memory"  # of control groups, version 1
    group = (first if first.is_dir() else _GROUPS) / f"cnn_jax_faults_{os.getpid()}"
    limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    with contextlib.suppress(OSError):
        group.mkdir()
        (group / limit).write_text(str(MOST_MEMORY))
        (group / "cgroup.procs").write_text(str(os.getpid()))


def _become(function: Callable[[], None], folder: Path, output: Path) -> None:
    """Call the function: its output goes to a file, its exit status is the process's."""
    status = 1
    try:
        _join_memory_group()
        os.chdir(folder)
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(shared() / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        function()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _peak(process: int) -> int:
    """The most memory that a process has had, in bytes."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return 1024 * int(found[1]) if found else 0
