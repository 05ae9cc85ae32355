"""Atomic writes: a reader, a kill or a full disk meets the whole old file or the whole new one."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cnn_jax.errors import UserError

REFUSALS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE")
)
"""The numbers of the errors with which a system refuses to read or write."""

# The name of a part of a file, which ends in the number of the process that writes it.
_PART = re.compile(r"\..+\.\w+\.(\d+)")

# The parts that this process is writing.
_parts: set[Path] = set()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one line for the user.

    Raises:
        UserError: the disk is full, or `path` cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the disk is full; free some space and continue with --resume"
        else:
            message = f"cannot be written: {error.strerror or error}"
        raise UserError(f"{path}: {message}") from error


def replace(path: Path, content: str | bytes) -> None:
    """Write a file atomically, replacing an earlier one; its folder is created if missing.

    Raises:
        UserError: the file cannot be written; an earlier file stays unchanged.
    """
    with stream(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def stream(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces an earlier one at the end of the block, and only if that succeeds.

    Raises:
        UserError: the file cannot be written; an earlier file stays unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _parts.add(temporary)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            _parts.discard(temporary)


def take_back() -> None:
    """Remove the parts of files that this process is writing; it is about to end at once."""
    for part in list(_parts):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_abandoned(directory: Path) -> None:
    """Remove the parts of files below a folder that ended processes were writing."""
    for folder, _, names in os.walk(directory):
        for name in names:
            match = _PART.fullmatch(name)
            if match and not _is_another_process(int(match[1])):
                with suppress(OSError):
                    Path(folder, name).unlink(missing_ok=True)


def _is_another_process(number: int) -> bool:
    """Tell whether a process with this number runs, other than this one."""
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return number > 0
