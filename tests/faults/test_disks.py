"""Disks that fill, folders that become read-only, files that go: one line, nothing lost, resumed.

The runs are made in this process. What needs a file system of its own is skipped where none can be
mounted.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from cnn_jax.reports import classification as page
from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints
from experiments import classify
from experiments import options as flags
from tests.faults import kills

pytestmark = pytest.mark.usefixtures("shared_programs")

DISK = 40  # megabytes
FLAGS = [
    *("--data", "folder:{data}/classes", *kills.SMALL, *kills.IMAGES, *kills.EVERY),
    *("--cache", "none"),
]


def slowly(*values):
    """Parameters of a test that only the whole suite tries."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]


def run(data, out, *extra):
    """The command in this process, as its entry point runs it."""
    arguments = [flag.format(data=data) for flag in FLAGS]
    if (out / "config.json").exists():
        arguments = ["--resume"]
    flags.entry(lambda: classify.main(["--out", str(out), *arguments, *extra]))


def refused(data, out, capsys):
    """Run the command, which has to end with one line and status 2; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(data, out)
    errors = capsys.readouterr().err
    assert end.value.code == 2
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert errors.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    kills.write_data(root)
    return root


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    run(data, out)
    return out


@contextmanager
def mounted(path, *arguments):
    """Mount a file system for the time of a test."""
    command = ["mount", *map(str, arguments), str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user mounts no file systems here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs"):
        yield place


def fill(disk, free):
    """Leave so many bytes of a disk free, in a file that is returned."""
    ballast = disk / "ballast"
    left = os.statvfs(disk)
    size = left.f_bavail * left.f_frsize - free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return ballast


@pytest.mark.parametrize("kilobytes", [4, 250, *slowly(0, 40, 120, 500, 800)])
def test_a_disk_that_is_full_from_the_start_or_fills_by_itself(
    kilobytes, data, whole, small_disk, capsys
):
    """A first file, a checkpoint, a picture or a page does not fit."""
    out = small_disk / "run"
    ballast = fill(small_disk, 1024 * kilobytes)
    line = refused(data, out, capsys)
    assert re.search(r"the disk is full|No space left on device", line)
    assert str(small_disk) in line
    ballast.unlink()
    run(data, out)
    assert kills.difference(out, whole) is None


def full_row(disk, patch):
    """The disk is full when a row of training is due."""
    report = RunLog.report

    def filled(log, step, split, metrics):
        if (step, split) == (10, "train"):
            fill(disk, 0)
        report(log, step, split, metrics)

    patch.setattr(RunLog, "report", filled)


def full_page(disk, patch):
    """The disk is full when the page is due."""
    write = page.write_report

    def filled(directory, **arguments):
        fill(disk, 4096)
        return write(directory, **arguments)

    patch.setattr(page, "write_report", filled)


def full_checkpoint(disk, patch):
    """The disk is full when a checkpoint is due."""
    write = checkpoints.write

    def filled(directory, step, state, **arguments):
        if step == 6:
            fill(disk, 16 * 1024)
        write(directory, step, state, **arguments)

    patch.setattr(checkpoints, "write", filled)


# TensorBoard's writer does not close its file where the last bytes do not fit.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fills", [full_row, full_page, full_checkpoint])
def test_a_disk_that_another_fills(fills, data, whole, small_disk, capsys, monkeypatch):
    out = small_disk / "run"
    with monkeypatch.context() as patch:
        fills(small_disk, patch)
        line = refused(data, out, capsys)
    assert re.search(r"the disk is full|No space left on device", line)
    (small_disk / "ballast").unlink()
    # The last good checkpoint is whole.
    assert fills is full_page or checkpoints.leaves(out / "checkpoints")
    run(data, out)
    assert kills.difference(out, whole) is None


@pytest.mark.parametrize("split", ["eval", *slowly("train")])
def test_a_folder_that_becomes_read_only(split, data, whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    report = RunLog.report
    made = []

    def lock(log, step, kind, metrics):
        if kind == split and step >= 8 and not made:
            made.append(mounted(out, "--bind", out))
            made[0].__enter__()
            # Busy while a checkpoint is written in the background.
            for _ in range(100):
                if not subprocess.run(["mount", "-o", "remount,ro,bind", str(out)]).returncode:
                    break
                time.sleep(0.1)
        report(log, step, kind, metrics)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(RunLog, "report", lock)
            line = refused(data, out, capsys)
    finally:
        if made:
            made[0].__exit__(None, None, None)
    assert "Read-only file system" in line
    assert str(out) in line
    run(data, out)
    assert kills.difference(out, whole) is None


@pytest.mark.parametrize(
    ("content", "split"),
    [
        (None, "val"),
        (b"\xff\xd8\xff no picture", "train"),
        *slowly((None, "train"), (b"", "val"), ("folder", "train"), ("folder", "val")),
    ],
)
def test_a_data_file_that_goes_or_is_replaced(
    content, split, data, whole, tmp_path, capsys, monkeypatch
):
    out, files = tmp_path / "run", tmp_path / "data"
    shutil.copytree(data, files)
    image = sorted((files / "classes" / split / "left").iterdir())[1]
    report = RunLog.report

    def replace(log, step, kind, metrics):
        if (step, kind) == (5, "train"):
            image.unlink()
            if content == "folder":
                image.mkdir()
            elif content is not None:
                image.write_bytes(content)
        report(log, step, kind, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "report", replace)
        line = refused(files, out, capsys)
    assert str(image) in line
    assert max(checkpoints.steps(out / "checkpoints")) >= 5
    if content == "folder":
        image.rmdir()
    shutil.copy(data / image.relative_to(files), image)
    run(files, out)
    monkeypatch.setattr(kills, "_content", lambda path: None)  # the place of the data is another
    assert kills.difference(out, whole) is None


LIMITED = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard))
sys.argv[1:] = sys.argv[2:]
sys.argv[0] = "cnn-jax"
from experiments import classify, options
options.entry(classify.main)
"""


def test_a_limit_of_open_files(data, whole, tmp_path):
    """A checkpoint opens most files; a limit so low ends the run with one line."""
    out = tmp_path / "run"
    arguments = ["--out", str(out), *(flag.format(data=data) for flag in FLAGS)]
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, "12", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert re.fullmatch(r"error: .*Too many open files.*", ended.stderr.splitlines()[-1])
    run(data, out)
    assert kills.difference(out, whole) is None
