"""A run from its options to its last evaluation. It reads from top to bottom.

1. `Run` is what an entry point builds from its options.
2. `main` parses the flags, prepares the devices, builds the run and starts it.
3. `execute`, `train` and `evaluate` do what the options ask for.
4. The state that training starts from, or that is evaluated.
5. The length of the run, its optimizer and its schedule.
6. What entry points call to read their data.
"""

import contextlib
import datetime
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import numpy as np
import optax

from cnn_jax import files, memory
from cnn_jax.data import FORMATS, Formats
from cnn_jax.data import open_source as open_data
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.packed import prepared
from cnn_jax.data.readers import Readers, suitable_readers
from cnn_jax.data.source import Source, Split, Transform, find_bad_images, without
from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.models import summary, weights
from cnn_jax.ranges import LARGEST_INT
from cnn_jax.reports.rows import RowsFile
from cnn_jax.runs.claim import claimed
from cnn_jax.runs.folder import CONFIG_FILE, METRICS_FILE, evaluated, read_rows
from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints, evaluation, loop, optimizers, parallel, prng, stopping
from cnn_jax.training.backend import keep_freed_memory
from cnn_jax.training.feeding import WholeSet
from cnn_jax.training.recalibration import recalibrated
from cnn_jax.training.state import TrainState, create
from cnn_jax.training.step import Task

from . import needs, watcher
from . import options as flags
from .options import DataOptions, ModelOptions, OptimizerOptions, RunOptions, flat

CHECKPOINTS = "checkpoints"
BEST = "best"  # as CHECKPOINTS, for tasks that keep the state with the best evaluation
_FEW = 20_000  # examples that are evaluated before processes to read them would have started
DEFAULT_EPOCHS = 30
EVALUATIONS = 10  # a run, unless --eval-every says otherwise

# What helps where the device waits, by activity of `cnn_jax.training.clock`.
ADVICE = {
    "data": "--workers N reads with more processes; --cache keeps decoded examples",
    "transfer": "--cache device keeps the examples there",
    "launch": "--cache device makes several steps at once; --workers N frees the interpreter",
    "evaluation": "--eval-every N evaluates less often",
    "saving": "--checkpoint-every N saves less often",
    "reporting": "--report-every N reports less often",
}

T = TypeVar("T")


# 1. A run


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
        best: the metric, higher is better, whose best evaluated state is kept in `best/`.
        notices: lines for the user before the first step.
        trained: the task that is trained, where another than `task` is.
        finish: makes the state of `task` from that of `trained` when training has ended.
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
    best: str | None = None
    notices: Sequence[str] = ()
    trained: Task | None = None
    finish: Callable[[TrainState], TrainState] | None = None
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


# 2. From the command line to a run


class Command(NamedTuple):
    """The arguments of `main` besides the command line, for those who check a command line too."""

    options: type
    presets: Mapping[str, Mapping[str, Any]]
    build: Callable[[Any], Run]
    model_names: Callable[[Any], Sequence[str]]
    variant: str | None = None


def main(
    argv: Sequence[str] | None,
    options: type[T],
    presets: Mapping[str, Mapping[str, Any]],
    build: Callable[[T], Run],
    model_names: Callable[[T], Sequence[str]],
    variant: str | None = None,
) -> None:
    """Parse the flags, prepare the devices, build the run and execute it.

    Args:
        argv: the arguments; None reads those of the process.
        options: the dataclass of the entry point's groups of options.
        presets: its recipes by name.
        build: makes the run of the parsed options.
        model_names: the networks that `--model list` prints.
        variant: see `flags.parse`.
    """
    parsed = flags.parse(options, argv, presets, variant)
    if parsed.model.model == "list":
        print("\n".join(model_names(parsed)))
        return
    if parsed.run.out is None:
        if parsed.run.distributed:
            raise UserError("--distributed: name the folder that the processes share with --out")
        out = Path("runs") / f"{options.verb}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        parsed = flags.replace(parsed, {"out": str(out)})
    try:
        with stopping.limited(parsed.run.max_minutes):
            start(parsed, build)
    except UnfinishedError as error:
        if not str(error):  # a training has told its step
            raise
        again = "the same command starts it again"
        if not parsed.run.eval_only and (folder(parsed) / CONFIG_FILE).exists():
            again = "--resume continues"
        raise UnfinishedError(f"{error}; {again}") from None


