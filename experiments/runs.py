"""What every training entry point does around its task: devices, folder, schedule, first state."""

import datetime
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from cnn_jax.data import FORMATS, Formats
from cnn_jax.data import open_source as open_data
from cnn_jax.data.source import Source, Split, find_bad_images, without
from cnn_jax.errors import UserError
from cnn_jax.models import weights
from cnn_jax.training import checkpoints, optimizers, parallel, prng
from cnn_jax.training.backend import keep_freed_memory
from cnn_jax.training.loop import Plan
from cnn_jax.training.state import TrainState, create
from cnn_jax.training.step import Task

from .options import DataOptions, ModelOptions, OptimizerOptions, RunOptions, flat

CHECKPOINTS = "checkpoints"
BEST = "best"  # as CHECKPOINTS, for tasks that keep the state with the best evaluation
DEFAULT_EPOCHS = 30
EVALUATIONS = 10  # a run, unless --eval-every says otherwise


def prepare_devices(run: RunOptions) -> None:
    """Settings that must stand before JAX first touches a device."""
    keep_freed_memory()
    if run.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    # A second start of the same run does not compile again. JAX_COMPILATION_CACHE_DIR moves it.
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cnn_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if run.distributed:
        if run.out is None:
            raise UserError("--distributed: say with --out which folder the processes share")
        parallel.initialize()


def directory(run: RunOptions, verb: str) -> Path:
    """The run's folder: `--out`, or one named by the time."""
    if run.out is not None:
        return Path(run.out)
    return Path("runs") / f"{verb}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def total_steps(options: OptimizerOptions, steps_per_epoch: float) -> int:
    """Length of the run in steps: `--steps`, `--epochs`, or 30 epochs.

    Raises:
        UserError: both are given, or there is nothing to train.
    """
    if options.steps is not None and options.epochs is not None:
        raise UserError("--steps and --epochs: give one of them")
    steps = options.steps
    if steps is None:
        steps = round((options.epochs or DEFAULT_EPOCHS) * steps_per_epoch)
    if steps < 1:
        raise UserError(f"--steps {steps}: a run needs at least one step")
    return steps


