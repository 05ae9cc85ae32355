"""Carry an experiment out: train a task to the end of its run, or only evaluate it.

What an entry point adds is in `Experiment`; everything here is the same for every task.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from cnn_jax import files
from cnn_jax.models import summary
from cnn_jax.runs.folder import CONFIG_FILE, METRICS_FILE, read_rows
from cnn_jax.runs.log import RunLog
from cnn_jax.training import loop, parallel, prng
from cnn_jax.training.recalibration import recalibrated
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Task

from . import runs


@runtime_checkable
class Report(Protocol):
    """What draws the pictures and the page of a task's runs."""

    def select(self, batch: loop.HostBatch, predictions: Any) -> None:
        """Look for what to show in a batch of an evaluation."""
        ...

    def write(self, step: int, evaluation: loop.Evaluation) -> None:
        """Write what has been selected since the last call."""
        ...


@dataclass(frozen=True)
class Experiment:
    """One run of an entry point.

    Attributes:
        verb: the entry point's name.
        options: all of its options: groups `model`, `data`, `optimizer` and `run` among them.
        out: the run's folder.
        task: what is trained.
        evaluation_set: the held-out examples.
        training_set: opens the training examples: batches, and how many examples an epoch has.
            Not called where there is nothing to train.
        report: draws what the run shows.
        input_shape: of a batch of one example as the network sees it, for the model's summary.
        inputs: what the network takes, where that is not one float32 array of `input_shape`.
        recorded: what `config.json` holds besides the options, such as the names of the classes.
        files: texts that stand beside it, by the name of the file.
        best: the metric, higher is better, by which the best evaluated state is kept in `best/`.
        notices: what the user should know before the first step, a line each.
        converted: makes of a task and its restored state what is evaluated in their place.
        evaluate_last: whether the trained state is evaluated, or left to what comes after.
    """

    verb: str
    options: Any
    out: Path
    task: Task
    evaluation_set: loop.EvaluationSet
    training_set: Callable[[], tuple[loop.Batches, int]]
    report: Report
    input_shape: tuple[int, ...]
    inputs: tuple[jax.ShapeDtypeStruct, ...] = ()
    recorded: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    best: str | None = None
    notices: Sequence[str] = ()
    converted: Callable[[Task, TrainState], tuple[Task, TrainState]] | None = None
    evaluate_last: bool = True

    def carry_out(self) -> Path:
        """Train, or only evaluate, as the options say; returns the run's folder."""
        if self.options.run.eval_only:
            self._evaluate_only()
        else:
            self._train()
        return self.out

    def _train(self) -> None:
        """Train from the first state, or the newest checkpoint, to the end."""
        options, task = self.options, self.task
        batches, examples_per_epoch = self.training_set()
        steps_per_epoch = examples_per_epoch / options.data.batch_size
        total = runs.total_steps(options.optimizer, steps_per_epoch)
        optimizer, learning_rate = runs.build_optimizer(options.optimizer, total, steps_per_epoch)
        state, notices = runs.starting_state(task, optimizer, self.out, options)
        plan = runs.plan(options.optimizer, options.data, options.run, total)
        with RunLog(
            self.out,
            total_steps=total,
            resumed_step=int(state.step) if options.run.resume else None,
            enabled=jax.process_index() == 0,
        ) as log:
            self._describe(log)
            for notice in (*self.notices, *notices):
                log.message(notice)
            if log.enabled:
                counts = summary.summarize(
                    task.model,
                    *(self.inputs or (jax.ShapeDtypeStruct(self.input_shape, jnp.float32),)),
                    variables={"params": state.params, **state.model_state},
                    optimizer=optimizer,
                )
                size = "x".join(map(str, self.input_shape[1:]))
                summary.print_summary(counts, log.console, f"{options.model.model}, {size}")
            loop.train(
                state,
                task,
                optimizer,
                batches,
                self.evaluation_set,
                dataclasses.replace(plan, evaluate_last=self.evaluate_last),
                log,
                prng.root(options.run.seed),
                self.out / runs.CHECKPOINTS,
                learning_rate=learning_rate,
                watch=self.report.select if log.enabled else None,
                on_evaluation=self.report.write if log.enabled else None,
                best=self._best(int(state.step)),
            )

    def _evaluate_only(self) -> None:
        """Evaluate the newest checkpoint, or `--init-from`; the row joins the run's others."""
        options = self.options
        task = self.task
        state, notices = runs.evaluated_state(task, self.out, options)
        if options.run.recalibrate:
            batches, examples = self.training_set()
            steps = -(-examples // options.data.batch_size)
            state = recalibrated(state, task, batches, steps, prng.root(options.run.seed))
        if self.converted is not None:
            task, state = self.converted(task, state)
        evaluation = loop.evaluate(
            task,
            parallel.compile_evaluation_step(task),
            parallel.replicate(state),
            self.evaluation_set,
            watch=self.report.select,
        )
        step, first = int(state.step), jax.process_index() == 0
        with RunLog(self.out, total_steps=step, appended=True, enabled=first) as log:
            if not (self.out / CONFIG_FILE).exists():
                self._describe(log)
            for notice in notices:
                log.message(notice)
            log.report(step, options.run.split, evaluation.metrics)
            if log.enabled:
                self.report.write(step, evaluation)

    def _best(self, step: int) -> loop.Best | None:
        """What keeps the best state, knowing the evaluations up to a resumed step."""
        if self.best is None:
            return None
        rows = read_rows(self.out / METRICS_FILE) if step else []
        earlier = [
            row[self.best]
            for row in rows
            if row["split"] == "eval" and row["step"] <= step and row.get(self.best) is not None
        ]
        return loop.Best(self.best, self.out / runs.BEST, max(earlier, default=-math.inf))

    def _describe(self, log: RunLog) -> None:
        log.write_config(runs.config(self.verb, self.options, self.recorded))
        log.write_environment()
        if log.enabled:
            for name, content in self.files.items():
                files.replace(self.out / name, content)
