"""The files of one checkpoint: arrays as Orbax stores them, and a manifest that tells damage.

`cnn_jax.training.checkpoints` has the checkpoints of a run.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
import stat
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from cnn_jax import files

# The suffix of a folder's name while Orbax writes it.
_UNFINISHED = ".orbax-checkpoint-tmp"

# What an event loop says that ends with operations that nobody waits for, or is not whole because
# the process may open no more files.
_ABANDONED = ("Event loop is closed", "no attribute '_ssock'")

# The most bytes of a file beside the arrays, and above their size of a file with arrays.
_MOST_BYTES = 2**28

# The operating system's messages when it refuses to read or write.
_REFUSALS = tuple(map(os.strerror, files.REFUSALS))


class DamagedError(Exception):
    """A checkpoint's files do not hold what was saved; the message says what is wrong with them."""


def write(target: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the checkpoint `target`, which appears in one rename; `arrays` are by path.

    One that is whole and has the same arrays stays as it is; another one is removed first.

    Raises:
      Exception: What the operating system, Orbax or TensorStore raise; see `system_message`.
    """
    manifest = {path: _manifest_entry(array) for path, array in arrays.items()}
    # Orbax refuses arrays without elements; the manifest describes them completely.
    filled = {path: array for path, array in arrays.items() if array.size}
    items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(nested(filled)),
        manifest=ocp.args.JsonSave({"leaves": manifest, "crc32": _manifest_checksum(manifest)}),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    if target.exists():
        if _holds(target, manifest):
            return
        remove(target)
    with _quiet_orbax(), _checkpointer() as checkpointer:
        checkpointer.save(target, items)


def remove(path: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that a partial one is never visible."""
    doomed = path.with_name(f"{path.name}.removed{_UNFINISHED}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(directory: Path) -> bool:
    """Delete the remains of killed saves and removals; return whether there were any."""
    leftovers = list(directory.glob(f"*{_UNFINISHED}"))
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return bool(leftovers)


def remove_unfinished(directory: Path, quiet_seconds: float = 0.3, limit: float = 10.0) -> None:
    """Delete a failed save's files, including those that its pending writes still create.

    Orbax reports the first failing write while others are still running. They end soon, but may
    recreate a folder that was removed in the meantime.
    """
    deadline = time.monotonic() + limit
    quiet_since = time.monotonic()
    while time.monotonic() < min(quiet_since + quiet_seconds, deadline):
        if remove_leftovers(directory):
            quiet_since = time.monotonic()
        time.sleep(0.02)


def system_message(error: BaseException) -> str | None:
    """Return the operating system's message if it refused to read or write, else None."""
    if isinstance(error, OSError):
        return error.strerror
    # TensorStore's exceptions give the reason only in their text.
    return next((words for words in _REFUSALS if words in str(error)), None)


def read(path: Path, manifest: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Read the arrays of a manifest, or of a part of it, to the host.

    Raises:
      DamagedError: One is missing, or differs from the saved one.
    """
    arrays = _read_arrays(path, {name: spec(entry) for name, entry in manifest.items()})
    for name, entry in manifest.items():
        if _manifest_entry(arrays[name]) != entry:
            raise DamagedError(f"{name} differs from the saved array")
    return arrays


def _read_arrays(path: Path, stored: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Read the stored leaves of a checkpoint to the host."""
    arrays = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in stored.items()}
    tree = nested({name: 0 for name, leaf in stored.items() if leaf.size})
    if tree:
        _check_files(path, "state", 2 * sum(array.nbytes for array in arrays.values()))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = ocp.args.PyTreeRestore(tree, restore_args=as_numpy, partial_restore=True)
        restored = _read_item(path, "state", state)
        for name, array in traverse_util.flatten_dict(restored, sep="/").items():
            # Orbax leaves what its metadata lacks as it was asked for.
            if not isinstance(array, np.ndarray):
                raise DamagedError(f"{name} is missing from its metadata")
            arrays[name] = array
    return arrays


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Read a checkpoint's manifest: `{leaf path: {shape, dtype, crc32}}`."""
    _check_files(path, "manifest", 0)
    content = _read_item(path, "manifest", ocp.args.JsonRestore())
    if not isinstance(content, dict) or content.get("crc32") != _manifest_checksum(
        content.get("leaves")
    ):
        raise DamagedError("its manifest differs from the saved one")
    return content["leaves"]


def _read_item(path: Path, name: str, arguments: ocp.args.CheckpointArgs) -> Any:
    """Read one item of a checkpoint; any exception of Orbax counts as damage."""
    try:
        with _quiet_orbax(), _checkpointer() as checkpointer:
            return checkpointer.restore(path, ocp.args.Composite(**{name: arguments}))[name]
    except MemoryError:
        raise
    except Exception as error:
        reason = system_message(error)
    raise DamagedError(f"its {name} cannot be read" + (f": {reason}" if reason else ""))


def _check_files(path: Path, name: str, expected: int) -> None:
    """Raise if a file of an item is far larger than expected, or a pipe or a device.

    TensorStore reads a file whole and ends the process if the memory does not hold it; a pipe it
    reads for ever.
    """
    for file in (*path.glob("*"), *path.glob(f"{name}/**/*")):
        try:
            found = file.stat()
        except OSError:
            continue  # reading it says what is wrong
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise DamagedError(f"{file.relative_to(path)} is no regular file")
        if found.st_size > expected + _MOST_BYTES:
            raise DamagedError(f"{file.relative_to(path)} has {found.st_size:,} bytes")


def _holds(path: Path, manifest: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the checkpoint at `path` is whole and has exactly these leaves."""
    try:
        if read_manifest(path) != manifest:
            return False
        read(path, manifest)
    except DamagedError:
        return False
    return True


def nested(leaves_by_path: Mapping[str, Any]) -> dict[str, Any]:
    """Nest leaves by path into dicts, the form that Orbax stores and anyone can read."""
    return traverse_util.unflatten_dict(dict(leaves_by_path), sep="/")


def _manifest_entry(array: np.ndarray) -> dict[str, Any]:
    """Describe an array for the manifest."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    checksum = zlib.crc32(content)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "crc32": checksum}


def _manifest_checksum(manifest: Mapping[str, Any]) -> int:
    """Compute the CRC-32 of the manifest's leaves; it tells damage from a different model."""
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def spec(entry: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a manifest's entry."""
    return jax.ShapeDtypeStruct(tuple(entry["shape"]), jnp.dtype(entry["dtype"]))


def _checkpointer() -> ocp.Checkpointer:
    """Build an Orbax checkpointer that this process uses alone, without waiting for others."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    # Trained weights hardly compress; uncompressed storage is about twice as fast.
    state = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    manifest = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=state,
        manifest=manifest,
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Suppress Orbax's terminal output; its exceptions remain.

    Orbax logs a failure with its traceback and abandons the other pending reads or writes. Those
    end later, find their event loop closed, and report this as an exception that nobody can catch.
    Therefore the suppression stays active after a failure.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    previous_hook = sys.unraisablehook
    if getattr(previous_hook, "func", None) is _report_unraisable:
        yield  # an earlier failure left the suppression active
        return
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for logger in loggers:
        logger.addFilter(_keep_record)
    sys.unraisablehook = functools.partial(_report_unraisable, previous_hook)
    yield
    sys.unraisablehook = previous_hook
    for logger in loggers:
        logger.removeFilter(_keep_record)


def _keep_record(record: logging.LogRecord) -> bool:
    """Return False for Orbax's records and for asyncio's complaint about an abandoned operation."""
    abandoned = record.name == "asyncio" and "exception was never retrieved" in record.getMessage()
    return not abandoned and "orbax" not in Path(record.pathname).parts


def _report_unraisable(report: Callable[[Any], None], unraisable: Any) -> None:
    """Report an uncatchable exception, unless an abandoned read or write raised it."""
    if not any(text in str(unraisable.exc_value) for text in _ABANDONED):
        report(unraisable)
