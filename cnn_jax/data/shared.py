"""Memory that processes share without a name: nothing stays behind, however a process ends."""

import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import numpy as np

_ALIGNMENT = 64  # bytes; JAX takes over arrays that begin at a multiple of it without a copy

Arrays = dict[str, np.ndarray]

Kinds = Mapping[str, tuple[Any, tuple[int, ...]]]
"""The dtypes and the shapes of arrays by name."""


@dataclass(frozen=True)
class Column:
    """An array within shared memory: its name, dtype and shape, and where it begins."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def of(self, memory: Any) -> np.ndarray:
        """The array, which keeps the memory alive."""
        return np.ndarray(self.shape, self.dtype, memory, self.offset)


def columns(kinds: Kinds) -> tuple[list[Column], int]:
    """Lay arrays one after another; return where each lies, and their bytes together."""
    laid, offset = [], 0
    for name, (dtype, shape) in kinds.items():
        kind = np.dtype(dtype)
        laid.append(Column(name, kind.str, tuple(shape), offset))
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return laid, max(offset, 1)


def allocated(kinds: Kinds) -> Arrays:
    """Make arrays with nothing in them, in this process's own memory."""
    return {name: np.empty(shape, dtype) for name, (dtype, shape) in kinds.items()}


class SharedMemory:
    """Memory that a process hands to those that it starts.

    On Linux it is a file of the kernel's own, in which /dev/shm and its size have no part.
    Elsewhere it is a temporary file whose name is removed at once.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._number = os.memfd_create("cnn_jax", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)

    def __getstate__(self) -> dict[str, Any]:
        return {"number": reduction.DupFd(self._number)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._number = state["number"].detach()

    def enlarge(self, size: int, *, reserve: bool = False) -> None:
        """Give it so many bytes; with `reserve`, make sure that they are there.

        Raises:
            OSError: there is no memory for them.
        """
        if reserve and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._number, 0, size)
        else:
            os.ftruncate(self._number, size)

    def map(self, offset: int, size: int) -> mmap.mmap:
        """Map a part, which begins at a page."""
        return mmap.mmap(self._number, size, offset=offset)


class Slots:
    """Equal parts of shared memory, each of which holds a batch while somebody uses its arrays.

    The process that reads hands out slots; a worker process fills them. A slot is free again when
    the last array in it is deleted, so batches need no copy.
    """

    def __init__(self, size: int) -> None:
        """Take the bytes of a batch at most."""
        self._memory, self._size = SharedMemory(), -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._maps: dict[int, mmap.mmap] = {}
        self._begin()

    def _begin(self) -> None:
        self._free: deque[int] = deque()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_memory": self._memory, "_size": self._size, "_maps": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def take(self) -> int | None:
        """Return the number of a slot that nobody uses; None where there is no memory for one."""
        with self._lock:
            if self._free:
                return self._free.popleft()
            number = len(self._maps)
            try:
                self._memory.enlarge((number + 1) * self._size, reserve=True)
                self._map(number)
            except OSError:
                return None
            return number

    def free(self, number: int) -> None:
        """Give a slot back."""
        self._free.append(number)  # without a lock: it is called whenever an array is deleted

    def _map(self, number: int) -> mmap.mmap:
        if number not in self._maps:
            self._maps[number] = self._memory.map(number * self._size, self._size)
        return self._maps[number]

    def arrays(self, number: int, kinds: Kinds) -> tuple[list[Column], Arrays] | None:
        """Return arrays in a slot, to write to, and where each lies; None where they do not fit."""
        laid, size = columns(kinds)
        if size > self._size:
            return None
        memory = self._map(number)
        return laid, {column.name: column.of(memory) for column in laid}

    def view(self, number: int, laid: Iterable[Column]) -> Arrays:
        """Return the arrays in a slot, which is free when the last of them is deleted."""
        lease = np.frombuffer(self._maps[number], np.uint8)
        weakref.finalize(lease, self.free, number).atexit = False
        return {column.name: column.of(lease) for column in laid}
