"""The memory that is left, by the kernel and by the limits of control groups."""

import math

import pytest

from cnn_jax import memory
from cnn_jax.errors import UserError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that writes the files of a machine with 8 GB free."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

    def write(files):
        for name, content in {
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
            "proc/self/cgroup": "0::/job\n",
            **files,
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


def test_without_limits_the_kernel_says_how_much_is_free(machine):
    machine({})
    assert memory.available() == 8_192_000_000


@pytest.mark.parametrize("place", ["groups/job", "groups"])
def test_a_group_s_limit_holds_and_files_that_were_read_give_way(machine, place):
    limits = {
        "memory.max": "3000",
        "memory.current": "2500",
        "memory.stat": "anon 1\ninactive_file 400\n",
    }
    machine({f"{place}/{name}": content for name, content in limits.items()})
    assert memory.available() == 3000 - 2500 + 400


def test_the_older_form_of_groups(machine):
    machine(
        {
            "proc/self/cgroup": "4:memory:/job/step\n3:cpu:/job\n0::/\n",
            "groups/memory/job/memory.limit_in_bytes": "3000",
            "groups/memory/job/memory.usage_in_bytes": "1000",
            "groups/memory/job/memory.stat": "total_inactive_file 10\n",
            "groups/memory/job/step/memory.limit_in_bytes": "9223372036854771712",
            "groups/memory/job/step/memory.usage_in_bytes": "1000",
            "groups/memory/job/step/memory.stat": "",
        }
    )
    assert memory.available() == 2010


def test_no_limit_and_no_such_files(machine, tmp_path):
    machine({"groups/job/memory.max": "max"})
    assert memory.available() == 8_192_000_000
    (tmp_path / "proc" / "meminfo").unlink()
    assert memory.available() == math.inf


def test_what_does_not_fit_is_refused_with_both_sizes(machine):
    machine({})
    memory.require(8_000_000_000, "a batch", "a smaller batch_size")
    with pytest.raises(UserError) as caught:
        memory.require(9_000_000_000_000, "a batch", "a smaller batch_size")
    assert str(caught.value) == (
        "a batch would need about 9,000.0 GB of memory, and 8.2 GB are free; "
        "a smaller batch_size needs less"
    )
    with pytest.raises(UserError, match=r"2\.0 MB of memory, and 1\.0 MB are free"):
        memory.require(2_000_000, "a batch", "a smaller batch_size", free=1_000_000)
