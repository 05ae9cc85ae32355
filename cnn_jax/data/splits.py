"""The names that data sets give their splits: one table for all formats."""

import re
from collections.abc import Iterable
from typing import Literal

from cnn_jax.data.source import Split
from cnn_jax.errors import UserError

Kind = Literal["train", "val", "test"]

KINDS: dict[Split, tuple[Kind, ...]] = {
    "train": ("train",),
    "eval": ("val", "test"),
    "test": ("test", "val"),
}
"""The kinds of names that serve as a split, best first."""

NAMES: dict[Kind, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "development"),
    "test": ("test", "testing"),
}
"""The names of each kind, in any case; `set`, `data`, `images` or a year may follow them."""

_KIND_OF = {name: kind for kind, names in NAMES.items() for name in names}
_FORM = re.compile(r"([a-z]+?)[ _.-]*(?:set|data|dataset|images|imgs|split)?[ _.-]*(?:\d{4})?")


def kind_of(name: str) -> Kind | None:
    """The kind of split that a name means: `Training_Set` and `train2017` are `train`; else None.

    A number other than a year makes it another name, such as `test2` or `train 1`.
    """
    match = _FORM.fullmatch(name.casefold())
    return _KIND_OF.get(match[1]) if match else None


def by_kind(names: Iterable[str], place: str) -> dict[Kind, str]:
    """Find the name of each kind of split; `place` is for the message.

    Raises:
        UserError: two names mean the same split.
    """
    found: dict[Kind, str] = {}
    for name in sorted(names):
        kind = kind_of(name)
        if kind is None:
            continue
        if kind in found:
            raise UserError(
                f"{place}: {found[kind]} and {name} both mean the split {kind!r}; keep one of them"
            )
        found[kind] = name
    return found


def serving(split: Split, found: dict[Kind, str]) -> str | None:
    """The name that serves as `split`: `val` for `eval`, else `test`; None if there is none."""
    return next((found[kind] for kind in KINDS[split] if kind in found), None)
