"""Atomic writes: a reader, a kill or a full disk meets the whole old file or the whole new one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnn_jax.errors import UserError


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
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