def start(parsed: T, build: Callable[[T], Run]) -> None:
    """Prepare the devices, build the run of the parsed options and execute it."""
    prepare_devices(parsed.run)
    check_batch_sizes(parsed)
    with contextlib.ExitStack() as stack:
        if not parallel.alone():
            # JAX tells of a death after this time; it takes a while to reach all.
            patience = 1.5 * parallel.HEARTBEAT_SECONDS
            stack.enter_context(watcher.watched(parallel.hosts(), patience))
        if jax.process_index() == 0:
            stack.enter_context(claimed(folder(parsed)))
        execute(build(parsed))


def check_batch_sizes(parsed: Any) -> None:
    """Raise UserError unless every device gets equally many examples."""
    if not parsed.run.eval_only:
        parallel.check_batch_size(parsed.data.batch_size, parsed.optimizer.accumulate)
    parallel.check_batch_size(evaluation_batch_size(parsed.data), flag="--eval-batch-size")


def prepare_devices(run: RunOptions) -> None:
    """Make the settings that must stand before JAX first touches a device."""
    keep_freed_memory()
    # Where no accelerator's plugin is installed, the environment of a run stays as it is.
    if not run.fast and entry_points(group="jax_plugins"):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_deterministic_ops=true".strip()
    if run.matmul_precision is not None:
        jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    # A second start of the same run does not compile again. JAX_COMPILATION_CACHE_DIR moves it.
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cnn_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if run.distributed:
        parallel.initialize()


# 3. Training and evaluation


def execute(run: Run) -> None:
    """Train, or only evaluate, as the options say."""
    if run.options.run.eval_only:
        evaluate(run)
        return
    finished = run.finish is not None and checkpoints.steps(run.out / BEST)
    if not (run.options.run.resume and finished):
        if not train(run):
            raise UnfinishedError
        if run.finish is None:
            return
        state, _ = restored(run.trained or run.task, run.out)
        checkpoints.save(run.out / BEST, int(state.step), run.finish(state), keep=1)
    # The end of a run: made once, even where the run is killed after it and resumed.
    if not evaluated(run.out, checkpoints.latest_step(run.out / BEST)):
        evaluate(run)


