"""Corruptions of every file in a finished run's folder, and the commands that read it."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import UserError
from tests.commands import leaves, rows
from tests.faults.commands import TINY, Tell, apart, finished, forked
from tests.faults.flags import odd_config
from tests.faults.mutations import mutate

SECONDS = 120.0


def corrupted(target: str, rng: np.random.Generator, folder: Path, tell: Tell) -> None:
    """Change files of a copied run; then evaluate, resume, compare it, or predict with it.

    What was no fault of a checkpoint's readers is not accepted with other numbers.
    """
    run = folder / "run"
    shutil.copytree(finished(target), run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = change(run, rng)
    action, argv = command(target, rng)
    tell(f"{done}; {' '.join(argv)}")
    ended = forked(argv, folder, SECONDS)
    assert ended.fault is None, ended.fault
    if ended.status == 2:
        raise UserError(ended.output.strip().splitlines()[-1].removeprefix("error: "))
    changed = [p for p, content in before.items() if not _holds(p, content)]
    told = {path.relative_to(run).parts[0] for path in changed}
    kept = done.startswith(("checkpoints", "best", "finished"))
    if action in ("resume", "evaluate") and kept and told:
        compared = apart(
            partial(require_same_numbers, run, finished(target), action == "resume"),
            folder,
            SECONDS,
        )
        assert compared.status == 0, compared.output


def change(run: Path, rng: np.random.Generator) -> str:
    """Corrupt one file of the run, or a value of its configuration."""
    if rng.random() < 0.4:
        config: dict[str, Any] = json.loads((run / "config.json").read_text())
        done = odd_config("", rng, config)
        (run / "config.json").write_text(json.dumps(config))
        return f"config.json: {done}"
    return mutate(run, rng)


def command(target: str, rng: np.random.Generator) -> tuple[str, list[str]]:
    """A command that reads the run, by name and as it is typed."""
    verb = TINY[target].split()[0]
    sentence = "3 May 1970" if verb == "translate" else "/nowhere.png"
    return (
        ("compare", ["compare", "run"]),
        ("compare", ["compare", "run", "run", "--out", "comparison"]),
        ("predict", ["predict", "run", sentence]),
        ("evaluate", [verb, "--out", "run", "--eval-only"]),
        ("resume", [verb, "--out", "run", "--resume"]),
    )[rng.integers(5)]


def _holds(path: Path, content: bytes) -> bool:
    """Tell whether a file has this content, which may have been made terabytes long."""
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def require_same_numbers(run: Path, reference: Path, whole: bool) -> None:
    """Fail unless the last evaluation is the reference's, and the newest checkpoint if `whole`.

    An evaluation does not read the optimizer's state, which may be damaged.
    """
    last, wanted = rows(run)[-1], rows(reference)[-1]
    assert last == wanted, f"other numbers: {last}, not {wanted}"
    if whole:
        same = jax.tree.map(np.array_equal, leaves(run), leaves(reference))
        assert all(jax.tree.leaves(same)), "other parameters"
