"""One writer at a time in a run's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnn_jax import files
from cnn_jax.errors import UserError


@contextmanager
def claimed(directory: str | Path) -> Iterator[None]:
    """Hold a run's folder for this process, and remove the parts of files that killed ones left.

    The folder is created if missing, and removed if it is empty at the end. The lock is the
    kernel's and lies on the folder itself: it leaves no file, and ends with the process, whatever
    ends it. A file system without such locks (some that are shared over a network) holds nobody
    off. Whoever only reads needs no claim.

    Raises:
        UserError: another process writes in the folder, or it cannot be made.
    """
    directory = Path(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    with files.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory}: another process is writing in this folder; wait for its end, or "
                "give another folder with --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        files.remove_abandoned(directory)
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()
        os.close(descriptor)


def is_claimed(directory: str | Path) -> bool:
    """Tell whether another process, or this one, holds a run's folder."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False
