"""Runs that end early: a process of two that dies, SIGUSR1, a limit of time."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cnn_jax.errors import UnfinishedError
from cnn_jax.training import checkpoints
from experiments import watcher
from tests import commands
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.faults import kills

SMALL = [
    *("--width", "0.25", "--image-size", "16", "--batch-size", "16", "--learning-rate", "0.02"),
    *("--crop", "pad", "--flip", "--mixup", "0.2", "--report-every", "10"),
    *("--whiten", "10"),
]
STATUS = 75
SECONDS = 60.0  # from the death of a process to the end of the others


def classify(out, *flags, processes=2):
    """Start a training in two processes of one device each, or in one."""
    joined = ["--distributed"] if processes > 1 else []
    command = ["-m", "experiments.classify", "--out", str(out), *flags, *joined]
    return commands.start(command, processes, devices=1)


def wait_for(path, processes):
    """Wait until a file or folder is there."""
    deadline = time.monotonic() + 400
    while not path.exists():
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


STEPS = ["--steps", "200", "--eval-every", "200", "--checkpoint-every", "25", "--keep", "2"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The flags of runs with few images, which are read and evaluated in no time."""
    root = tmp_path_factory.mktemp("few") / "data"
    kills.write_data(root)
    data = ["--data", f"folder:{root / 'classes'}", "--eval-batch-size", "8"]
    return [*SMALL, "--model", "airbench94", *data]


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory):
    """The folder of a run in two processes that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    for process in classify(out, *few, *STEPS):
        commands.finish(process)
    return out


def resumed(out, whole):
    """Let the run in two processes end, and compare it with the one that nothing stopped."""
    for process in classify(out, "--resume"):
        commands.finish(process)
    assert_same_bits(leaves(out, step=200), leaves(whole, step=200))
    assert rows(out) == rows(whole)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_process_that_dies_ends_the_other_which_names_it(tmp_path, few, whole, victim):
    out = tmp_path / "run"
    both = classify(out, *few, *STEPS)
    wait_for(out / "checkpoints" / "25", both)
    both[victim].send_signal(signal.SIGKILL)
    died = time.monotonic()
    _, errors = both[1 - victim].communicate(timeout=300)
    assert time.monotonic() - died < SECONDS
    assert both[1 - victim].returncode not in (0, STATUS)
    last = errors.splitlines()[-1]
    assert re.match(rf"error: process {victim} \(on .+\) of 2 died; --resume continues", last)
    both[victim].communicate()
    if victim == 1:
        resumed(out, whole)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step(tmp_path, few, whole):
    out = tmp_path / "run"
    both = classify(out, *few, *STEPS)
    wait_for(out / "checkpoints" / "25", both)
    both[1].send_signal(signal.SIGUSR1)
    _, errors = commands.finish(both[0], STATUS)
    commands.finish(both[1], STATUS)
    step = checkpoints.latest_step(out / "checkpoints")
    assert 25 <= step < 200
    assert errors.splitlines()[-1] == f"stopped at step {step} of 200; --resume continues"
    resumed(out, whole)


# Evaluations of five hundred batches and more: a signal comes while one is under way.
LONG = ["--steps", "4", "--eval-every", "2", "--eval-batch-size", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_in_an_evaluation_ends_it_and_it_is_made_up_for(tmp_path, processes):
    out = tmp_path / "run"
    started = classify(out, *SMALL, *LONG, processes=processes)
    # Several save before every evaluation. One prints nothing then; its first row is written by 2.
    wait_for(out / ("checkpoints/2" if processes > 1 else "metrics.jsonl"), started)
    started[-1].send_signal(signal.SIGUSR1)
    for process in started:
        commands.finish(process, STATUS)
    # One goes on with step 3 while the metrics of step 2 are written.
    assert checkpoints.latest_step(out / "checkpoints") in (2, 3, 4)
    before = (out / "metrics.jsonl").read_text() if (out / "metrics.jsonl").exists() else ""
    for process in classify(out, "--resume", processes=processes):
        commands.finish(process)
    evaluated = [row["step"] for row in rows(out) if row["split"] == "eval"]
    assert evaluated == [2, 4]
    assert (out / "metrics.jsonl").read_text().startswith(before)
    assert json.loads((out / "result.json").read_text())["step"] == 4


@pytest.mark.slow
def test_a_process_that_fails_ends_the_other(tmp_path, few):
    """A mistake that only one process meets has its own line and status there."""
    out = tmp_path / "run"
    both = classify(out, *few, *STEPS)
    wait_for(out / "checkpoints" / "25", both)
    # Whatever the first process writes next fails.
    (out / "metrics.jsonl").unlink()
    (out / "metrics.jsonl").mkdir()
    failed = time.monotonic()
    _, errors = both[0].communicate(timeout=300)
    assert both[0].returncode == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in errors
    _, errors = both[1].communicate(timeout=300)
    assert time.monotonic() - failed < SECONDS
    assert both[1].returncode not in (0, STATUS)
    assert re.match(r"error: process 0 \(on .+\) of 2 died", errors.splitlines()[-1])


@pytest.mark.slow
def test_a_reader_that_leaves_ends_a_training_which_is_saved(tmp_path, few):
    """As in `classify 2>&1 | head`: whatever thread writes next, it neither hangs nor is lost."""
    out = tmp_path / "run"
    endless = ["--steps", "1000000", "--eval-every", "10"]
    (process,) = classify(out, *few, *endless, processes=1)
    while "  train  " not in process.stderr.readline():  # a row of the training
        pass
    process.stderr.close()
    process.stdout.close()
    assert process.wait(120) == 141
    step = checkpoints.latest_step(out / "checkpoints")
    assert step >= 10
    (process,) = classify(out, "--resume", processes=1)
    wait_for(out / "checkpoints" / str(step - step % 10 + 10), [process])
    process.send_signal(signal.SIGUSR1)
    commands.finish(process, STATUS)
    assert checkpoints.latest_step(out / "checkpoints") > step


@pytest.mark.slow
def test_a_limit_of_time_ends_a_command_with_its_own_status(tmp_path):
    out = tmp_path / "run"
    endless = ["--steps", "1000000", "--eval-every", "1000000", "--max-minutes", "0.3"]
    (process,) = classify(out, *SMALL, *endless, processes=1)
    _, errors = commands.finish(process, STATUS)
    assert errors.splitlines()[-1].endswith("; --resume continues")
    assert json.loads((out / "config.json").read_text())["max_minutes"] == 0.3
    again = ["--eval-only", "--eval-batch-size", "1", "--max-minutes", "0.05"]
    (process,) = classify(out, *again, processes=1)
    _, errors = commands.finish(process, STATUS)
    assert errors.splitlines()[-1].endswith("; the same command starts it again")


@pytest.mark.slow
def test_a_staged_run_goes_on_with_the_stage_that_was_stopped(tmp_path):
    """R-CNN, whose stages after the training are ended where they are."""
    program = """
