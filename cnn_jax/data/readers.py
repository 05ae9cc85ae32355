"""The choice between threads and processes that read, by the machine and the source."""

from dataclasses import dataclass

from cnn_jax import memory, processors
from cnn_jax.data.source import Source
from cnn_jax.data.workers import WORKER_BYTES

_MOST = 16
_OTHERS = 2  # cores for the thread that launches steps, and for what the system does
_FEWEST = 2  # a single process reads no faster than threads do


@dataclass(frozen=True)
class Readers:
    """The number of worker processes, 0 for threads, and a line that says why."""

    processes: int
    reason: str = ""


def suitable_readers(source: Source, *, accelerated: bool, available: int | None = None) -> Readers:
    """Choose the readers of a source.

    Decoding in threads delays the thread that launches the steps of an accelerator, as both need
    Python's lock. Where steps run on the processors themselves, processes would only take those
    away from them.

    Args:
        source: the examples.
        accelerated: whether steps run elsewhere than on this machine's processors.
        available: the number of processors; None for those that this process may use.
    """
    available = processors.available() if available is None else available
    if getattr(source, "mapped", False):
        return Readers(0, "reading: in threads, as packed data is only copied")
    if not accelerated:
        return Readers(0, "reading: in threads, as steps run on the same processors")
    processes = min(available - _OTHERS, _MOST, _in_memory())
    if processes < _FEWEST:
        return Readers(
            0, f"reading: in threads, as {available} processors and the free memory are too few"
        )
    return Readers(processes, f"reading: in {processes} processes, as steps run on an accelerator")


def _in_memory() -> int:
    """The number of processes that a quarter of the free memory holds."""
    free = memory.available()
    return _MOST if free == float("inf") else int(free / 4 / WORKER_BYTES)
