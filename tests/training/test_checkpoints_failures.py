"""Checkpoints survive kills, detect damage, and report storage that refuses to write."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cnn_jax
from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from tests.checks import assert_same_bits


def example_state(seed=0):
    """Arrays of several sizes, so that some share a file's parts and some have their own."""
    rng = np.random.default_rng(seed)
    return {
        "step": np.int32(seed),
        "params": {"kernel": rng.standard_normal((70, 5)), "bias": np.full(5, seed, np.float32)},
        "opt_state": (np.zeros(3, np.uint32), rng.standard_normal(1000)),
    }


def fail_on_notice(line):
    raise AssertionError(line)


@pytest.fixture
def start():
    """Starts Python code in processes of their own, which end with the test at the latest."""
    children = []

    def start_child(code, *arguments, prefix=()):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(Path(cnn_jax.__file__).parents[1]),
        }
        child = subprocess.Popen(
            [*prefix, sys.executable, "-c", code, *map(str, arguments)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        children.append(child)
        return child

    yield start_child
    for child in children:
        child.kill()
        child.communicate()


# Damage.


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        checkpoints.save(directory, step, example_state(step))
    return directory


# Ways to damage the checkpoint in a folder.


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def data_file(checkpoint):
    """The file from which the arrays are read."""
    return max((checkpoint / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


def rename_in_metadata(checkpoint):
    path = checkpoint / "state" / "_METADATA"
    names = list(json.loads(path.read_text())["tree_metadata"])
    (name,) = json.loads(path.read_text())["tree_metadata"][names[-1]]["key_metadata"][-1:]
    path.write_text(path.read_text().replace(name["key"], "renamed"))


def become_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "array became a pipe": lambda path: become_pipe(data_file(path)),
    "metadata became a pipe": lambda path: become_pipe(path / "state" / "_METADATA"),
    "manifest became a pipe": lambda path: become_pipe(path / "manifest" / "metadata"),
    "array flipped": lambda path: flip(data_file(path), data_file(path).stat().st_size // 2),
    "array truncated": lambda path: os.truncate(data_file(path), 100),
    "array emptied": lambda path: os.truncate(data_file(path), 0),
    "array removed": lambda path: data_file(path).unlink(),
    "index flipped": lambda path: flip(path / "state" / "manifest.ocdbt", 40),
    "index removed": lambda path: (path / "state" / "manifest.ocdbt").unlink(),
    "index of terabytes": lambda path: os.truncate(path / "state" / "manifest.ocdbt", 2**42),
    "array of terabytes": lambda path: os.truncate(data_file(path), 2**42),
    "metadata of terabytes": lambda path: os.truncate(path / "state" / "_METADATA", 2**42),
    "metadata truncated": lambda path: os.truncate(path / "state" / "_METADATA", 50),
    "metadata renamed": rename_in_metadata,
    "state removed": lambda path: shutil.rmtree(path / "state"),
    "manifest flipped": lambda path: flip(path / "manifest" / "metadata", 20),
    "manifest truncated": lambda path: os.truncate(path / "manifest" / "metadata", 20),
    "manifest of terabytes": lambda path: os.truncate(path / "manifest" / "metadata", 2**42),
    "manifest replaced": lambda path: (path / "manifest" / "metadata").write_text("[]"),
    "manifest removed": lambda path: shutil.rmtree(path / "manifest"),
    "all metadata of terabytes": lambda path: os.truncate(path / "_CHECKPOINT_METADATA", 2**42),
    "all removed": lambda path: [shutil.rmtree(path), path.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, two_checkpoints, damage):
    directory = shutil.copytree(two_checkpoints, tmp_path / "copy")
    DAMAGE[damage](directory / "2")
    notices = []
    restored, step = checkpoints.restore(directory, example_state(), notify=notices.append)
    assert step == 1
    assert_same_bits(restored, example_state(1))
    assert len(notices) == 1
    assert notices[0].startswith(f"{directory}: step 2 is damaged (")
    assert notices[0].endswith("; reading step 1")
    assert "\n" not in notices[0]

    with pytest.raises(UserError, match="no whole checkpoint: step 2 is damaged"):
        checkpoints.restore(directory, example_state(), 2)


def test_no_damaged_byte_changes_what_is_restored(tmp_path, two_checkpoints):
    """Whatever byte of whatever file is flipped: the saved bits, or the checkpoint before."""
    rng = np.random.default_rng(0)
    states = {step: example_state(step) for step in (1, 2)}
    directory = shutil.copytree(two_checkpoints, tmp_path / "copy")
    for path in sorted((directory / "2").rglob("*")):
        if path.is_dir():
            continue
        content = path.read_bytes()
        for position in rng.integers(len(content), size=4):
            flip(path, position)
            restored, step = checkpoints.restore(directory, states[1], notify=lambda line: None)
            assert_same_bits(restored, states[step])
            path.write_bytes(content)


def test_a_changed_array_is_named(tmp_path):
    """Arrays that can be read but are not those of the manifest, as after a wrong copy."""
    for step, bias in ((1, 1.0), (2, 2.0)):
        checkpoints.save(tmp_path, step, {"kernel": np.zeros(9), "bias": np.full(3, bias)})
    shutil.rmtree(tmp_path / "2" / "state")
    shutil.copytree(tmp_path / "1" / "state", tmp_path / "2" / "state")
    with pytest.raises(UserError, match=r"step 2 is damaged \(bias differs from the saved array\)"):
        checkpoints.restore(tmp_path, {"kernel": np.zeros(9), "bias": np.zeros(3)}, 2)


def test_no_checkpoint_is_whole(tmp_path, two_checkpoints, capfd):
    directory = shutil.copytree(two_checkpoints, tmp_path / "copy")
    for step in ("1", "2"):
        DAMAGE["array truncated"](directory / step)
    with pytest.raises(UserError, match=r"no whole checkpoint: step 2 is damaged .*, step 1 is"):
        checkpoints.restore(directory, example_state())
    assert capfd.readouterr() == ("", "")


def test_leaves_with_a_damaged_manifest(tmp_path, two_checkpoints):
    directory = shutil.copytree(two_checkpoints, tmp_path / "copy")
    DAMAGE["manifest truncated"](directory / "2")
    assert "params/kernel" in checkpoints.leaves(directory)
    with pytest.raises(UserError, match="no whole checkpoint: step 2 is damaged"):
        checkpoints.leaves(directory, 2)


def test_the_notice_goes_to_stderr_and_nothing_else(tmp_path, two_checkpoints, capfd):
    directory = shutil.copytree(two_checkpoints, tmp_path / "copy")
    DAMAGE["array truncated"](directory / "2")
    checkpoints.restore(directory, example_state())
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err == (
        f"{directory}: step 2 is damaged (its state cannot be read); reading step 1\n"
    )


# A storage that refuses.


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file/run: cannot save step 1 \(Not a directory\)"):
        checkpoints.save(tmp_path / "file" / "run", 1, example_state())
    with pytest.raises(UserError, match=r"/file: cannot save step 1 \(File exists\)"):
        checkpoints.save(tmp_path / "file", 1, example_state())


REFUSED_SAVES = """
import os, resource, sys, time
import numpy as np
from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints

directory, limits = sys.argv[1], [int(size) for size in sys.argv[2:]]
rng = np.random.default_rng(0)
state = {f"x{i}": rng.standard_normal(3000) for i in range(50)}
# An array is written to one file, which no choice of files for the others makes smaller.
state["large"] = rng.standard_normal(200_000)
checkpoints.save(directory, 1, state)
for step, limit in enumerate(limits, start=2):
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        checkpoints.save(directory, step, state)
    except UserError as error:
        print(error)
time.sleep(0.5)
print(sorted(os.listdir(directory)), checkpoints.restore(directory, state)[1])
"""


def test_a_file_size_limit_in_every_phase_of_a_save(tmp_path, start):
    """The first file, the metadata, some arrays, all arrays: each may be what fails."""
    limits = [1, 100, 1_000, 10_000, 100_000, 1_000_000]
    output, errors = start(REFUSED_SAVES, tmp_path, *limits).communicate()
    assert errors == ""
    lines = output.splitlines()
    assert len(lines) == len(limits) + 1
    for step, line in enumerate(lines[:-1], start=2):
        assert line == (
            f"{tmp_path}: cannot save step {step} (File too large): the folder must be writable "
            "and have room for one more checkpoint; the earlier ones are kept"
        )
    assert lines[-1] == "['1'] 1"


def test_a_full_disk(tmp_path, start):
    """A file system of 4 MB, where the kernel lets a user mount one for a process of his own."""
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*private, "true"]).returncode:
        pytest.skip("no private mounts here; the file size limit is tested everywhere")
    script = f'mount -t tmpfs -o size=4m none "{tmp_path}" && exec "$0" "$@"'
    prefix = [*private, "sh", "-c", script]
    output, errors = start(REFUSED_SAVES, tmp_path, 0, prefix=prefix).communicate()
    assert errors == ""
    refusal, rest = output.splitlines()
    assert refusal.startswith(f"{tmp_path}: cannot save step 2 (No space left on device)")
    assert rest == "['1'] 1"


# Kills.


SAVES_WITHOUT_END = """
import sys
import numpy as np
from cnn_jax.training import checkpoints

directory = sys.argv[1]
step = checkpoints.steps(directory)[-1] if checkpoints.steps(directory) else 0
while True:
    step += 1
    checkpoints.save(directory, step, {f"x{i}": np.full(20000, step) for i in range(20)}, keep=2)
    print(step, flush=True)
"""


def test_kill_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path, start):
    rng = np.random.default_rng(0)
    like = {f"x{i}": np.zeros(20000, int) for i in range(20)}
    reported = 0
    for _ in range(4):
        child = start(SAVES_WITHOUT_END, tmp_path)
        reported = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.5))
        child.send_signal(signal.SIGKILL)
        output, _ = child.communicate()
        reported = max([reported, *map(int, output.split())])

        restored, step = checkpoints.restore(tmp_path, like, notify=fail_on_notice)
        assert step >= reported, "a finished save is gone"
        for leaf in restored.values():
            np.testing.assert_array_equal(leaf, step)


