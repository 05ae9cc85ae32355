"""The steps of a run that `--profile` records."""

import re

from cnn_jax.errors import UserError

from .options import RunOptions

PROFILE = "profile"
"""The folder of a run in which the recordings are."""


def profiled_steps(options: RunOptions) -> range:
    """The steps of `--profile START:STOP`, by the number of updates before each; empty for none.

    Raises:
        UserError: they are no steps.
    """
    given = options.profile
    if given is None:
        return range(0)
    matched = re.fullmatch("([0-9]{1,18}):([0-9]{1,18})", given)
    if matched is None:
        raise UserError(f"--profile {given}: give START:STOP, such as 20:30 for ten steps")
    first, last = map(int, matched.groups())
    if first >= last:
        raise UserError(f"--profile {given}: START must be below STOP")
    return range(first, last)


def check_profiled(steps: range, total: int) -> None:
    """Raise UserError unless all of the steps are among the `total` of the run."""
    if steps and steps.stop > total:
        given = f"--profile {steps.start}:{steps.stop}"
        raise UserError(f"{given}: the run has {total} steps, and STOP is at most that")


def made_before(steps: range, step: int) -> list[str]:
    """The notice for a run that goes on after `step` updates, if some of the steps were before."""
    missed = len(range(steps.start, min(steps.stop, step)))
    if not missed:
        return []
    return [f"--profile: {missed} of {len(steps)} steps were made before, and are not recorded"]
