"""`--class-weights`: what is typed, and what a run recorded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from cnn_jax.data.surveys.classes import balanced_weights
from cnn_jax.errors import UserError, nearest
from cnn_jax.ranges import Range
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from . import options as flags

RULES = ("balanced",)
"""The rules that compute weights, where a task has no others."""

KEY = "weights_by_class"
"""The key of `config.json` for the weights that a run is trained with."""

_WEIGHTS = Range(0, 1e9, above=True)
_RECORDED = Annotated[tuple[float, ...], _WEIGHTS]

_NAMED = 12  # classes at most whose weights are listed


def typed(
    given: tuple[str, ...], class_names: Sequence[str], rules: Sequence[str] = RULES
) -> tuple[float, ...]:
    """The weight of each class that the flag gives; empty where there are none, or a rule's name.

    Raises:
        UserError: the flag is no rule's name, number for each class, or NAME=NUMBER for some.
    """
    if not given or (len(given) == 1 and given[0] in rules):
        return ()
    named = all("=" in text for text in given)
    names = [text.rpartition("=")[0] for text in given] if named else list(class_names)
    try:
        weights = [float(text.rpartition("=")[2] if named else text) for text in given]
    except ValueError:
        weights = []
    legal = len(weights) == len(names) == len(set(names))
    if not legal or any(weight not in _WEIGHTS for weight in weights):
        raise UserError(
            f"must be {' or '.join(rules)}, or a number {_WEIGHTS} for each of the "
            f"{len(class_names)} classes, or NAME=NUMBER for some of them",
            "class_weights",
            given,
        )
    for name in names:
        if name not in class_names:
            raise UserError(
                f"no class {name!r}{nearest(name, class_names)}; there are "
                f"{', '.join(class_names)}",
                "class_weights",
                given,
            )
    of_names = dict(zip(names, weights, strict=True))
    return tuple(of_names.get(name, 1.0) for name in class_names)


def balanced(counts: np.ndarray) -> tuple[float, ...]:
    """The weights that make all classes count alike, of the number of objects or pixels of each.

    Six digits are enough, and are read back from a run's settings as they were.
    """
    return tuple(float(f"{weight:.6g}") for weight in balanced_weights(counts))


def recorded(run: Path, class_names: Sequence[str]) -> tuple[float, ...]:
    """The weights that a run was trained with; none where `--init-from` alone is evaluated.

    Runs of earlier versions recorded none.

    Raises:
        UserError: they are not as many as there are classes.
    """
    path = run / CONFIG_FILE
    if not path.exists() or KEY not in read_object(path):
        return ()
    (weights,) = flags.recorded(run, **{KEY: _RECORDED})
    if len(weights) not in (0, len(class_names)):
        raise UserError(f"{path}: {len(weights)} {KEY} for {len(class_names)} classes")
    return weights


def described(rule: str, class_names: Sequence[str], weights: Sequence[float]) -> str:
    """A line about the weights that a rule computed; of many classes the ends of their range."""
    shown = sorted(zip(weights, class_names, strict=True))
    if len(shown) > _NAMED:
        (low, first), (high, last) = shown[0], shown[-1]
        listed = f"from {low:g} ({first}) to {high:g} ({last})"
    else:
        listed = ", ".join(f"{n} {w:g}" for n, w in zip(class_names, weights, strict=True))
    return f"class weights ({rule.replace('_', ' ')}): {listed}"