import os, signal, sys
sys.argv[0] = "-m"
import experiments.detection.rcnn as rcnn
from experiments import detect, options
fit = rcnn.fit_svms
def stopped(*arguments):
    os.kill(os.getpid(), signal.SIGUSR1)
    return fit(*arguments)
if "--resume" not in sys.argv:
    rcnn.fit_svms = stopped
options.entry(detect.main)
"""
    kills.write_data(tmp_path / "data")
    small = [flag.format(data=tmp_path / "data") for flag in kills.REGIONS]
    small += [
        *("--system", "rcnn", "--crop-size", "12", "--context", "1", "--proposals", "grid"),
        *("--max-proposals", "10", "--train-examples", "8", "--fit-images", "8", "--steps", "2"),
    ]
    out = tmp_path / "run"
    (process,) = commands.start(["-c", program, *small, "--out", str(out)], 1, 1)
    _, errors = commands.finish(process, STATUS)
    assert errors.splitlines()[-1] == "stopped; --resume continues"
    assert not list(out.glob("features/*/svms.safetensors"))
    (process,) = commands.start(["-c", program, "--resume", "--out", str(out)], 1, 1)
    _, errors = commands.finish(process)
    assert "stage 2" in errors or "stage 3" in errors
    assert json.loads((out / "result.json").read_text())["split"] == "eval"


# What JAX 0.10 wrote when process 1, and when process 0 was killed, shortened.
UNHEALTHY = b"""E1128 09:36:31.147810 11974 coordination_service_agent.cc:289] Polled an error
F1128 09:36:31.147978 11974 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE: The following tasks are unhealthy (stopped \
sending heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error.

RPC: /xla.coordination.CoordinationService/PollForError
*** Check failure stack trace: ***
    @     0x7fd571840634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
UNREACHABLE = b"""F1128 09:36:48 12811 client.h:80] Terminating process because the JAX \
distributed service detected fatal errors. absl::Status: UNAVAILABLE: Failed to send RPC to \
coordination service. Either the leader task was preempted/died/restarted unexpectedly
*** Check failure stack trace: ***
"""
HOSTS = ("node017", "node018", "node019")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (UNHEALTHY, "process 1 (on node018) of 3 died"),
        (UNREACHABLE, "process 0 (on node017) of 3 died"),
        (
            UNHEALTHY.replace(b"\n1\n", b"\n2\n0\n"),
            "process 0 (on node017) and 2 (on node019) of 3",
        ),
        (
            # As JAX named them until 0.8.
            UNHEALTHY.replace(b"\n1\n", b"\n/job:jax_worker/replica:0/task:2\n"),
            "process 2 (on node019) of 3 died",
        ),
        (UNREACHABLE.replace(b"Failed to send RPC", b"Something new"), "another process of 3 died"),
    ],
)
def test_the_last_line_names_the_process(text, named):
    line = watcher.last_line(b"epoch 1\n" + text, HOSTS)
    assert line.startswith(f"error: {named}")
    assert "--resume continues" in line


def test_a_process_that_ends_by_itself_has_no_such_line():
    assert watcher.last_line(b"error: photo.jpg: truncated\n", HOSTS) is None


def test_standard_error_passes_through_unchanged_and_the_line_comes_last():
    program = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from experiments.watcher import watched
with watched({HOSTS!r}, 0):
    print("ready", file=sys.stderr)
    os.write(2, {UNHEALTHY!r})
    os.abort()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGABRT
    lines = ended.stderr.partition(b"ready\n")[2]
    assert lines.startswith(UNHEALTHY)
    assert lines.removeprefix(UNHEALTHY).startswith(b"error: process 1 (on node018) of 3 died")


def test_unfinished_runs_have_their_status_in_every_command(capsys):
    from experiments import options

    def unfinished():
        raise UnfinishedError("stopped; --resume continues")

    with pytest.raises(SystemExit) as ended:
        options.entry(unfinished)
    assert ended.value.code == STATUS
    assert capsys.readouterr().err == "stopped; --resume continues\n"
