"""A run from its options to its last evaluation. It reads from top to bottom.

1. `main` parses the flags, prepares the devices, builds the run (`experiments.run`) and starts it.
2. `execute`, `train` and `evaluate` do what the options ask for. The states that they start
   from are in `experiments.states`; length, optimizer and schedule in `experiments.length`.
3. What entry points call to read their data.
"""

import contextlib
import dataclasses
import datetime
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from cnn_jax import files, memory
from cnn_jax.data import FORMATS, MASK_FORMATS, Formats
from cnn_jax.data import open_source as open_data
from cnn_jax.data.batches import EvaluationBatches, TrainingBatches
from cnn_jax.data.packed import prepared
from cnn_jax.data.readers import Readers, suitable_readers
from cnn_jax.data.source import Source, Split, Transform, find_bad_images, without
from cnn_jax.data.subsets import subset
from cnn_jax.errors import UnfinishedError, UserError, nearest
from cnn_jax.models import summary
from cnn_jax.runs import names
from cnn_jax.runs.claim import claimed
from cnn_jax.runs.folder import CONFIG_FILE, evaluated
from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints, evaluation, loop, parallel, prng, stopping
from cnn_jax.training.backend import keep_freed_memory
from cnn_jax.training.feeding import WholeSet
from cnn_jax.training.profiling import Profile
from cnn_jax.training.recalibration import recalibrated

from . import continued, drawn, needs, tracking, watcher
from . import options as flags
from .length import total_steps
from .optimization import average, build_optimizer
from .options import DataOptions, RunOptions
from .profiled import PROFILE, check_profiled, made_before, profiled_steps
from .run import Run, evaluated_split, folder
from .states import (
    CHECKPOINTS,
    FINISHED,
    best_keeper,
    evaluated_state,
    restored,
    starting_state,
    state_shapes,
)

_FEW = 20_000  # examples that are evaluated before processes to read them would have started
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


# 1. From the command line to a run


class Command(NamedTuple):
    """A command that trains.

    Attributes:
        options: the dataclass of its groups of options.
        presets: its recipes by name.
        build: makes the run of the parsed options.
        model_names: the networks that `--model list` prints.
        variant: see `flags.parse`.
        suited: gives a command line the flags of a recipe that suits the data, where it has none.
    """

    options: type
    presets: Mapping[str, Mapping[str, Any]]
    build: Callable[[Any], Run]
    model_names: Callable[[Any], Sequence[str]]
    variant: str | None = None
    suited: Callable[[Sequence[str]], Sequence[str]] | None = None


def main(argv: Sequence[str] | None, command: Command) -> None:
    """Parse the flags, prepare the devices, build the run and execute it.

    Args:
        argv: the arguments; None reads those of the process.
        command: which they are of.
    """
    if command.suited is not None:
        argv = command.suited(sys.argv[1:] if argv is None else argv)
    parsed = flags.parse(command.options, argv, command.presets, command.variant)
    if parsed.model.model == "list":
        print("\n".join(command.model_names(parsed)))
        return
    if notice := flags.preset_notice(parsed, argv, command.presets, command.variant):
        print(notice, file=sys.stderr)
    if parsed.run.graph is not None:
        drawn.check_graph(parsed.run.graph)
    check_best(parsed)
    profiled_steps(parsed.run)
    tracking.check_package(parsed.run)
    if parsed.run.out is None:
        if parsed.run.distributed:
            raise UserError("--distributed: name the folder that the processes share with --out")
        out = Path("runs") / f"{parsed.verb}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        parsed = flags.replace(parsed, {"out": str(out)})
    if parsed.run.graph is not None:
        drawn.write_graph(command.build(parsed))
        return
    try:
        with stopping.limited(parsed.run.max_minutes):
            start(parsed, command.build)
    except UnfinishedError as error:
        if not str(error):  # a training has told its step
            raise
        again = "the same command starts it again"
        if not parsed.run.eval_only and (folder(parsed) / CONFIG_FILE).exists():
            again = "--resume continues"
        raise UnfinishedError(f"{error}; {again}") from None


