"""One writer in a run's folder: the second is refused, and what killed ones left is removed."""

import os
import subprocess
import sys

import pytest

from cnn_jax.errors import UserError
from cnn_jax.runs.claim import claimed

HOLD = """
import sys
from cnn_jax.runs.claim import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_writer_and_a_killed_one_holds_nobody_off(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"^{folder}: another process is writing"), claimed(folder):
        pass
    with claimed(tmp_path / "other"):
        pass
    holder.kill()
    holder.communicate()
    with claimed(folder):
        assert list(folder.iterdir()) == []
        (folder / "config.json").write_text("{}")
    with claimed(folder):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_nothing_is_written_into_is_removed_with_its_new_parents(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "runs" / "first"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with claimed(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written"), claimed(tmp_path / "file"):
        pass


def test_parts_of_files_of_ended_processes_are_removed_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive, own = process.pid, os.getppid(), os.getpid()
    (tmp_path / "features" / "40").mkdir(parents=True)
    gone = [
        f".report.html.{dead}",
        f".result.json.{own}",  # of an earlier process of this number: this one writes nothing yet
        f".metrics.jsonl.{10**30}",
        f"features/40/.0000001.safetensors.{dead}",
    ]
    stay = [f".report.html.{alive}", "report.html", f".backup.{dead}", f"notes.txt.{dead}", ".a.b"]
    for name in [*gone, *stay]:
        (tmp_path / name).write_text("")
    with claimed(tmp_path):
        pass
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(stay)
