"""The loop: batches in, state and rows of metrics out.

Order at a step's end: report, save, evaluate, stop. A run interrupted at any point and resumed goes
through the same states as one that was not: batch k and every key are functions of (seed, k). It
writes the same rows too: a checkpoint holds the sums of an interval that has not ended, and what
was due at its step and is not written is written first.

A thread writes checkpoints, and computes the metrics of an evaluation and draws its pictures, while
the next steps run. Rows keep their order: those of steps made meanwhile wait for it, and no newer
state is saved before they are written.

Where the state of the best evaluation is kept, every state is saved before it is evaluated. So a
run never goes back before the best one, whose predecessor is gone. Where evaluations without a
better figure end the run, it waits for the metrics of each, and ends at the same step every time.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax

from cnn_jax.errors import DivergenceError, UnfinishedError, check
from cnn_jax.runs import folder as run_folder
from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints, parallel, stopping
from cnn_jax.training.averaging import Average
from cnn_jax.training.background import Background
from cnn_jax.training.best import Best
from cnn_jax.training.clock import DeviceClock, Times, busy, in_row, main_cause, summary, warning
from cnn_jax.training.evaluation import Evaluation, EvaluationSet, collect
from cnn_jax.training.feeding import Batches, FromDevice, FromHost, HostBatch
from cnn_jax.training.profiling import Profile
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Sums, Task


@dataclass(frozen=True)
class Plan:
    """The length of a run and the periods of its events, in steps (0: only at the end).

    Attributes:
        total_steps: length of the run.
        report_every, evaluate_every, checkpoint_every: periods.
        keep: number of checkpoints kept.
        accumulate: parts that each batch is worked through in.
        average: the average over steps that is kept, or None.
        batch_size: examples a step, over all devices.
        evaluate_last: whether the last state is evaluated too.
        transform: see `parallel.Transform`.
    """

    total_steps: int
    batch_size: int
    report_every: int = 50
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 3
    accumulate: int = 1
    average: Average | None = None
    evaluate_last: bool = True
    transform: parallel.Transform = "pmap"

    def __post_init__(self) -> None:
        check(self.keep >= 1, "keep", self.keep, "1 or more")
        for name in ("report_every", "evaluate_every", "checkpoint_every"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")

    def reports(self, step: int) -> bool:
        """Tell whether the training metrics are reported after `step` updates."""
        return self._due(step, self.report_every)

    def evaluates(self, step: int) -> bool:
        """Tell whether the state after `step` updates is evaluated."""
        if step == self.total_steps and not self.evaluate_last:
            return False
        return self._due(step, self.evaluate_every)

    def saves(self, step: int) -> bool:
        """Tell whether the state after `step` updates is saved, even if nothing stops the run."""
        return self._due(step, self.checkpoint_every)

    def until_event(self, step: int) -> int:
        """The number of steps after `step` to the next at which something happens, or the end."""
        periods = (self.report_every, self.evaluate_every, self.checkpoint_every)
        left = [every - step % every for every in periods if every > 0]
        return min(self.total_steps - step, *left)

    def _due(self, step: int, every: int) -> bool:
        return step == self.total_steps or (step > 0 and every > 0 and step % every == 0)


@runtime_checkable
class Report(Protocol):
    """The pictures and the page of a run."""

    def select(self, batch: HostBatch, predictions: Any) -> None:
        """Pick what to show from a batch of an evaluation."""
        ...

    def write(self, step: int, evaluation: Evaluation) -> None:
        """Write what was selected since the last call."""
        ...


@dataclass(frozen=True)
class Training:
    """The parts of a training: task, optimizer, examples and plan.

    Attributes:
        task: see `Task`.
        optimizer: the gradient transformation.
        batches: the training examples.
        evaluation_set: the held-out examples.
        plan: how long the run is and how often things happen.
        learning_rate: reported with the training metrics.
        on_device: whether all examples lie on the device; the batches are a `WholeSet` then.
    """

    task: Task
    optimizer: optax.GradientTransformation
    batches: Batches
    evaluation_set: EvaluationSet
    plan: Plan
    learning_rate: optax.Schedule | None = None
    on_device: bool = False


@dataclass(frozen=True)
class Outputs:
    """The destinations of the results of a run.

    Attributes:
        log: the rows of metrics.
        checkpoints: the folder of the states that are saved.
        report: pictures and pages, or None.
        best: keeps the state with the best evaluation, and may end the run, or None.
        advice: by activity of `cnn_jax.training.clock`, what helps where the device waits for it.
        profile: records some of the steps, or None.
    """

    log: RunLog
    checkpoints: Path
    report: Report | None = None
    best: Best | None = None
    advice: Mapping[str, str] = field(default_factory=dict)
    profile: Profile | None = None


def train(
    state: TrainState, training: Training, outputs: Outputs, key: jax.Array
) -> tuple[TrainState, bool]:
    """Train from `state.step` to the plan's end, or until a signal asks to stop.

    The signals are SIGTERM, SIGUSR1 and the first Ctrl-C.

    Args:
        state: the first state, fresh or restored.
        training: what is trained.
        outputs: where results go.
        key: the run's root key.

    Returns:
        The last state, and whether the run has ended: it reached the plan's end or the end of the
        patience for a better evaluation, and nothing asked it to stop.

    Raises:
        DivergenceError: the loss is not finite; the last good checkpoint is left as it is.
        UserError: the data cannot be read, or the disk is full. Whatever fails between two steps,
            the state after the last one is saved first, where one process has the run to itself.
            Several cannot agree on a step then; they save before every evaluation instead.
    """
    task, plan, log = training.task, training.plan, outputs.log
    evaluation_step = parallel.compile_evaluation_step(task, transform=plan.transform)
    watch = None if outputs.report is None else outputs.report.select
    step = int(state.step)
    saved = step  # A fresh state is a function of the seed, a restored one is on disk already.
    state, key = parallel.replicate((state, key))
    stored = outputs.checkpoints
    resumed = step in checkpoints.steps(stored)
    interval = _Interval(
        task, plan.batch_size, checkpoints.interval(stored, step) if resumed else {}
    )
    saves_first = outputs.best is not None or not parallel.alone()
    profile = outputs.profile or Profile(range(0), log.directory)
    background, clock = Background(), DeviceClock()
    waiting: list[tuple[int, dict[str, float]]] = []  # rows of training, for an evaluation's
    finishing = False  # whether an evaluation's metrics and pictures are being made
    told: set[str] = set()  # causes of lost time

    def settle() -> None:
        """Wait for the work in the background, and write the rows that waited for it."""
        nonlocal finishing
        with clock.during("evaluation" if finishing else "saving"):
            background.join()
            checkpoints.raise_together(stored, saved, background.failure)
        finishing = False
        while waiting:
            log.report(waiting[0][0], "train", waiting[0][1])
            del waiting[0]

    def save() -> None:
        nonlocal saved
        interval.check(step)
        if saved == step:
            return
        settle()
        with clock.during("saving"):
            if log.enabled:
                job = partial(
                    checkpoints.write,
                    stored,
                    step,
                    checkpoints.on_host(state),
                    keep=plan.keep,
                    scheduled=plan.saves,
                    interval=checkpoints.on_host(interval.sums),
                )
                background.submit(job)
        saved = step

    def report_now() -> None:
        with clock.during("reporting"):
            row = interval.row(step)
            if training.learning_rate is not None:
                row["learning_rate"] = float(training.learning_rate(step - 1))
            times = clock.take()
            row |= {"device_busy": busy(times), **in_row(times)}
            if finishing:
                waiting.append((step, row))
            else:
                log.report(step, "train", row)
            # Only now: where the report fails, the sums are saved with the state.
            interval.restart()
        cause = main_cause(clock.total)
        if cause is not None and cause not in told:
            told.add(cause)
            log.message(warning(clock.total, cause, outputs.advice.get(cause)))

    def turn_profile(turn: Callable[[Any], None]) -> None:
        with interval.paused(), clock.during("reporting"):
            turn(state)

    def evaluate_now(stop: threading.Event) -> bool:
        """Evaluate the state; return whether the evaluation was stopped."""
        nonlocal finishing
        log.phase("evaluating")
        batches = training.evaluation_set
        with clock.during("evaluation"):
            if finishing:
                settle()
            try:
                summarize = collect(task, evaluation_step, state, batches, clock, watch, stop)
            except UnfinishedError:
                return True
        # Where the state is saved, what fails later leads back to it. Several processes would have
        # to agree on that.
        finishing = saved == step and parallel.alone()
        kept = checkpoints.on_host(state) if finishing and outputs.best is not None else state
        finish = partial(_finish, outputs, step, kept, summarize, clock.take())
        if finishing:
            background.submit(finish)
        else:
            with clock.during("evaluation"):
                finish()
        return False

    def gives_up() -> bool:
        """Tell whether the evaluations so far end the run."""
        best = outputs.best
        if best is None or best.patience is None:
            return False
        settle()
        if best.exhausted and step < plan.total_steps:
            log.message(
                f"ended at step {step} of {plan.total_steps}: {best.without_improvement} "
                f"evaluations without a better one; {best}"
            )
        return best.exhausted

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    with (
        stopping.noted(*signals) as stop,
        closing(clock),
        background,
        profile,
        _saving_on_failure(save),
    ):
        stopped = False
        if resumed:
            checkpoints.tidy(stored, step, keep=plan.keep, scheduled=plan.saves)
            if interval.sums is not None and plan.reports(step):
                report_now()
            evaluated = log.enabled and run_folder.evaluated(log.directory, step)
            if plan.evaluates(step) and not parallel.as_first(evaluated):
                with interval.paused():
                    stopped = evaluate_now(stop)
        stopped = stopped or (stop.is_set() and parallel.alone())
        ends = resumed and not stopped and gives_up()
        feed = (FromDevice if training.on_device else FromHost)(
            task,
            training.optimizer,
            training.batches,
            step,
            clock,
            accumulate=plan.accumulate,
            average=plan.average,
            transform=plan.transform,
        )
        while step < plan.total_steps and not (stopped or ends):
            most = min(plan.until_event(step), profile.until_turn(step))
            if profile.begins(step):
                turn_profile(profile.begin)
            with profile.step(step):
                state, interval.sums, made = feed.advance(state, interval.sums, key, most)
            step += made
            interval.steps += made
            if profile.ends(step):
                turn_profile(profile.end)
            log.advance(step)
            if plan.reports(step):
                report_now()
            # Several processes learn of a failure together, when they save.
            finished = finishing and background.idle
            if parallel.alone() and (finished or background.failure is not None):
                settle()
            stopped = parallel.agreed_stop(stop.is_set())
            evaluating = plan.evaluates(step) and not stopped
            with interval.paused():
                if stopped or plan.saves(step) or (evaluating and saves_first):
                    save()
                if evaluating:
                    stopped = evaluate_now(stop)
                    if stop.is_set() and parallel.alone():
                        save()
                        stopped = True
                    ends = not stopped and gives_up()
        settle()
        clock.take()
        log.message(summary(clock.total))
        if stopped:
            log.message(f"stopped at step {step} of {plan.total_steps}; --resume continues")
    return state, not stopped


def _finish(
    outputs: Outputs,
    step: int,
    state: TrainState,
    summarize: Callable[[], Evaluation],
    times: Times,
) -> None:
    """Compute the metrics of an evaluation, and write all that comes of it."""
    evaluation = summarize()
    # The row after the state and the result after all: a resumed run sees what is missing.
    if outputs.best is not None:
        outputs.best.offer(step, state, evaluation.metrics)
    outputs.log.report(step, "eval", {**evaluation.metrics, **in_row(times)})
    if outputs.report is not None:
        outputs.report.write(step, evaluation)
        outputs.log.report_pictures(step, "eval")
    outputs.log.write_result(step, "eval", evaluation.metrics)


class _Interval:
    """Sums and time since the last report. Values stay on the device until the report.

    Args:
        task: what computes a row of the sums.
        batch_size: examples a step.
        sums: those that were saved with the state; empty where there were none.
    """

    def __init__(self, task: Task, batch_size: int, sums: Sums) -> None:
        self._task, self._batch_size = task, batch_size
        self.restart()
        self.sums: Sums | None = sums or None

    def restart(self) -> None:
        """Begin the next interval."""
        self.sums, self.steps = None, 0
        self._started = time.perf_counter()

    def check(self, step: int) -> None:
        """Raise DivergenceError when the loss of a step since the last report was not finite."""
        if self.sums is not None and not math.isfinite(float(self.sums["loss"])):
            raise DivergenceError(
                f"the training loss is not finite by step {step}; the last good checkpoint is "
                "kept; a lower --learning-rate or --clip-norm 1 may help"
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the rate of training."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began

    def row(self, step: int) -> dict[str, float]:
        """Compute the metrics of the interval."""
        sums = jax.tree.map(np.asarray, self.sums)
        self.check(step)
        elapsed = time.perf_counter() - self._started
        row = self._task.summarize(sums).metrics
        row["gradient_norm"] = float(sums["gradient_norm"] / sums["steps"])
        row["examples_per_second"] = self.steps * self._batch_size / elapsed
        return row


@contextmanager
def _saving_on_failure(save: Callable[[], None]) -> Iterator[None]:
    """Call `save` where something fails inside, and let the first failure be the one that is told.

    A save of several processes needs all of them, and only one may have failed.
    """
    try:
        yield
    except Exception:
        if parallel.alone():
            with suppress(Exception):
                save()
        raise