def plan(options: OptimizerOptions, data: DataOptions, run: RunOptions, total: int) -> Plan:
    """How often things happen."""
    evaluate_every = run.eval_every or -(-total // EVALUATIONS)
    return Plan(
        total_steps=total,
        batch_size=data.batch_size,
        report_every=run.report_every,
        evaluate_every=evaluate_every,
        checkpoint_every=run.checkpoint_every or evaluate_every,
        keep=run.keep,
        accumulate=options.accumulate,
        ema_decay=options.ema,
    )


def config(verb: str, options: Any, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` holds: every resolved option, and what else makes the task."""
    return {"verb": verb, **flat(options), **recorded}


def check_batch_sizes(options: Any) -> None:
    """Raise UserError unless the devices divide the batches of training and evaluation."""
    if not options.run.eval_only:
        parallel.check_batch_size(options.data.batch_size, options.optimizer.accumulate)
    parallel.check_batch_size(evaluation_batch_size(options.data), flag="--eval-batch-size")


def evaluation_batch_size(data: DataOptions) -> int:
    """Examples evaluated at a time over all devices."""
    return data.eval_batch_size or data.batch_size


def readers(data: DataOptions) -> dict[str, int]:
    """Who reads which rows of a batch, and what is kept of them."""
    return {
        "workers": data.workers,
        "cache_bytes": int(data.cache_gb * 1e9),
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def open_source(
    data: DataOptions,
    split: Split,
    *,
    seed: int,
    image_size: int,
    formats: Formats = FORMATS,
    **settings: Any,
) -> Source:
    """One split of `--data`, without its bad images where that is asked for.

    `settings` are those that a task's own flags add.
    """
    source = open_data(
        data.data,
        split,
        seed=seed,
        image_size=image_size,
        draft_size=image_size,
        holdout_groups=data.holdout_groups,
        holdout_fraction=data.holdout_fraction,
        data_dir=data.data_dir,
        formats=formats,
        **settings,
    )
    if not data.skip_bad_images:
        return source
    bad = find_bad_images(source, data.workers)
    if bad:
        print(f"{split}: left out {len(bad)} of {len(source)} images:", file=sys.stderr)
        for reason in bad.values():
            print(f"  {reason}", file=sys.stderr)
    return without(source, bad)


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
        options=_optimizer_options(options),
        weight_decay=options.weight_decay,
        decay_mask=optimizers.kernels_only if options.decay_on == "kernels" else None,
        clip_norm=options.clip_norm,
        bias_rate=options.bias_rate,
        frozen=options.frozen,
    )
    return optimizer, learning_rate


def _optimizer_options(options: OptimizerOptions) -> dict[str, Any]:
    """`--momentum`, `--nesterov` where the optimizer has them, and `--optimizer-options`."""
    own = optimizers.legal_options(options.optimizer)
    named = {"momentum": options.momentum, "nesterov": options.nesterov}
    values: dict[str, Any] = {k: v for k, v in named.items() if k in own}
    for item in options.optimizer_options:
        name, equals, text = item.partition("=")
        try:
            values[name] = {"true": True, "false": False}.get(text.lower())
            if values[name] is None:
                values[name] = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"--optimizer-options {item}: must be NAME=NUMBER or NAME=true|false")
    return values


def starting_state(
    task: Task, optimizer: optax.GradientTransformation, out: Path, options: Any
) -> tuple[TrainState, list[str]]:
    """The state that training goes on from, and what the user should know about it.

    It is fresh from the seed, has the weights of `--init-from`, or with `--resume` is the newest
    whole checkpoint.
    """
    ema = options.optimizer.ema is not None
    initial = partial(_fresh, task, optimizer, options.run.seed, ema)
    if options.run.resume:
        notices: list[str] = []
        state, _ = checkpoints.restore(
            out / CHECKPOINTS, jax.eval_shape(initial), notify=notices.append
        )
        return state, notices
    state = initial()
    if options.model.init_from is None:
        return state, []
    params, model_state = _initialized(task, state, options.model)
    return create(params, model_state, optimizer, ema=ema), []


def evaluated_state(task: Task, out: Path, options: Any) -> tuple[TrainState, list[str]]:
    """The state to evaluate, without an optimizer: the run's newest checkpoint, or `--init-from`.

    Raises:
        UserError: neither is there, or it does not fit.
    """
    if checkpoints.steps(out / CHECKPOINTS):
        return restored(task, out)
    if options.model.init_from is None:
        raise UserError(f"--eval-only: no checkpoint in {out}, and no --init-from")
    state = _fresh(task, optax.identity(), options.run.seed, ema=False)
    params, model_state = _initialized(task, state, options.model)
    return create(params, model_state, optax.identity()), []


def restored(task: Task, out: Path) -> tuple[TrainState, list[str]]:
    """What a run's best, or newest whole, checkpoint evaluates with, and notices of damaged ones.

    The average takes the place of the parameters where the run keeps one.
    """
    notices: list[str] = []
    directory = out / (BEST if checkpoints.steps(out / BEST) else CHECKPOINTS)
    like = jax.eval_shape(partial(_fresh, task, optax.identity(), 0, ema=False))
    averaged = any(path.startswith("ema/") for path in checkpoints.leaves(directory))
    if averaged:
        wanted: dict[str, Any] = {"step": like.step, "ema": (like.params, like.model_state)}
    else:
        wanted = {"step": like.step, "params": like.params, "model_state": like.model_state}
    found, _ = checkpoints.restore(directory, wanted, only=tuple(wanted), notify=notices.append)
    params, model_state = found["ema"] if averaged else (found["params"], found["model_state"])
    state = like.replace(
        step=found["step"], params=params, model_state=model_state, opt_state=optax.EmptyState()
    )
    return state, notices


def in_batches(
    predict: Callable[[dict[str, Any]], Any],
    examples: Iterable[dict[str, np.ndarray]],
    batch_size: int,
) -> Iterator[Any]:
    """One prediction an example; the last batch is filled up to the compiled shape."""
    rest = iter(examples)
    while rows := list(itertools.islice(rest, batch_size)):
        filled = rows + rows[-1:] * (batch_size - len(rows))
        batch = {name: np.stack([row[name] for row in filled]) for name in rows[0]}
        predictions = jax.device_get(predict(batch))
        for index in range(len(rows)):
            yield jax.tree.map(lambda x, index=index: x[index], predictions)


def _initialized(task: Task, state: TrainState, model: ModelOptions) -> tuple[Any, Any]:
    """The parameters and model state of `--init-from`: a run's, or a file's."""
    source = Path(model.init_from)
    if (source / CHECKPOINTS).is_dir():
        found, _ = restored(task, source)
        return found.params, found.model_state
    variables = {"params": state.params, **state.model_state}
    variables = dict(weights.load(source, task.model, variables, head=model.init_head))
    return variables.pop("params"), variables


def _fresh(task: Task, optimizer: optax.GradientTransformation, seed: int, ema: bool) -> TrainState:
    params, model_state = task.init(prng.stream(prng.root(seed), "init"))
    return create(params, model_state, optimizer, ema=ema)
