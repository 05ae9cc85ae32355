"""The processors that this process may use."""

import os


def available() -> int:
    """The number of processors, those of the process's affinity where the system knows one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
