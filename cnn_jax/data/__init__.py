"""Where examples come from: `open` finds the reader that a data spec asks for."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cnn_jax.data.folder import open_folder
from cnn_jax.data.shapes import open_shapes
from cnn_jax.data.source import Settings, Source, Split
from cnn_jax.data.tfds import open_tfds
from cnn_jax.errors import UserError

FORMATS: dict[str, Callable[[str, Split, Settings], Source]] = {
    "shapes": open_shapes,
    "folder": open_folder,
    "tfds": open_tfds,
}
"""How to open each kind of data spec: what stands before the colon -> (rest, split, settings)."""


def open(
    spec: str, split: Split, *, seed: int = 0, image_size: int = 64, **settings: Any
) -> Source:
    """Opens one split of the data that `spec` names.

    Args:
        spec: `FORMAT` or `FORMAT:ARGUMENT`, with FORMAT a key of `FORMATS`.
        split: which examples: `train`, `eval` (looked at while training) or `test`.
        seed: the run's seed, for data that is generated.
        image_size: the side in pixels of generated images; files are read at their own size.
        **settings: the other fields of `Settings`.

    Raises:
        UserError: no such format, or the source's own complaint.
    """
    name, _, argument = spec.partition(":")
    reader = FORMATS.get(name)
    if reader is None:
        raise UserError(_unknown(spec, name))
    return reader(argument, split, Settings(seed=seed, image_size=image_size, **settings))


def _unknown(spec: str, name: str) -> str:
    known = ", ".join(FORMATS)
    if Path(spec).is_dir():
        return f"--data {spec}: a folder of images is given as folder:{spec}"
    nearest = get_close_matches(name, FORMATS, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"--data {spec}: unknown format {name!r}; {hint}known: {known}"
