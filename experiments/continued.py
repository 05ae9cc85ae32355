"""A run that goes on, or is evaluated again, checked against the one that it was.

Its folder and its data may lie elsewhere than before, and `--data` then says where. Whether they
are the same data is checked by what the run recorded of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from . import options as flags
from .length import Change
from .run import Run

EXAMPLES = "examples_per_epoch"
"""The key of `config.json` for the number of training examples."""


def check_classes(run: Run) -> None:
    """Raise UserError unless the data has the classes that the run in its folder was trained on."""
    names = run.recorded.get("class_names")
    if names is None or not (run.out / CONFIG_FILE).exists():
        return
    (before,) = flags.recorded(run.out, class_names=tuple[str, ...])
    if tuple(names) != before:
        raise UserError(
            f"--data {run.options.data.data}: its classes are {_shortened(names)}; the run in "
            f"{run.out} has {_shortened(before)}"
        )


def check_examples(run: Run, examples_per_epoch: int) -> None:
    """Raise UserError unless a resumed run has as many training examples as before.

    With `--skip-bad-images` it may have others.
    """
    before = read_object(run.out / CONFIG_FILE).get(EXAMPLES, examples_per_epoch)
    lenient = flags.flat(run.options).get("skip_bad_images", False)
    if before != examples_per_epoch and not lenient:
        raise UserError(
            f"--data {run.options.data.data}: has {examples_per_epoch} training examples; the run "
            f"in {run.out} has {before}, and goes on with the same ones"
        )


def length_given_anew(run: Run) -> bool:
    """Tell whether `--steps` or `--epochs` are not those that the run in its folder has."""
    now, before = (options.optimizer for options in (run.options, _before(run)))
    return (now.steps, now.epochs) != (before.steps, before.epochs)


def with_length(run: Run, step: int, steps_per_epoch: float) -> tuple[Run, Change | None]:
    """The run that goes on after `step` updates, and the change of its length, if there is one.

    Raises:
        UserError: it is to have fewer steps than it has made.
    """
    options = run.options
    change = Change.between(_before(run).optimizer, options.optimizer, step, steps_per_epoch)
    if change is None:
        return run, None
    options = dataclasses.replace(options, optimizer=change.recorded(options.optimizer))
    return dataclasses.replace(run, options=options), change


def _before(run: Run) -> Any:
    """The options with the length that the run in its folder has."""
    content = read_object(run.out / CONFIG_FILE)
    return flags.replace(run.options, {k: content[k] for k in ("steps", "epochs") if k in content})


def _shortened(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 100 else f"{text[:100]}..."
