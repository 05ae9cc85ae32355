"""The kinds of cases: what is tried, and what must hold afterwards."""

import fcntl
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cnn_jax.errors import UserError
from tests.faults import (
    boxes,
    commands,
    flags,
    images,
    kills,
    mutations,
    packs,
    run_files,
    starts,
    texts,
)
from tests.faults.campaign import Kind

Tell = Callable[[str], None]


@functools.cache
def kinds() -> Mapping[str, Kind]:
    """All kinds of cases by name."""
    verbs = [*flags.TRAINING, *flags.PLAIN]
    return {
        "flags": Kind(lambda: verbs, flags.parse_odd, 2000),
        "data": Kind(lambda: _named(prepared=False), mutated_data, 3000),
        # The threads of array_record reserve address space, which the limit counts.
        "tfds": Kind(lambda: _named(prepared=True), mutated_data, 200, memory=4 * 2**30),
        "runs": Kind(lambda: list(commands.TINY), run_files.corrupted, 600, 240.0, None),
        "kills": Kind(lambda: list(kills.targets()), killed, 100, 900.0, None),
        "starts": Kind(lambda: list(commands.TINY), starts.start, 140, 240.0, None),
    }


def _named(prepared: bool) -> list[str]:
    """The formats that TFDS has prepared, or the others."""
    return [name for name in formats() if name.startswith("tfds") == prepared]


@functools.cache
def formats() -> Mapping[str, tuple[Callable, Callable]]:
    """The writer and the reader of each format by name."""
    return {**images.formats(), **boxes.formats(), **packs.formats(), **texts.formats()}


def mutated_data(target: str, rng: np.random.Generator, folder: Path, tell: Tell) -> None:
    """Write a data set, change one or two of its files, and read all of it."""
    write, read = formats()[target]
    place = folder / "data"
    place.mkdir()
    write(place, rng)
    tell("; ".join(mutations.mutate(place, rng) for _ in range(int(rng.integers(1, 3)))))
    try:
        read(place)
    except UserError as error:
        assert str(place) in str(error), f"the message names no file: {error}"
        raise


def killed(target: str, rng: np.random.Generator, folder: Path, tell: Tell) -> None:
    """Stop a run at random moments and resume it: it ends as its uninterrupted reference."""
    place = commands.shared() / "kills"
    place.mkdir(exist_ok=True)
    with (place / f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker makes the reference
        reference = kills.reference(target, place)
    problem = kills.kill_once(target, reference, folder / "killed", rng)
    assert problem is None, problem
