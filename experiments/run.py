"""A run as an entry point builds it; `experiments.trainer` carries it out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from cnn_jax.data.source import Split
from cnn_jax.reports.rows import RowsFile
from cnn_jax.training import evaluation, loop
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import Task

from .options import RunOptions


@dataclass(frozen=True)
class Run:
    """One run of an entry point.

    Attributes:
        options: all options of the entry point, in groups; among them are `model`, `data`,
            `optimizer` and `run`.
        task: what is trained and evaluated.
        model: the task's network, for the summary and for pretrained weights.
        inputs: the arguments of the network for one example, as shapes and dtypes.
        training_set: opens the training examples: batches, and the number of examples an epoch.
            It is not called where nothing is trained.
        evaluation_set: the held-out examples.
        report: the pictures and the page.
        recorded: what `config.json` holds besides the options, such as the names of the classes.
        files: further texts of the run's folder, by file name.
        notices: lines for the user before the first step.
        trained: the task that is trained, where another than `task` is.
        finish: makes the state of `task` from that of `trained` when training has ended.
        start: makes the first parameters of those that are drawn.
        converted: makes, of the task and its restored state, those that `--eval-only` evaluates.
    """

    options: Any
    task: Task
    model: nn.Module
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    training_set: Callable[[], tuple[loop.Batches, int]]
    evaluation_set: evaluation.EvaluationSet
    report: loop.Report
    recorded: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    notices: Sequence[str] = ()
    trained: Task | None = None
    finish: Callable[[TrainState], TrainState] | None = None
    start: Callable[[Any], Any] | None = None
    converted: Callable[[Task, TrainState], tuple[Task, TrainState]] | None = None

    @property
    def out(self) -> Path:
        """The run's folder."""
        return folder(self.options)


def folder(options: Any) -> Path:
    """The run's folder, which `main` names where no flag does."""
    return Path(options.run.out)


def predictions(options: Any) -> RowsFile | None:
    """The file that `--predictions` names, for the run's report."""
    path = options.run.predictions
    return None if path is None else RowsFile(path)


def evaluated_split(options: Any) -> Split:
    """The split that the run evaluates."""
    return options.run.split if options.run.eval_only else "eval"


def chooses(options: Any) -> bool:
    """Tell whether an evaluation chooses the thresholds that predictions use.

    It does on the split `eval`, with the weights that predict.
    """
    return evaluated_split(options) == "eval" and options.run.weights is None


def reads_training_set(run: RunOptions) -> bool:
    """Tell whether the training examples are read at all."""
    return not run.eval_only or run.recalibrate
