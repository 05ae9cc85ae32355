"""The two exceptions that end a run with one line for its user."""


class UserError(Exception):
    """A mistake in parameters, data or checkpoints; the message names it and says how to fix it.

    Entry points print the message as one line on stderr and exit with status 2.
    """


class DivergenceError(Exception):
    """The training loss is no longer finite; entry points exit with status 3."""
