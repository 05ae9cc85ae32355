"""Short runs with an odd value of one flag: they end well, or before the first step in one line."""

import importlib
import re
from pathlib import Path

import numpy as np
from tests.faults.flags import odd_values

from cnn_jax.errors import UserError
from experiments.options import declared
from tests.faults.commands import TINY, Tell, forked

SECONDS = 90.0
"""The time of a run; most of it is compilation."""

LONG = {"steps", "epochs"}
"""Flags of which a large value rightly makes a run that does not end soon."""


def targets() -> list[str]:
    """The verbs and detectors."""
    return list(TINY)


def start(target: str, rng: np.random.Generator, folder: Path, tell: Tell) -> None:
    """Run a verb with an odd value of one of its flags."""
    verb, *tiny = TINY[target].split()
    known = declared(importlib.import_module(f"experiments.{verb}").Options)
    flags = [f for f in known.values() if not f.declared.hidden and f.name not in LONG]
    flag = flags[rng.integers(len(flags))]
    values = odd_values(flag, rng)
    value = values[rng.integers(len(values))]
    argv = [verb, *tiny, "--out", "run", f"--{flag.name.replace('_', '-')}", *value]
    tell(" ".join(argv))
    ended = forked(argv, folder, SECONDS)
    assert ended.fault is None, ended.fault
    if ended.status == 2:
        message = re.findall(r"^error: (.*)", ended.output, re.MULTILINE)[0]
        rows = folder / "run" / "metrics.jsonl"
        late = rows.exists() and '"train"' in rows.read_text()
        assert not late, f"refused after the first step: {message}"
        raise UserError(message)