def train(run: Run) -> bool:
    """Train from the first state, or the newest checkpoint; return whether it has ended."""
    options, task = run.options, run.trained or run.task
    batches, examples_per_epoch = run.training_set()
    steps_per_epoch = examples_per_epoch / options.data.batch_size
    total = total_steps(options.optimizer, steps_per_epoch)
    optimizer, learning_rate = build_optimizer(options.optimizer, total, steps_per_epoch)
    evaluate_every = options.run.eval_every or -(-total // EVALUATIONS)
    plan = loop.Plan(
        total_steps=total,
        batch_size=options.data.batch_size,
        report_every=options.run.report_every,
        evaluate_every=evaluate_every,
        checkpoint_every=options.run.checkpoint_every or evaluate_every,
        keep=options.run.keep,
        accumulate=options.optimizer.accumulate,
        ema_decay=options.optimizer.ema,
        evaluate_last=run.finish is None,
        transform=options.run.parallel,
    )
    cost = needs.check(
        run.model,
        run.inputs,
        jax.eval_shape(partial(fresh_state, task, optimizer, 0, options.optimizer.ema is not None)),
        evaluated=evaluation_batch_size(options.data),
        trained=-(-options.data.batch_size // options.optimizer.accumulate),
        optimizer=optimizer,
    )
    # The first checkpoint is written while the run goes on to the second.
    second_save = min(2 * plan.checkpoint_every, total) or total
    state, notices = starting_state(run, optimizer, second_save)
    resident = bytes_on_device(options.data, batches) if isinstance(batches, WholeSet) else 0
    first_process = jax.process_index() == 0
    with RunLog(
        run.out,
        total_steps=total,
        resumed_step=int(state.step) if options.run.resume else None,
        enabled=first_process,
    ) as log:
        describe(run, log)
        reading = getattr(batches, "reading", "")
        if resident:
            reading = f"examples: {memory.shown(resident)}, kept on the device"
        for notice in (*run.notices, *([reading] if reading else []), *notices):
            log.message(notice)
        if first_process:
            size = "x".join(map(str, run.inputs[0].shape[1:]))
            summary.print_summary(cost, log.console, f"{options.model.model}, {size}")
        _, ended = loop.train(
            state,
            loop.Training(
                task, optimizer, batches, run.evaluation_set, plan, learning_rate, resident > 0
            ),
            loop.Outputs(
                log,
                run.out / CHECKPOINTS,
                run.report if first_process else None,
                best_keeper(run, int(state.step)),
                ADVICE,
            ),
            prng.root(options.run.seed),
        )
    return ended


def evaluate(run: Run) -> None:
    """Evaluate the newest checkpoint, or `--init-from`; the row joins the run's others."""
    options, task = run.options, run.task
    needs.check(
        run.model,
        run.inputs,
        jax.eval_shape(partial(fresh_state, run.trained or task, optax.identity(), 0)),
        evaluated=evaluation_batch_size(options.data),
    )
    state, notices = evaluated_state(run)
    if options.run.recalibrate:
        batches, examples = run.training_set()
        steps = -(-examples // options.data.batch_size)
        key, transform = prng.root(options.run.seed), options.run.parallel
        state = recalibrated(state, task, batches, steps, key, transform=transform)
    if run.converted is not None and options.run.eval_only:
        task, state = run.converted(task, state)
    with stopping.noted(signal.SIGTERM, signal.SIGUSR1) as stop:
        measured = evaluation.evaluate(
            task,
            parallel.compile_evaluation_step(task, transform=options.run.parallel),
            parallel.replicate(state),
            run.evaluation_set,
            watch=run.report.select,
            stop=stop,
        )
    step, first_process = int(state.step), jax.process_index() == 0
    again = options.run.eval_only
    with RunLog(
        run.out,
        total_steps=step,
        # The evaluation that ends a run stands once in its rows, one that was asked for each time.
        resumed_step=None if again else step,
        appended=again,
        enabled=first_process,
    ) as log:
        if not (run.out / CONFIG_FILE).exists():
            describe(run, log)
        # After training, those of the data were told at its start.
        for notice in (*(run.notices if options.run.eval_only else ()), *notices):
            log.message(notice)
        log.report(step, evaluated_split(options), measured.metrics)
        if first_process:
            run.report.write(step, measured)
        log.write_result(step, evaluated_split(options), measured.metrics)


def describe(run: Run, log: RunLog) -> None:
    """Write `config.json`, `environment.json` and the run's own files."""
    log.write_config({"verb": run.options.verb, **flat(run.options), **run.recorded})
    log.write_environment()
    if log.enabled:
        for name, content in run.files.items():
            files.replace(run.out / name, content)


def best_keeper(run: Run, step: int) -> loop.Best | None:
    """The keeper of the best state, which knows the evaluations up to a resumed step."""
    if run.best is None:
        return None
    rows = read_rows(run.out / METRICS_FILE) if step else []
    earlier = [
        row[run.best]
        for row in rows
        if row["split"] == "eval" and row["step"] <= step and row.get(run.best) is not None
    ]
    return loop.Best(run.best, run.out / BEST, max(earlier, default=-math.inf))


# 4. States


def starting_state(
    run: Run, optimizer: optax.GradientTransformation, second_save: int
) -> tuple[TrainState, list[str]]:
    """The state that training goes on from, and notices for the user.

    It is fresh from the seed, has the weights of `--init-from`, or with `--resume` is the newest
    whole checkpoint. A run that was killed before `second_save`, the step of its second checkpoint,
    may have none, and starts anew.
    """
    options, task = run.options, run.trained or run.task
    ema = options.optimizer.ema is not None
    fresh = partial(fresh_state, task, optimizer, options.run.seed, ema)
    notices: list[str] = []
    if options.run.resume and not _never_saved(run, second_save):
        state, _ = checkpoints.restore(
            run.out / CHECKPOINTS, jax.eval_shape(fresh), notify=notices.append
        )
        return state, notices
    state = fresh()
    if options.run.resume:
        notices.append(f"{run.out}: no checkpoint yet; starting from the first step")
    if options.model.init_from is None:
        return state, notices
    params, model_state = initialized(task, run.model, state, options.model)
    return create(params, model_state, optimizer, ema=ema), notices


def _never_saved(run: Run, second_save: int) -> bool:
    """Tell whether the run was killed before it saved a state; False where checkpoints are lost."""
    if checkpoints.steps(run.out / CHECKPOINTS):
        return False
    rows = read_rows(run.out / METRICS_FILE) if (run.out / METRICS_FILE).exists() else []
    return all(row["step"] <= second_save for row in rows)


def evaluated_state(run: Run) -> tuple[TrainState, list[str]]:
    """The state to evaluate, without an optimizer: the run's newest checkpoint, or `--init-from`.

    Raises:
        UserError: neither is there, it does not fit, or training has not ended that makes it.
    """
    trained = checkpoints.steps(run.out / CHECKPOINTS)
    if run.finish is not None and trained and not checkpoints.steps(run.out / BEST):
        raise UserError(f"{run.out}: its stages have not all ended; --resume goes on with them")
    if trained:
        return restored(run.task, run.out)
    if run.options.model.init_from is None:
        raise UserError(f"--eval-only: no checkpoint in {run.out}, and no --init-from")
    state = fresh_state(run.task, optax.identity(), run.options.run.seed)
    params, model_state = initialized(run.task, run.model, state, run.options.model)
    return create(params, model_state, optax.identity()), []


def restored(task: Task, out: Path) -> tuple[TrainState, list[str]]:
    """The state that a run's best, or newest whole, checkpoint evaluates with.

    The moving average takes the place of the parameters where the run keeps one. The second value
    holds a notice for each damaged checkpoint.
    """
    notices: list[str] = []
    directory = out / (BEST if checkpoints.steps(out / BEST) else CHECKPOINTS)
    like = jax.eval_shape(partial(fresh_state, task, optax.identity(), 0))
    averaged = any(path.startswith("ema/") for path in checkpoints.leaves(directory))
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
    task: Task, model: nn.Module, state: TrainState, options: ModelOptions
) -> tuple[Any, Any]:
    """The parameters and model state of `--init-from`: a run's, or a file's."""
    path = Path(options.init_from)
    if (path / CHECKPOINTS).is_dir():
        other, _ = restored(task, path)
        return other.params, other.model_state
    variables = {"params": state.params, **state.model_state}
    variables = dict(weights.load(path, model, variables, options.init_head, notify=flags.warn))
    return variables.pop("params"), variables


def fresh_state(
    task: Task, optimizer: optax.GradientTransformation, seed: int, ema: bool = False
) -> TrainState:
    """The state before the first step."""
    params, model_state = task.init(prng.stream(prng.root(seed), "init"))
    return create(params, model_state, optimizer, ema=ema)


# 5. Length, optimizer and schedule


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
    if not 1 <= steps <= LARGEST_INT:
        raise UserError(f"--epochs {epochs:g}: {steps} steps; there must be 1 to {LARGEST_INT}")
    return steps


def build_optimizer(
    options: OptimizerOptions, total: int, steps_per_epoch: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning rate by step."""
    warmup = options.warmup
    if options.warmup_epochs is not None:
        warmup = round(options.warmup_epochs * steps_per_epoch)
    learning_rate = optimizers.schedule(
        options.schedule,
        options.learning_rate,
        total,
        warmup=warmup,
        warmup_start=options.warmup_start,
        milestones=options.milestones,
        factor=options.decay_factor,
        power=options.power,
        final=options.final,
    )
    optimizer = optimizers.optimizer(
        options.optimizer,
        learning_rate,
        options=optimizer_options(options),
        weight_decay=options.weight_decay,
        decay_mask=optimizers.kernels_only if options.decay_on == "kernels" else None,
        clip_norm=options.clip_norm,
        bias_rate=options.bias_rate,
        frozen=options.frozen,
    )
    return optimizer, learning_rate


def optimizer_options(options: OptimizerOptions) -> dict[str, Any]:
    """`--momentum`, `--nesterov` where the optimizer has them, and `--optimizer-options`."""
    own = optimizers.legal_options(options.optimizer)
    named = {"momentum": options.momentum, "nesterov": options.nesterov}
    values: dict[str, Any] = {k: v for k, v in named.items() if k in own}
    for item in options.optimizer_options:
        name, _, text = item.partition("=")
        try:
            switch = {"true": True, "false": False}.get(text.lower())
            values[name] = float(text) if switch is None else switch
        except ValueError:
            raise UserError(
                f"--optimizer-options {item}: must be NAME=NUMBER or NAME=true|false"
            ) from None
    return values


# 6. Data


def evaluated_split(options: Any) -> Split:
    """The split that the run evaluates."""
    return options.run.split if options.run.eval_only else "eval"


def reads_training_set(run: RunOptions) -> bool:
    """Tell whether the training examples are read at all."""
    return not run.eval_only or run.recalibrate


def evaluation_batch_size(data: DataOptions) -> int:
    """Examples evaluated at a time over all devices."""
    return data.eval_batch_size or data.batch_size


def open_source(
    options: Any, split: Split, *, image_size: int, formats: Formats = FORMATS, **settings: Any
) -> Source:
    """Open one split of `--data`, without its bad images where that is asked for.

    Args:
        options: all options.
        split: which examples.
        image_size: pixels on a side of generated images, and the least of decoded ones unless a
            `draft_size` among the settings says otherwise.
        formats: the formats that the task can read.
        **settings: those that a task's own flags add.
    """
    data = options.data
    # Told before the first image is read or drawn, which takes several arrays of 32 bits; batches
    # are read ahead. `needs` tells the rest.
    rows = min(data.batch_size, evaluation_batch_size(data))
    memory.require(
        3 * image_size**2 * max(16, 3 * rows),
        f"reading batches of {rows} images of {image_size} x {image_size} pixels",
        "a smaller --batch-size or image",
    )
    source = open_data(
        data.data,
        split,
        seed=options.run.seed,
        image_size=image_size,
        holdout_groups=data.holdout_groups,
        holdout_fraction=data.holdout_fraction,
        keep_bad_images=data.skip_bad_images,
        data_dir=data.data_dir,
        formats=formats,
        **{"draft_size": image_size, **settings},
    )
    if not data.skip_bad_images:
        return source
    bad = find_bad_images(source, data.workers or 0)
    if bad:
        print(f"{split}: left out {len(bad)} of {len(source)} images:", file=sys.stderr)
        for reason in bad.values():
            print(f"  {reason}", file=sys.stderr)
    return without(source, bad)


def evaluation_batches(options: Any, source: Source, transform: Transform) -> EvaluationBatches:
    """Every example of a held-out set once."""
    return EvaluationBatches(
        source,
        prepared(source, transform),
        batch_size=evaluation_batch_size(options.data),
        **batch_readers(options.data, source, evaluated=True),
    )


def training_batches(
    options: Any,
    source: Source,
    transform: Transform,
    held_out: Source | None = None,
    **settings: Any,
) -> TrainingBatches:
    """Batches of training examples, in an order that the seed decides.

    Args:
        options: all options.
        source: the training examples.
        transform: makes an example ready for the device.
        held_out: examples that must have the same classes.
        **settings: further arguments of `TrainingBatches`.

    Raises:
        UserError: training and held-out examples have other classes.
    """
    if held_out is not None:
        check_same_classes(options, source, held_out)
    return TrainingBatches(
        source,
        prepared(source, transform),
        batch_size=options.data.batch_size,
        seed=options.run.seed,
        **{**batch_readers(options.data, source), **settings},
    )


def check_same_classes(options: Any, source: Source, held_out: Source) -> None:
    """Raise UserError unless training and held-out examples have the same classes."""
    if tuple(source.class_names) != tuple(held_out.class_names):
        raise UserError(f"--data {options.data.data}: training and evaluation classes differ")


def batch_readers(data: DataOptions, source: Source, evaluated: bool = False) -> dict[str, Any]:
    """The arguments of image batches that say who reads which rows, and keeps what."""
    readers = Readers(data.workers or 0)
    if data.workers is None:
        readers = suitable_readers(source, accelerated=jax.default_backend() != "cpu")
        if evaluated and len(source) < _FEW:
            readers = Readers(0)
    share = {"none": 0.0, "host": 1.0}.get(data.cache or "", 0.25)
    kept = {"cache_bytes": int(share * min(memory.available(), sys.maxsize))}
    return {"workers": readers.processes, "reading": readers.reason, **kept, **processes()}


def bytes_on_device(data: DataOptions, batches: WholeSet) -> int:
    """Decide whether the training examples lie on the devices; return their bytes there, or 0.

    Raises:
        UserError: they are asked to be, and are no fixed set, or too large.
    """
    asked = data.cache == "device"
    if not (asked or (data.cache is None and jax.default_backend() != "cpu")):
        return 0
    if not batches.keeps:
        if asked:
            raise UserError("--cache device: these examples are no fixed set; use --cache host")
        return 0
    size, free = batches.total_bytes(), needs.free_on_device()
    if asked:
        purpose = f"--cache device with examples of {memory.shown(size)}"
        memory.require(size, purpose, "--cache host", free)
    return size if asked or size <= free / 3 else 0


def processes() -> dict[str, int]:
    """The place of this process among those of the run."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def image_input(height: int, width: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arguments of a network that takes one RGB image."""
    return (jax.ShapeDtypeStruct((1, height, width, 3), np.float32),)
