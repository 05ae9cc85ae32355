"""Short runs with an odd value of one flag: they end well, or before the first step in one line."""

import re
from pathlib import Path

import numpy as np

from cnn_jax.errors import UserError
from tests.faults.commands import TINY, Tell, forked
from tests.faults.flags import odd_value, typeable

SECONDS = 180.0
"""The time of a run; most of it is compilation."""

LONG = {"steps", "epochs"}
"""Flags of which a large value rightly makes a run that does not end soon."""


def targets() -> list[str]:
    """The verbs and detectors."""
    return list(TINY)


def start(target: str, rng: np.random.Generator, folder: Path, tell: Tell) -> None:
    """Run a verb with an odd value of one of its flags."""
    verb, *tiny = TINY[target].split()
    flags = [flag for flag in typeable(verb) if flag.name not in LONG]
    flag = flags[rng.integers(len(flags))]
    value = [] if flag.type is bool else odd_value(flag, rng)
    argv = [verb, *tiny, "--out", "run", flag.dashed, *value]
    tell(" ".join(argv))
    ended = forked(argv, folder, SECONDS)
    assert ended.fault is None, ended.fault
    if ended.status == 2:
        message = re.findall(r"^error: (.*)", ended.output, re.MULTILINE)[0]
        rows = folder / "run" / "metrics.jsonl"
        late = rows.exists() and '"train"' in rows.read_text()
        assert not late, f"refused after the first step: {message}"
        raise UserError(message)