def start(parsed: Any, build: Callable[[Any], Run]) -> None:
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


def check_best(parsed: Any) -> None:
    """Raise UserError unless evaluations may be judged by the metric of `--best`."""
    metric, legal = parsed.run.best, names.judging(parsed.verb)
    if metric is not None and metric not in legal:
        raise UserError(
            f"--best {metric}: no metric that {parsed.verb} is judged by"
            f"{nearest(metric, legal)}; one of {', '.join(legal)}"
        )


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


# 2. Training and evaluation


def execute(run: Run) -> None:
    """Train, or only evaluate, as the options say."""
    given = run.options.run
    if given.resume or given.eval_only:
        continued.check_classes(run)
    if given.eval_only:
        evaluate(run)
        return
    finished = run.finish is not None and checkpoints.steps(run.out / FINISHED)
    if not (given.resume and finished) or continued.length_given_anew(run):
        train(run)
        if run.finish is None:
            return
        state, _ = restored(run.trained or run.task, run.out / CHECKPOINTS)
        checkpoints.save(run.out / FINISHED, int(state.step), run.finish(state), keep=1)
    # The end of a run: made once, even where the run is killed after it and resumed.
    if not evaluated(run.out, checkpoints.latest_step(run.out / FINISHED)):
        evaluate(run)


def train(run: Run) -> None:
    """Train from the first state, or the newest checkpoint.

    Raises:
        UnfinishedError: it was asked to stop before its end.
    """
    options, task = run.options, run.trained or run.task
    batches, examples_per_epoch = run.training_set()
    if options.run.resume:
        continued.check_examples(run, examples_per_epoch)
    steps_per_epoch = examples_per_epoch / options.data.batch_size
    total = total_steps(options.optimizer, steps_per_epoch)
    network = run.model, run.inputs[0]
    optimizer, learning_rate = build_optimizer(options.optimizer, total, steps_per_epoch, *network)
    profiled = profiled_steps(options.run)
    check_profiled(profiled, total)
    evaluate_every = options.run.eval_every or -(-total // EVALUATIONS)
    plan = loop.Plan(
        total_steps=total,
        batch_size=options.data.batch_size,
        report_every=options.run.report_every,
        evaluate_every=evaluate_every,
        checkpoint_every=options.run.checkpoint_every or evaluate_every,
        keep=options.run.keep,
        accumulate=options.optimizer.accumulate,
        average=average(options.optimizer, total),
        evaluate_last=run.finish is None,
        transform=options.run.parallel,
    )
    shapes = state_shapes(task, optimizer, plan.average is not None)
    traced = summary.trace(run.model, *run.inputs, variables=shapes.variables)
    cost = needs.check(
        traced,
        shapes,
        evaluated=evaluation_batch_size(options.data),
        trained=-(-options.data.batch_size // options.optimizer.accumulate),
        optimizer=optimizer,
    )
    # The first checkpoint is written while the run goes on to the second.
    second_save = min(2 * plan.checkpoint_every, total) or total
    state, notices = starting_state(run, optimizer, second_save)
    if options.run.resume:
        run, change = continued.with_length(run, int(state.step), steps_per_epoch)
        if change is not None:
            chosen = run.options.optimizer
            optimizer, learning_rate = build_optimizer(chosen, total, steps_per_epoch, *network)
            plan = dataclasses.replace(plan, average=average(chosen, total))
            notices.append(change.line(chosen, learning_rate))
            # Before the new length is recorded: what stages made of the shorter run is in the way.
            shutil.rmtree(run.out / FINISHED, ignore_errors=True)
    resident, reading = 0, ""
    if isinstance(batches, WholeSet):
        resident, reading = needs.bytes_on_device(options.data, batches), batches.reading
    first_process = jax.process_index() == 0
    tracker = tracking.followed(options.run, run.out, first_process)
    with (
        RunLog(
            run.out,
            total_steps=total,
            resumed_step=int(state.step) if options.run.resume else None,
            enabled=first_process,
            tracker=tracker,
        ) as log,
        tracker or contextlib.nullcontext(),
    ):
        describe(run, log, traced, {continued.EXAMPLES: examples_per_epoch})
        if resident:
            reading = f"examples: {memory.shown(resident)}, kept on the device"
        notices += made_before(profiled, int(state.step))
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
                Profile(profiled, run.out / PROFILE, first_process),
            ),
            prng.root(options.run.seed),
        )
        if not ended:
            raise UnfinishedError


