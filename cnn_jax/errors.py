"""The two exceptions that end a run with one line for its user."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

_LONGEST = 200
"""The most characters of a value in a message."""

_LONGEST_MESSAGE = 1200


class UserError(Exception):
    """A mistake in parameters, data or checkpoints; the message names it and says how to fix it.

    Entry points print the message on stderr and exit with status 2. Whatever names and values of a
    user stand in it, it is one line, has a limited length and can be printed.

    Attributes:
        parameter: the name of the parameter that is wrong, if the message is about one. The text is
            then `PARAMETER VALUE: MESSAGE`; an entry point shows its own name for the parameter.
    """

    def __init__(self, message: str, parameter: str | None = None, value: Any = ""):
        """Take the message, and the name and the value of the parameter it is about."""
        super().__init__(message)
        self.parameter = parameter
        shown = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        self._value = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."

    def __str__(self) -> str:
        return self.text()

    def text(self, named: Callable[[str], str] = str) -> str:
        """The whole message, with `named(parameter)` in place of the parameter's name."""
        message = super().__str__()
        if self.parameter is not None:
            message = f"{' '.join(filter(None, (named(self.parameter), self._value)))}: {message}"
        return one_line(message)


def one_line(text: str) -> str:
    """Make a text one printable line: long words are shortened, odd characters are escaped."""
    text = re.sub(rf"(\S{{{_LONGEST}}})\S{{100,}}(\S{{50}})", r"\1...\2", text)
    text = re.sub(r"[\r\n\v\f\x85\u2028\u2029]+", " ", text)
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def check(legal: bool, parameter: str, value: Any, expected: str) -> None:
    """Raise UserError with the text `PARAMETER VALUE: must be EXPECTED` unless `legal`."""
    if not legal:
        raise UserError(f"must be {expected}", parameter, value)


class DivergenceError(Exception):
    """The training loss is no longer finite; entry points exit with status 3."""


def nearest(name: str, legal: Iterable[str]) -> str:
    """The hint `", did you mean A or B?"` for an error message, or "" if no name is near."""
    near = difflib.get_close_matches(name, legal, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
