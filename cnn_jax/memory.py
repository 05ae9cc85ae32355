"""The memory that is left on this machine, and the refusal of what would need more."""

import functools
import math
from pathlib import Path

from cnn_jax.errors import UserError

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def available() -> int | float:
    """Return the bytes that this process may still allocate; infinity where the system says none.

    On Linux it is what the kernel can give without swapping, and what the limits of the process's
    control groups (of a container, or of a job under Slurm) leave of that.
    """
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        free = {name: int(rest.split()[0]) * 1024 for name, rest in _pairs(lines, ":")}
        groups = (_PROC / "self" / "cgroup").read_text().splitlines()
    except (OSError, ValueError, IndexError):
        return math.inf
    left = [free.get("MemAvailable", math.inf)]
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = _GROUPS / controllers
            group = top / path.lstrip("/")
            # A container may see its own group at the top; a limit holds for all groups below.
            folders = {folder for folder in (group, *group.parents) if top in folder.parents}
            left += [_left(folder) for folder in (top, *folders)]
    return max(0, min(left))


def _left(group: Path) -> int | float:
    """Return the bytes that a control group's limit leaves; infinity without a limit."""
    for limit, used, reclaimed in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((group / limit).read_text())
            now = int((group / used).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such group, or "max"
            continue
        # Files that were read count as used, and give way.
        return most - now + int(dict(_pairs(lines, " ")).get(reclaimed, 0))
    return math.inf


def _pairs(lines: list[str], separator: str) -> list[tuple[str, str]]:
    return [(name, rest) for name, _, rest in (line.partition(separator) for line in lines)]


@functools.lru_cache(maxsize=1000)
def require(size: int, purpose: str, advice: str, free: int | float | None = None) -> None:
    """Refuse what would not fit into memory, before it is allocated.

    The same question is asked once in a process: what passed is in use then.

    Args:
        size: the bytes that are needed.
        purpose: what needs them, as the subject of the message: "a batch of 8 examples".
        advice: what to change, such as "a smaller batch_size".
        free: the bytes that there are, of an accelerator; None for `available()`.

    Raises:
        UserError: there are fewer.
    """
    left = available() if free is None else free
    if size > left:
        raise UserError(
            f"{purpose} would need about {shown(size)} of memory, and {shown(left)} are free; "
            f"{advice} needs less"
        )


def shown(size: int | float) -> str:
    """Format bytes for people: `1.5 GB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
