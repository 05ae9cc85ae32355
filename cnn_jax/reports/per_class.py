"""The figures of each class as data: `per_class.json` in a run's folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import files
from cnn_jax.runs.log import plain

PER_CLASS_FILE = "per_class.json"

Columns = Mapping[str, Sequence[Any] | np.ndarray]
"""The values of each figure, one a class."""


def write_per_class(directory: Path, step: int, names: Sequence[str], columns: Columns) -> None:
    """Write `per_class.json` of an evaluation; what is not known is null.

    Args:
        directory: the run's folder.
        step: the number of updates made.
        names: the classes.
        columns: their figures.
    """
    classes = [
        {"name": name, **{key: plain(values[i]) for key, values in columns.items()}}
        for i, name in enumerate(names)
    ]
    content = {"step": step, "classes": classes}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    files.replace(directory / PER_CLASS_FILE, text + "\n")
