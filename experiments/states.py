"""The states of a run: the first one, those that it keeps, and which of them is used.

checkpoints/STEP/   the newest ones, which `--resume` goes on from
best/STEP/          the one with the best evaluation, where `--best` names a metric
finished/STEP/      what stages after the training made of its last one (R-CNN)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import optax

from cnn_jax.errors import UserError
from cnn_jax.models import published, weights
from cnn_jax.runs.folder import METRICS_FILE, read_rows
from cnn_jax.training import checkpoints, parallel, prng
from cnn_jax.training.backend import compile_single_call
from cnn_jax.training.best import Best
from cnn_jax.training.state import TrainState, create
from cnn_jax.training.step import Task

from . import options as flags
from .options import ModelOptions
from .run import Run

CHECKPOINTS, BEST, FINISHED = "checkpoints", "best", "finished"


def starting_state(
    run: Run, optimizer: optax.GradientTransformation, second_save: int
) -> tuple[TrainState, list[str]]:
    """The state that training goes on from, and notices for the user.

    It is fresh from the seed, has the weights of `--init-from`, or with `--resume` is the newest
    whole checkpoint. A run that was killed before `second_save`, the step of its second checkpoint,
    may have none, and starts anew.
    """
    options, task = run.options, run.trained or run.task
    averaged = bool(options.optimizer.lookahead) or options.optimizer.ema is not None
    notices: list[str] = []
    if options.run.resume and not _never_saved(run, second_save):
        state, _ = checkpoints.restore(
            run.out / CHECKPOINTS,
            state_shapes(task, optimizer, averaged),
            notify=notices.append,
        )
        return state, notices
    state = fresh_state(task, optimizer, options.run.seed, averaged)
    if options.run.resume:
        notices.append(f"{run.out}: no checkpoint yet; starting from the first step")
    if options.model.init_from is not None:
        params, model_state = initialized(task, run.model, state, options.model, notices.append)
    elif run.start is not None:
        # The same on every process, though their machines may round in other ways.
        params, model_state = parallel.as_first(run.start(state.params)), state.model_state
    else:
        return state, notices
    return create(params, model_state, optimizer, ema=averaged), notices


def _never_saved(run: Run, second_save: int) -> bool:
    """Tell whether the run was killed before it saved a state; False where checkpoints are lost."""
    if checkpoints.steps(run.out / CHECKPOINTS):
        return False
    rows = read_rows(run.out / METRICS_FILE) if (run.out / METRICS_FILE).exists() else []
    return all(row["step"] <= second_save for row in rows)


@dataclass(frozen=True)
class Kept:
    """A state that a run has kept.

    Attributes:
        name: `best`, `last`, or `finished` of a run with stages after its training.
        directory: where it lies, as a checkpoint.
    """

    name: str
    directory: Path

    @property
    def step(self) -> int | None:
        """The number of updates that it had; None where it is not there."""
        return max(checkpoints.steps(self.directory), default=None)

    @property
    def folder(self) -> Path:
        """The folder of what belongs to it, see `folders_of`."""
        return self.directory if self.name == "best" else self.directory.parent

    @property
    def evaluation(self) -> str:
        """The flags that evaluate it again."""
        asked = "" if self.name == "finished" else f" --state {self.name}"
        return f"--eval-only --out {self.directory.parent}{asked}"

    def __str__(self) -> str:
        return f"{self.name} (step {self.step})"

    def told(self, state: TrainState) -> str:
        """The line for the user about what was read of it: an earlier one if it is damaged."""
        return f"state: {self.name} (step {int(state.step)})"


def kept(out: Path, asked: Literal["best", "last"] | None = None) -> Kept:
    """The state of a run that is evaluated, and that predicts.

    It is the one of `--state`, by default the best where the run keeps it, else the last.

    Raises:
        UserError: the run has none, or not the one that is asked for.
    """
    if checkpoints.steps(out / FINISHED):
        if asked is not None:
            raise UserError(f"--state {asked}: {out} has one state, which its last stage made")
        return Kept("finished", out / FINISHED)
    has_best = bool(checkpoints.steps(out / BEST))
    if asked == "best" and not has_best:
        raise UserError(f"--state best: {out} has none; --best METRIC keeps it while training")
    if has_best and asked != "last":
        return Kept("best", out / BEST)
    return Kept("last", out / CHECKPOINTS)


def folders_of(out: Path, step: int) -> list[Path]:
    """The folders for what belongs to the state that was evaluated after `step` updates.

    They are `best/` where that state lies there, and the run's own unless a later one is saved.
    """
    best, last = (checkpoints.steps(out / name)[-1:] for name in (BEST, CHECKPOINTS))
    if best != (step,):
        return [out]
    return [out / BEST] if last > best else [out, out / BEST]


def evaluated_state(run: Run) -> tuple[TrainState, list[str]]:
    """The state to evaluate, without an optimizer: one that the run kept, or `--init-from`.

    The second value holds notices: which state it is, and which checkpoints are damaged.

    Raises:
        UserError: neither is there, it does not fit, or training has not ended that makes it.
    """
    options = run.options
    trained = checkpoints.steps(run.out / CHECKPOINTS)
    if run.finish is not None and trained and not checkpoints.steps(run.out / FINISHED):
        raise UserError(f"{run.out}: its stages have not all ended; --resume goes on with them")
    if trained:
        found = kept(run.out, options.run.state)
        state, notices = restored(run.task, found.directory, options.run.weights)
        return state, [found.told(state), *notices]
    if options.model.init_from is None:
        raise UserError(f"--eval-only: no checkpoint in {run.out}, and no --init-from")
    if options.run.weights is not None:
        raise UserError(f"--weights {options.run.weights}: is of a run in --out")
    state = fresh_state(run.task, optax.identity(), options.run.seed)
    notices = [f"state: {options.model.init_from}"]
    params, model_state = initialized(run.task, run.model, state, options.model, notices.append)
    return create(params, model_state, optax.identity()), notices


def restored(
    task: Task, directory: Path, weights: Literal["raw", "ema"] | None = None
) -> tuple[TrainState, list[str]]:
    """The state that the newest whole checkpoint of a folder evaluates with.

    The average takes the place of the parameters where the run keeps one, unless `weights` is
    `raw`. The second value holds a notice for each damaged checkpoint.

    Raises:
        UserError: there is none, or it has no average and `weights` is `ema`.
    """
    notices: list[str] = []
    like = state_shapes(task, optax.identity())
    averaged = any(path.startswith("ema/") for path in checkpoints.leaves(directory))
    if weights == "ema" and not averaged:
        raise UserError(f"--weights ema: {directory} has no average; --ema X keeps one in training")
    averaged = averaged and weights != "raw"
    if averaged:
        wanted: dict[str, Any] = {"step": like.step, "ema": (like.params, like.model_state)}
    else:
        wanted = {"step": like.step, "params": like.params, "model_state": like.model_state}
    stored, _ = checkpoints.restore(directory, wanted, only=tuple(wanted), notify=notices.append)
    params, model_state = stored["ema"] if averaged else (stored["params"], stored["model_state"])
    state = like.replace(
        step=stored["step"], params=params, model_state=model_state, opt_state=optax.EmptyState()
    )
    return state, notices


def initialized(
    task: Task,
    model: nn.Module,
    state: TrainState,
    options: ModelOptions,
    notify: Callable[[str], None],
) -> tuple[Any, Any]:
    """The parameters and model state of `--init-from`: a run's, a file's, or those of a name."""
    path = Path(options.init_from)
    if (path / CHECKPOINTS).is_dir():
        other, _ = restored(task, kept(path).directory)
        return other.params, other.model_state
    path = published.located(options.init_from, options.model, options.weights_dir, notify)
    variables = state.variables
    variables = dict(weights.load(path, model, variables, options.init_head, notify=flags.warn))
    return variables.pop("params"), variables


def fresh_state(
    task: Task, optimizer: optax.GradientTransformation, seed: int, ema: bool = False
) -> TrainState:
    """Draw the state before the first step."""
    draw = compile_single_call(partial(_drawn, task, optimizer, ema))
    return draw(prng.stream(prng.root(seed), "init"))


def state_shapes(
    task: Task, optimizer: optax.GradientTransformation, ema: bool = False
) -> TrainState:
    """The shapes and dtypes of a state."""
    return jax.eval_shape(partial(_drawn, task, optimizer, ema), prng.root(0))


def _drawn(
    task: Task, optimizer: optax.GradientTransformation, ema: bool, key: jax.Array
) -> TrainState:
    return create(*task.init(key), optimizer, ema=ema)


def best_keeper(run: Run, step: int) -> Best | None:
    """The keeper of the best state, which knows the evaluations up to a resumed step."""
    metric = run.options.run.best
    if metric is None:
        return None
    rows = read_rows(run.out / METRICS_FILE) if step else []
    earlier = {
        row["step"]: row[metric]
        for row in rows
        if row["split"] == "eval" and row["step"] <= step and metric in row
    }
    return Best(metric, run.out / BEST, run.options.run.patience, earlier)
