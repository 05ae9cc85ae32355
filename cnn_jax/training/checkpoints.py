"""Checkpoints: a training state written whole or not at all, and read back to the last bit.

A checkpoint is the folder `DIRECTORY/STEP/`, whose files `cnn_jax.training.checkpoint_files` writes
and reads. Orbax writes it under a temporary name and renames it when it is complete, so a folder
named by a step is whole, whatever kills the run:

    STEP/state/              the arrays, as Orbax stores a PyTree of nested dicts
    STEP/manifest/metadata   JSON: path, shape, dtype and CRC-32 of every array

The manifest serves two purposes. Before any array is read, a restore compares it with the state to
fill and names the leaf that does not fit. It also detects a file that was truncated, removed or
altered after the rename. A damaged checkpoint is skipped in favour of the one before.

Arrays are stored with their global shape, independent of the number of devices, and placed on
restore as the caller asks.

Beside the state a checkpoint may hold the sums of an interval of reports that had not ended when it
was saved, as `interval/...`. They are no part of the state: `restore` and `leaves` pass them over.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.training import checkpoint_files
from cnn_jax.training.checkpoint_files import (
    DamagedError,
    nested,
    read_manifest,
    remove,
    remove_leftovers,
    remove_unfinished,
    spec,
    system_message,
)

# The top-level entry of the sums that are saved beside the state.
_INTERVAL = "interval"

_T = TypeVar("_T")


def save(
    directory: str | os.PathLike,
    step: int,
    state: PyTree,
    *,
    keep: int | None = 3,
    scheduled: Callable[[int], bool] = lambda _: True,
    interval: PyTree = None,
) -> None:
    """Write `state` as the checkpoint of `step`, and return when it is whole.

    The checkpoint appears under its name in one rename. Only then are others removed: all but the
    newest `keep`, those that a stop left between the scheduled ones, and those of later steps,
    which the run abandoned when it went back. So a run that was stopped ends with the checkpoints
    of one that was not. The same state saved twice at one step is written once.

    With several processes, every process calls this, the first one writes, and all return or raise
    together.

    Args:
      directory: The folder of a run's checkpoints; created if missing.
      step: The number of finished training steps, which names the checkpoint.
      state: A pytree of arrays. With several processes, each array must be fully replicated.
      keep: The number of checkpoints to keep, at least 1; None keeps all.
      scheduled: Tells whether a step is one at which the run saves of itself. Of the other steps
        only the newest is kept, besides `keep`; by default all are scheduled.
      interval: The sums since the last report, a pytree of arrays likewise; see `interval`.

    Raises:
      UserError: The files cannot be written (full disk, quota, missing permission).
        The earlier checkpoints are untouched.
    """
    failure = None
    if jax.process_index() == 0:
        try:
            write(directory, step, state, keep=keep, scheduled=scheduled, interval=interval)
        except Exception as error:
            failure = error
    raise_together(directory, step, failure)


def write(
    directory: str | os.PathLike,
    step: int,
    state: PyTree,
    *,
    keep: int | None = 3,
    scheduled: Callable[[int], bool] = lambda _: True,
    interval: PyTree = None,
) -> None:
    """Do what `save` does on the first process, without a word to the others.

    A thread may call it beside a training, with arrays `on_host`.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    directory = Path(directory).absolute()
    arrays = _leaves_by_path(jax.device_get(state))
    sums = _leaves_by_path(jax.device_get(interval))
    arrays |= {f"{_INTERVAL}/{path}": array for path, array in sums.items()}
    _save_locally(directory, step, arrays)
    with files.writing(directory):
        _prune(directory, step, keep, scheduled)


def raise_together(directory: str | os.PathLike, step: int, failure: BaseException | None) -> None:
    """Raise the failure of the first process's `write` of a step on every process.

    All of them must call this.
    """
    if any(_gather(failure is not None)):
        raise failure or UserError(
            f"{os.fspath(directory)}: the first process could not save step {step}; the earlier "
            "checkpoints are kept"
        )


