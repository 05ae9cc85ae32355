"""The length of a run, and a run that is made longer.

`--resume --steps N` (or `--epochs N`) gives a run another length. Where the learning rate depends
on the length, `config.json` keeps the lengths that the run had, and until when: so the learning
rate stays a function of the options and the step, and the run can be repeated from its file.
"""

import dataclasses

import optax

from cnn_jax.errors import UserError
from cnn_jax.ranges import LARGEST_INT

from .options import OptimizerOptions

DEFAULT_EPOCHS = 30


def total_steps(options: OptimizerOptions, steps_per_epoch: float) -> int:
    """Length of the run in steps: `--steps`, `--epochs`, or 30 epochs.

    Raises:
        UserError: both are given, or nothing would be trained, or more than can be counted.
    """
    if options.steps is not None and options.epochs is not None:
        raise UserError("--steps and --epochs: give one of them")
    if options.steps is not None:
        return options.steps
    epochs = options.epochs or DEFAULT_EPOCHS
    steps = round(epochs * steps_per_epoch)
    if steps == 0:
        raise UserError(
            f"--epochs {epochs:g}: less than half a batch of examples in all; "
            "must be more epochs, a smaller --batch-size, or --steps"
        )
    if steps > LARGEST_INT:
        raise UserError(f"--epochs {epochs:g}: {steps} steps; there must be 1 to {LARGEST_INT}")
    return steps


def _depends_on_length(options: OptimizerOptions) -> bool:
    """Tell whether what a step does depends on the length of the run."""
    return options.schedule != "constant" or options.lookahead > 0


@dataclasses.dataclass(frozen=True)
class Change:
    """Another length for a run that goes on.

    Attributes:
        step: the number of updates that are made.
        before, after: the two lengths, in steps.
    """

    step: int
    before: int
    after: int

    @classmethod
    def between(
        cls, before: OptimizerOptions, now: OptimizerOptions, step: int, steps_per_epoch: float
    ) -> "Change | None":
        """The change that a run's new options make after `step` updates; None if there is none.

        Raises:
            UserError: the run is to have fewer steps than it has made.
        """
        old, new = (total_steps(options, steps_per_epoch) for options in (before, now))
        if new < step:
            given = f"--steps {new}" if now.steps else f"--epochs {now.epochs:g} ({new} steps)"
            raise UserError(f"{given}: the run has made {step} already, and can be made longer")
        return None if old == new else cls(step, old, new)

    def recorded(self, options: OptimizerOptions) -> OptimizerOptions:
        """The options of which the learning rate is a function, before the change and after it."""
        if not _depends_on_length(options) or not self.step:
            return options
        earlier = zip(options.lengthened_at, options.lengths_before, strict=True)
        kept = [(at, length) for at, length in earlier if at < self.step]
        at, lengths = zip(*kept, (self.step, self.before), strict=True)
        return dataclasses.replace(options, lengthened_at=at, lengths_before=lengths)

    def line(self, options: OptimizerOptions, learning_rate: optax.Schedule) -> str:
        """The notice for the user: what the learning rate does from here."""
        begin = f"length: {self.before} steps become {self.after}"
        if not _depends_on_length(options) or not self.step:
            return f"{begin}; the run becomes that of {self.after} steps from its start"
        last, now, end = (
            f"{float(learning_rate(step)):.4g}"
            for step in (self.step - 1, self.step, self.after - 1)
        )
        if self.step == self.after:
            return f"{begin}, which are made"
        return (
            f"{begin}; from step {self.step} on the schedule ({options.schedule}) is that of "
            f"{self.after} steps: the learning rate was {last}, is {now} now and {end} at the end. "
            "A run that had this length from its start ends in other bits"
        )
