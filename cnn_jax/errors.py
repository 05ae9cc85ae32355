"""The two ways in which a run ends early for a reason that its user should read in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in flags, data or checkpoints: the message names it and says what would be right.

    Entry points print the message as one line on stderr and exit with status 2.
    """


class DivergenceError(Exception):
    """The training loss is no longer finite; entry points exit with status 3."""


def nearest(name: str, legal: Iterable[str]) -> str:
    """The hint `", did you mean A or B?"` for an error message, or "" if no name is near."""
    near = difflib.get_close_matches(name, legal, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