def on_host(tree: PyTree) -> PyTree:
    """Copy arrays to NumPy arrays, which keep their values when a step reuses the memory."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return jax.tree.map(np.array, tree)


def restore(
    directory: str | os.PathLike,
    like: PyTree,
    step: int | None = None,
    *,
    only: tuple[str, ...] | None = None,
    notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> tuple[PyTree, int]:
    """Read the newest whole checkpoint, or that of `step`, into the structure of `like`.

    Leaves are compared with `like` by path, shape and dtype before any array is read, and never
    cast. A damaged checkpoint gives way to the newest whole one before it, unless `step` is given.

    Args:
      directory: The folder of a run's checkpoints.
      like: A pytree of arrays or `jax.ShapeDtypeStruct`s. A leaf's sharding, where it has one, says
        where the restored array goes; a NumPy leaf comes back as a NumPy array.
      step: The checkpoint to read; by default the newest.
      only: The top-level entries of the saved state that `like` consists of, such as
        `("params", "model_state")`; the others are ignored. By default all.
      notify: Receives one line that names the damaged checkpoints and the one that was read.

    Returns:
      `like` with the stored arrays for leaves, and the step at which they were saved.

    Raises:
      UserError: There is no checkpoint, none is whole, or a leaf is missing, unexpected or of
        another shape or dtype.
    """
    directory = Path(directory).absolute()
    wanted = _leaves_by_path(like)
    try:
        arrays, read_step, notice = _newest_whole(
            directory, step, lambda path: _read(path, wanted, only)
        )
    except Exception:
        _gather(-1)
        raise
    read_steps = _gather(read_step)
    if any(other != read_step for other in read_steps):
        raise UserError(
            f"{directory}: the processes read different checkpoints (steps "
            f"{sorted(set(read_steps))}, -1 for none): they must share one file system"
        )
    if notice and jax.process_index() == 0:
        notify(notice)
    placed = [_place(arrays[path], leaf) for path, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed), read_step


def interval(directory: str | os.PathLike, step: int) -> dict[str, Any]:
    """Read the sums that were saved beside the state of `step`, as nested dicts of NumPy arrays.

    It is empty where none were saved.

    Raises:
      UserError: There is no such checkpoint, or it is damaged.
    """

    def read(path: Path) -> dict[str, np.ndarray]:
        stored = {name: spec(entry) for name, entry in read_manifest(path).items()}
        wanted = {name: leaf for name, leaf in stored.items() if _of_interval(name)}
        return _read(path, wanted, only=(_INTERVAL,)) if wanted else {}

    arrays, _, _ = _newest_whole(Path(directory).absolute(), step, read)
    return nested(arrays).get(_INTERVAL, {})


def tidy(
    directory: str | os.PathLike,
    step: int,
    *,
    keep: int | None = 3,
    scheduled: Callable[[int], bool] = lambda _: True,
) -> None:
    """Finish the removals that a killed `save` of `step` or an earlier one left undone.

    Only the first process does anything. Damaged checkpoints after `step` are left until the next
    save.

    Raises:
      UserError: The folder cannot be written.
    """
    directory = Path(directory).absolute()
    if jax.process_index() == 0 and directory.exists():
        with files.writing(directory):
            remove_leftovers(directory)
            if steps(directory)[-1:] == (step,):
                _prune(directory, step, keep, scheduled)


def leaves(
    directory: str | os.PathLike, step: int | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Read the shape and dtype of every array of the newest checkpoint, or of `step`, by path.

    Paths look like `params/Dense_0/kernel`. Only a manifest is read: that of the newest checkpoint
    that has a whole one.

    Raises:
      UserError: There is no such checkpoint, or its manifest is damaged.
    """
    manifest, _, _ = _newest_whole(Path(directory).absolute(), step, read_manifest)
    return {path: spec(entry) for path, entry in manifest.items() if not _of_interval(path)}


def arrays(directory: str | os.PathLike, step: int | None = None) -> dict[str, np.ndarray]:
    """Read every array of the newest whole checkpoint, or of `step`, by path.

    Raises:
      UserError: There is no such checkpoint, or none is whole.
    """

    def read(path: Path) -> dict[str, np.ndarray]:
        stored = {name: spec(entry) for name, entry in read_manifest(path).items()}
        return _read(path, {k: leaf for k, leaf in stored.items() if not _of_interval(k)}, None)

    found, _, _ = _newest_whole(Path(directory).absolute(), step, read)
    return found


def steps(directory: str | os.PathLike) -> tuple[int, ...]:
    """List the steps that have a checkpoint, ascending; empty for a folder that does not exist."""
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)))


def latest_step(directory: str | os.PathLike) -> int:
    """Return the newest checkpoint's step.

    Raises:
      UserError: There is none.
    """
    present = steps(directory)
    if not present:
        raise UserError(f"{os.fspath(directory)}: nothing to resume: it has no checkpoint")
    return present[-1]


# Writing.


