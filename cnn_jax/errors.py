"""The two ways in which a run ends early for a reason that its user should read in one line."""


class UserError(Exception):
    """A mistake in flags, data or checkpoints: the message names it and says what would be right.

    Entry points print the message as one line on stderr and exit with status 2.
    """


class DivergenceError(Exception):
    """The training loss is no longer finite; entry points exit with status 3."""
