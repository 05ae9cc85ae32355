"""Sentence pairs: `open_sentence_pairs` selects the reader for a data spec."""

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
"""The readers by format name, the part of a data spec before the colon; arguments: the rest of the
spec, the split and the settings."""


def open_sentence_pairs(spec: str, split: Split, **settings: Any) -> Pairs:
    """Open one split of the sentence pairs that `spec` names.

    Args:
        spec: `FORMAT` or `FORMAT:ARGUMENT`, with FORMAT a key of `FORMATS`.
        split: `train`, `eval` (evaluated during training) or `test`.
        **settings: fields of `Settings`.

    Raises:
        UserError: the format is unknown, or its reader raised the error.
    """
    name, _, argument = spec.partition(":")
    if name not in FORMATS:
        nearest = get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        known = ", ".join(FORMATS)
        raise UserError(f"--data {spec}: unknown format {name!r}; {hint}known: {known}")
    return FORMATS[name](argument, split, Settings(**settings))