def evaluate(run: Run) -> None:
    """Evaluate the newest checkpoint, or `--init-from`; the row joins the run's others."""
    options, task = run.options, run.task
    shapes = state_shapes(run.trained or task, optax.identity())
    traced = summary.trace(run.model, *run.inputs, variables=shapes.variables)
    needs.check(traced, shapes, evaluated=evaluation_batch_size(options.data))
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
    tracker = tracking.followed(options.run, run.out, first_process)
    with (
        RunLog(
            run.out,
            total_steps=step,
            # The evaluation that ends a run is once in its rows, one that was asked for each time.
            resumed_step=None if again else step,
            appended=again,
            enabled=first_process,
            tracker=tracker,
        ) as log,
        tracker or contextlib.nullcontext(),
    ):
        if not (run.out / CONFIG_FILE).exists():
            describe(run, log, traced, {})
        # After training, those of the data were told at its start.
        for notice in (*(run.notices if options.run.eval_only else ()), *notices):
            log.message(notice)
        # Rows of training are called `train`.
        split = evaluated_split(options)
        split = "training_set" if split == "train" else split
        log.report(step, split, measured.metrics)
        if first_process:
            run.report.write(step, measured)
            log.report_pictures(step, split)
        log.write_result(step, split, measured.metrics)


def describe(run: Run, log: RunLog, traced: summary.Trace, measured: Mapping[str, Any]) -> None:
    """Write `config.json`, with what was measured of the data, and the run's other files.

    `config.json` is the last: where it stands, the run can be resumed.
    """
    log.write_environment()
    if log.enabled:
        drawn.write_network(run, traced)
        for name, content in run.files.items():
            files.replace(run.out / name, content)
    log.write_config(flags.described(run.options, {**run.recorded, **measured}))


# 3. Data


def evaluation_batch_size(data: DataOptions) -> int:
    """Examples evaluated at a time over all devices."""
    return data.eval_batch_size or data.batch_size


def open_source(
    options: Any, split: Split, *, image_size: int, formats: Formats = FORMATS, **settings: Any
) -> Source:
    """Open one split of `--data`, without its bad images where that is asked for.

    Of the training split only `--train-examples` are taken.

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
        image_size**2 * max(48, 3 * data.channels * data.bits // 8 * rows),
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
        channels=data.channels,
        bits=data.bits,
        formats=formats,
        **{"draft_size": image_size, **settings},
    )
    if data.skip_bad_images:
        bad = find_bad_images(source, data.workers or 0)
        if bad:
            print(f"{split}: left out {len(bad)} of {len(source)} images:", file=sys.stderr)
            for reason in bad.values():
                print(f"  {reason}", file=sys.stderr)
        source = without(source, bad)
    if split == "train" and data.train_examples is not None:
        check_train_examples(data.train_examples, len(source))
        by_class = formats is not MASK_FORMATS
        source = subset(source, data.train_examples, options.run.seed, by_class)
    return source


def check_train_examples(asked: int, there: int) -> None:
    """Raise UserError unless there are as many training examples as are asked for."""
    if asked > there:
        raise UserError(f"--train-examples {asked}: the data has only {there} training examples")


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


def processes() -> dict[str, int]:
    """The place of this process among those of the run."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
