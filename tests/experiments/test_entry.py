"""The end of a command: its status, and one line for its user."""

import os
import subprocess
import sys

import pytest

from cnn_jax.errors import DivergenceError, UserError, check
from cnn_jax.tasks.detection.evaluation import DetectionRule
from experiments import options as flags


def test_the_library_s_parameters_are_shown_as_flags(capsys):
    with pytest.raises(UserError, match=r"^min_score 2.0: must be in \[0, 1\]$") as caught:
        DetectionRule(min_score=2.0)

    def main():
        raise caught.value

    with pytest.raises(SystemExit) as end:
        flags.entry(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: --min-score 2.0: must be in [0, 1]\n"
    with pytest.raises(UserError, match=r"^pair 1 2: must be rising$"):
        check(False, "pair", (1, 2), "rising")


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("a\nb"), 2), (DivergenceError("not finite"), 3)]
)
def test_errors_end_with_their_status_and_one_line(error, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        flags.entry(main)
    assert end.value.code == status
    assert capsys.readouterr().err.count("\n") == 1


def ended(error):
    """The status that a command ends with which an error stops."""

    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        flags.entry(main)
    return end.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a\0b \udcff \x1b[31m"), r"a\x00b \udcff \x1b[31m"),
        (OSError(36, "File name too long", "xxx"), "xxx: File name too long"),
        (OSError(24, "Too many open files", "xxx"), "xxx: Too many open files"),
        (OSError(30, "Read-only file system", "xxx"), "xxx: Read-only file system"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError("Unable to allocate 3 TiB"), "out of memory (Unable to allocate 3 TiB); a "),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"), "out of memory (RESOURCE_EXHAU"),
    ],
)
def test_what_the_system_refuses_ends_in_one_line(error, line, capsys):
    assert ended(error) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {line}") and text.count("\n") == 1


def test_a_bug_stays_one():
    for error in (RuntimeError("x"), AssertionError(), OSError("x"), ValueError("x")):
        with pytest.raises(type(error)):
            ended(error)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_is_written_to(encoding, tmp_path):
    code = (
        "from experiments import options; options.entry(lambda: print('mAP \u2013 \u4e2d \u0301'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=True,
    )
    assert done.stdout.startswith(b"mAP ") and not done.stderr


@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_a_device_that_is_not_there_ends_in_one_line(platform, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.classify", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": platform},
    )
    *_, last = done.stderr.splitlines()
    assert done.returncode == 2 and last.startswith(f"error: JAX_PLATFORMS={platform}: no such ")
    assert "Traceback" not in done.stderr