def _save_locally(directory: Path, step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one checkpoint from this process alone."""
    try:
        checkpoint_files.write(directory / str(step), arrays)
        return
    except Exception as error:
        remove_unfinished(directory)
        refusal = system_message(error)
        if refusal is None:
            raise
    # Outside the handler, so that the failure and all that it references are released.
    raise UserError(
        f"{directory}: cannot save step {step} ({refusal}): the folder must be writable and "
        "have room for one more checkpoint; the earlier ones are kept"
    )


def _prune(directory: Path, step: int, keep: int | None, scheduled: Callable[[int], bool]) -> None:
    """Remove the checkpoints that `save` says, of all but `step`."""
    present = steps(directory)
    regular = [other for other in present if other <= step and scheduled(other)]
    kept = {step, *(regular if keep is None else regular[-keep:])}
    for other in present:
        if other not in kept:
            remove(directory / str(other))


# Reading.


def _newest_whole(
    directory: Path, step: int | None, read: Callable[[Path], _T]
) -> tuple[_T, int, str | None]:
    """Apply `read` to the newest checkpoint that it does not report as damaged, or to `step`'s.

    Returns:
      The result of `read`, the checkpoint's step, and a line about damaged ones, if any.
    """
    latest_step(directory)  # raises if there is none
    present = steps(directory)
    if step is not None and step not in present:
        available = ", ".join(map(str, present))
        raise UserError(f"{directory}: no checkpoint of step {step}; available: {available}")
    damage = []
    for candidate in present[::-1] if step is None else (step,):
        try:
            content = read(directory / str(candidate))
        except DamagedError as error:
            damage.append(f"step {candidate} is damaged ({error})")
            continue
        notice = f"{directory}: {', '.join(damage)}; reading step {candidate}" if damage else None
        return content, candidate, notice
    raise UserError(f"{directory}: no whole checkpoint: {', '.join(damage)}")


def _read(
    path: Path, wanted: Mapping[str, Any], only: tuple[str, ...] | None
) -> dict[str, np.ndarray]:
    """Read the arrays that `wanted` names, and verify them against the manifest."""
    manifest = {
        name: entry
        for name, entry in read_manifest(path).items()
        if only is None or name.split("/")[0] in only
    }
    stored = {name: spec(entry) for name, entry in manifest.items()}
    own = {name: leaf for name, leaf in stored.items() if only or not _of_interval(name)}
    _check_same_leaves(path, own, wanted)
    return checkpoint_files.read(path, manifest)


def _check_same_leaves(
    path: Path, stored: Mapping[str, jax.ShapeDtypeStruct], wanted: Mapping[str, Any]
) -> None:
    """Raise a UserError that names the differing leaves, if there are any."""
    problems = [
        f"{name} is {_describe(stored[name])} in the checkpoint but {_describe(leaf)} here"
        for name, leaf in wanted.items()
        if name in stored and _describe(stored[name]) != _describe(leaf)
    ]
    problems += [
        f"{name}, {_describe(leaf)} here, is missing from the checkpoint"
        for name, leaf in wanted.items()
        if name not in stored
    ]
    problems += [
        f"{name}, {_describe(leaf)} in the checkpoint, is unknown here"
        for name, leaf in stored.items()
        if name not in wanted
    ]
    if problems:
        shown, more = problems[:3], len(problems) - 3
        raise UserError(
            f"{path}: {'; '.join(shown)}{f'; and {more} more' if more > 0 else ''} (the model and "
            "the optimizer must be the run's own, see its config.json)"
        )


def _place(array: np.ndarray, like: Any) -> Any:
    """Put a restored array where `like` is: on the host, sharded, or on the default device."""
    if isinstance(like, np.ndarray | np.generic):
        return array
    sharding = getattr(like, "sharding", None)
    if sharding is None or not getattr(like, "committed", True):
        placed = jnp.asarray(array)
    else:
        placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    if placed.dtype != array.dtype:
        raise ValueError(f"JAX holds no {array.dtype} unless jax_enable_x64 is set")
    return placed


# Both.


def _leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Map the leaves of a pytree by path, such as `opt_state/0/mu/Dense_0/kernel`."""
    leaves_by_path = {}
    names = set()
    for keys, leaf in jax.tree.leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        name = path.replace("/", ".")  # Orbax's file name
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"{path} must be an array, is {type(leaf).__name__}")
        if name in names:
            raise ValueError(f"two leaves have the path {path}")
        names.add(name)
        leaves_by_path[path] = leaf
    return leaves_by_path


def _of_interval(path: str) -> bool:
    """Tell whether a leaf belongs to the sums beside the state."""
    return path.startswith(f"{_INTERVAL}/")


def _describe(leaf: Any) -> str:
    """Format an array's dtype and shape, such as `float32[3,4]`."""
    return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"


def _gather(value: int) -> list[int]:
    """Collect `value` from every process; all processes must call this."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.int32(value)).tolist()
