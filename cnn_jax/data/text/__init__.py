"""Sentence pairs: `open` finds the reader that a data spec asks for."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from cnn_jax.data.source import Settings, Split
from cnn_jax.data.text.dates import open_dates
from cnn_jax.data.text.pairs import Pairs, open_pairs
from cnn_jax.data.text.tfds import open_tfds_pairs
from cnn_jax.errors import UserError

FORMATS: dict[str, Callable[[str, Split, Settings], Pairs]] = {
    "dates": open_dates,
    "pairs": open_pairs,
    "tfds": open_tfds_pairs,
}
"""How to open each kind of data spec: what stands before the colon -> (rest, split, settings)."""


def open(spec: str, split: Split, **settings: Any) -> Pairs:
    """Opens one split of the sentence pairs that `spec` names.

    Args:
        spec: `FORMAT` or `FORMAT:ARGUMENT`, with FORMAT a key of `FORMATS`.
        split: which pairs: `train`, `eval` (looked at while training) or `test`.
        **settings: fields of `Settings`.

    Raises:
        UserError: no such format, or the reader's own complaint.
    """
    name, _, argument = spec.partition(":")
    if name not in FORMATS:
        nearest = get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        known = ", ".join(FORMATS)
        raise UserError(f"--data {spec}: unknown format {name!r}; {hint}known: {known}")
    return FORMATS[name](argument, split, Settings(**settings))
