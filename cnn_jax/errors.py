"""The two exceptions that end a run with one line for its user."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in parameters, data or checkpoints; the message names it and says how to fix it.

    Entry points print the message as one line on stderr and exit with status 2.
    """


class DivergenceError(Exception):
    """The training loss is no longer finite; entry points exit with status 3."""


def nearest(name: str, legal: Iterable[str]) -> str:
    """The hint `", did you mean A or B?"` for an error message, or "" if no name is near."""
    near = difflib.get_close_matches(name, legal, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