# Many processes.


ONE_OF_TWO_PROCESSES = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

directory, address, process, report = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
# Not on standard output, where Gloo's threads write of their connections, in pieces.
report = open(report, "w")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, process)
from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints

everywhere = NamedSharding(Mesh(jax.devices(), "device"), PartitionSpec())
value = np.arange(6, dtype=np.float32)
state = {"x": jax.make_array_from_callback(value.shape, everywhere, lambda index: value[index])}
for step in (1, 2, 3):
    checkpoints.save(directory, step, state, keep=2)
restored, step = checkpoints.restore(directory, state)
assert restored["x"].sharding == everywhere
print("restored", step, np.asarray(restored["x"]).tolist(), file=report)

def message(call, *arguments):
    try:
        call(*arguments)
    except UserError as error:
        print(error, file=report)

# Both must learn of what only the first one sees, or only one of them.
message(checkpoints.save, directory + "/3/manifest/metadata", 1, state)
message(checkpoints.restore, directory if process else directory + "/nowhere", state)
"""


@pytest.mark.slow
def test_two_processes_write_once_and_agree(tmp_path, start):
    directory = tmp_path / "checkpoints"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    reports = [tmp_path / f"report_{i}" for i in range(2)]
    children = [
        start(ONE_OF_TWO_PROCESSES, directory, address, i, report)
        for i, report in enumerate(reports)
    ]
    outputs = [child.communicate(timeout=120) for child in children]
    for child, (_, errors) in zip(children, outputs, strict=True):
        assert child.returncode == 0, errors
    first, second = (report.read_text().splitlines() for report in reports)
    assert first[0] == second[0] == "restored 3 [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]"
    assert "cannot save step 1 (File exists)" in first[1]
    assert "the first process could not save step 1" in second[1]
    assert f"{directory}/nowhere: nothing to resume" in first[2]
    assert "the processes read different checkpoints" in second[2]
    assert sorted(path.name for path in directory.iterdir()) == ["2", "3"]
    assert_same_bits(
        checkpoints.restore(directory, {"x": np.zeros(6, np.float32)})[0],
        {"x": np.arange(6, dtype=np.float32)},
    )
