"""The exceptions that end a run with one line for its user."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

_LONGEST = 200
"""The most characters of a parameter's value in a message."""

_LONGEST_LINE = 1200


class UserError(Exception):
    """A mistake in parameters, data or checkpoints; the message names it and says how to fix it.

    Entry points print the message as one line on stderr and exit with status 2.

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

    def __reduce__(self) -> tuple[Any, ...]:
        return UserError, (*self.args, self.parameter, self._value)

    def __str__(self) -> str:
        return self.text()

    def text(self, named: Callable[[str], str] = str) -> str:
        """The whole message, with `named(parameter)` in place of the parameter's name."""
        message = super().__str__()
        if self.parameter is None:
            return one_line(message)
        shown = " ".join(filter(None, (named(self.parameter), self._value)))
        return one_line(f"{shown}: {message}")


def check(legal: bool, parameter: str, value: Any, expected: str) -> None:
    """Raise UserError with the text `PARAMETER VALUE: must be EXPECTED` unless `legal`."""
    if not legal:
        raise UserError(f"must be {expected}", parameter, value)


def one_line(text: str) -> str:
    """The text as one line for a terminal: without its middle where it is long.

    Line ends, control characters and bytes that are no characters, which names of files and texts
    of data may hold, are shown as escapes.
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in _without_middle(text, 4 * _LONGEST_LINE)
    )
    return _without_middle(shown, _LONGEST_LINE)


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-most // 3 :]}"


class DivergenceError(Exception):
    """The training loss is no longer finite; entry points exit with status 3."""


class UnfinishedError(BaseException):
    """A run ended early, as it was asked to; entry points exit with status 75.

    It can be continued. Like KeyboardInterrupt it is no Exception: it may be raised anywhere, and
    is nothing to mend.
    """


def nearest(name: str, legal: Iterable[str]) -> str:
    """The hint `", did you mean A or B?"` for an error message, or "" if no name is near."""
    near = difflib.get_close_matches(name, legal, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
