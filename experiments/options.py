"""Flags: typed groups of options, parsed from the command line over a preset or a run's own.

Each group is a frozen dataclass; an entry point's options are a dataclass of groups. Flag names are
the fields' names, without the group's.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from cnn_jax.errors import DivergenceError, UserError
from cnn_jax.runs.folder import CONFIG_FILE, read_object

T = TypeVar("T")

Flat = tyro.conf.arg(name="")  # a group whose flags carry no prefix


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network."""

    model: str = "resnet20"
    """Any registered architecture; `--model list` prints them."""
    width: float | None = None
    """Multiplier of the number of channels."""
    stem: Literal["imagenet", "small"] | None = None
    """`small` keeps the resolution of images of about 32 pixels."""
    dropout_rate: float | None = None
    """In place of the architecture's own."""
    auxiliary: bool | None = None
    """Whether GoogLeNet and Inception-v3 have their auxiliary heads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, statistics and losses are float32."""
    init_from: str | None = None
    """Weights to start from: safetensors or .pth in torchvision's or timm's names, or a run."""
    init_head: Literal["keep", "reinit"] = "keep"
    """Whether --init-from gives the last layer too, which then needs the same classes."""


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The examples."""

    data: str = "shapes"
    """`shapes`, `folder:DIR` or `tfds:NAME[/CONFIG]`."""
    image_size: int | None = None
    """Pixels on a side of what the network is fed; default: what the data and model suit."""
    resize: int | None = None
    """Shorter side before the centre crop at evaluation; default: the architecture's own."""
    canvas_size: int | None = None
    """Pixels on a side of the image that is augmented on the device."""
    ten_crop: bool = False
    """Evaluate on the corners, the centre and their mirror images instead of the centre alone."""
    data_dir: str | None = None
    """Where prepared TFDS data sets lie; default: TFDS's own place."""
    holdout_fraction: float = 0.1
    """Share of each class that is held out where a folder has no val/ or test/."""
    holdout_groups: str | None = None
    r"""Regular expression of a file name's start: files that agree in its first group stay together
    when evaluation data are held out of train/ (`(\d+)_` for the frames of one track)."""
    batch_size: int = 128
    """Examples a step, over all devices and processes."""
    eval_batch_size: int | None = None
    """Default: the training batch's."""
    workers: int = 0
    """Processes that read ahead; 0 reads in threads."""
    cache_gb: float = 1.0
    """Examples are decoded once and kept, where all of them take at most so many gigabytes (in each
    worker process)."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, and say which, instead of stopping."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Training."""

    steps: int | None = None
    """Length of the run; or give --epochs."""
    epochs: float | None = None
    """Length of the run in passes over the data."""
    optimizer: str = "sgd"
    """Any optimizer of optax by its name there."""
    learning_rate: float = 0.1
    """Its highest value, after the warm-up."""
    momentum: float | None = 0.9
    """For optimizers that have one."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    optimizer_options: tuple[str, ...] = ()
    """Further arguments of the optimizer: `b2=0.99 eps=1e-6`."""
    schedule: Literal["constant", "step", "cosine", "polynomial"] = "cosine"
    """How the learning rate falls."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """When a step schedule drops, as shares of the run."""
    decay_factor: float = 0.1
    """What a drop multiplies the learning rate by."""
    warmup: int = 0
    """Steps of linear increase at the start."""
    warmup_epochs: float | None = None
    """The same in passes over the data."""
    warmup_start: float = 0.0
    """Where the warm-up starts, as a share of the learning rate."""
    final: float = 0.0
    """Last value of cosine and polynomial schedules, as a share of the learning rate."""
    power: float = 0.9
    """Exponent of the polynomial schedule."""
    weight_decay: float = 1e-4
    """L2 regularisation; decoupled for optimizers that have it so."""
    decay_on: Literal["all", "kernels"] = "all"
    """`kernels` leaves biases and normalisation's scales alone."""
    bias_rate: float = 1.0
    """What the learning rate of biases is multiplied by; 2 in many recipes of Caffe's time."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are, by the beginnings of their paths: backbone/conv1."""
    clip_norm: float | None = None
    """Bound on the global norm of the gradient."""
    accumulate: int = 1
    """Parts that each batch is worked through in, to save memory."""
    ema: float | None = None
    """Decay a step of a moving average of the parameters, which evaluation then uses."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The run."""

    preset: str | None = None
    """A recipe as defaults, most of them published; `--preset list` prints them. The built-in
    data has its own."""
    out: str | None = None
    """The run's folder; default: runs/VERB-TIME."""
    seed: int = 0
    """Everything random derives from it."""
    deterministic: bool = False
    """Only deterministic kernels on a GPU (slower); on a CPU runs always repeat exactly."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint, with its own options."""
    eval_only: bool = False
    """Evaluate the run in --out (or --init-from) and train nothing."""
    split: Literal["eval", "test"] = "eval"
    """What --eval-only evaluates."""
    recalibrate: bool = False
    """With --eval-only: batch norm's statistics are those of the training set with the weights as
    they are, instead of the averages kept while training."""
    report_every: int = 50
    """Steps between rows of training metrics."""
    eval_every: int = 0
    """Steps between evaluations; 0: ten times a run."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: at each evaluation."""
    keep: int = 3
    """Number of checkpoints kept."""
    distributed: bool = False
    """Join the run's other processes (found by JAX under Slurm, TPU pods and Kubernetes)."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predict with a trained run."""

    run: tyro.conf.Positional[str] = ""
    """The run's folder."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files, or sentences."""
    top: int = 3
    """Classes named for each image."""
    json: bool = False
    """Print JSON instead of lines."""
    directory: str | None = None
    """Folder for pictures and arrays, of tasks that give some; default: RUN/predictions."""
    probabilities: bool = False
    """Write the probabilities of every pixel too (segment)."""
    batch_size: int = 32
    """Images predicted at a time."""
    score_threshold: float | None = None
    """The least score of a detection that is named, drawn, counted or cut out; default: the run's
    own, chosen on its evaluation data."""
    count: bool = False
    """Print how many objects of each class are in each image."""
    crops: str | None = None
    """Folder for what is detected, cut out, a folder below it for each class."""


# The data that every task has without a download, and the preset that suits it.
BUILT_IN = "shapes"

# What a resumed run may be given anew without becoming another run.
RESUMABLE = {
    *("out", "resume", "eval_only", "workers", "report_every", "eval_every", "checkpoint_every"),
    *("keep", "eval_batch_size", "ten_crop", "distributed", "split", "cache_gb", "test_data"),
    *("beam", "length_penalty", "replace_unknown", "bleu_tokenize"),
    *("decision", "k", "threshold", "f_beta", "recalibrate", "cells"),
    *("score_threshold", "min_score", "nms_threshold", "max_detections"),
    *("proposal_cache", "proposal_workers", "regress_boxes", "classifier", "svd"),
}


def parse(
    options: type[T],
    argv: Sequence[str] | None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> T:
    """Options from the command line, over the preset's or the resumed run's, over the defaults.

    Raises:
        UserError: on an unknown flag or preset, a value of the wrong type, or a resumed run given
            options that would make it another.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    defaults = options()
    first = _parse(options, argv, defaults)
    run: RunOptions = first.run
    if run.resume or (run.eval_only and run.out is not None):
        if run.out is None:
            raise UserError("--resume: say which run with --out DIR")
        earlier = stored(options, Path(run.out))
        resumed = _parse(options, argv, earlier)
        before = flat(earlier)
        changed = [n for n, v in flat(resumed).items() if v != before[n] and n not in RESUMABLE]
        if changed:
            raise UserError(
                f"--{_dashed(changed[0])}: the run in {run.out} has {before[changed[0]]!r}; "
                "a run is continued with its own options, leave the flag out"
            )
        return resumed
    presets = presets or {}
    preset = run.preset
    if preset is None and first.data.data in presets:
        preset = first.data.data  # A preset with the built-in data's name is made for it.
    if preset == "list":
        print("\n".join(presets))
        raise SystemExit(0)
    if preset is not None:
        if preset not in presets:
            raise UserError(f"--preset {preset}: unknown; one of {', '.join(presets)}")
        defaults = replace(defaults, {**presets[preset], "preset": preset})
    return _one_length(_parse(options, argv, defaults), defaults)


def _one_length(parsed: T, preset: T) -> T:
    """`--steps` given over a preset's epochs takes their place, and the other way round."""
    steps, epochs = parsed.optimizer.steps, parsed.optimizer.epochs
    if steps is not None and epochs is not None:
        if steps == preset.optimizer.steps:
            return replace(parsed, {"steps": None})
        if epochs == preset.optimizer.epochs:
            return replace(parsed, {"epochs": None})
    return parsed


def parse_plain(options: type[T], argv: Sequence[str] | None) -> T:
    """Options of an entry point that trains nothing: flags over the defaults."""
    return _parse(options, list(sys.argv[1:] if argv is None else argv), options())


def flat(options: Any) -> dict[str, Any]:
    """All options by flag name, those of groups among them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def replace(options: T, values: Mapping[str, Any]) -> T:
    """The same options but for the given flags."""
    unknown = set(values) - set(flat(options))
    if unknown:
        raise UserError(f"option {sorted(unknown)[0]!r}: not one of this command's")
    groups = {}
    for group in dataclasses.fields(options):
        value = getattr(options, group.name)
        own = {f.name for f in dataclasses.fields(value)}
        groups[group.name] = dataclasses.replace(
            value, **{k: v for k, v in values.items() if k in own}
        )
    return dataclasses.replace(options, **groups)


def stored(options: type[T], run: Path) -> T:
    """The options of a run, from its `config.json`.

    Raises:
        UserError: there is no run in that folder, or it is another task's or version's.
    """
    path = run / CONFIG_FILE
    if not path.exists():
        raise UserError(f"{run}: no run there (no {CONFIG_FILE}): nothing to resume or evaluate")
    values = read_object(path)
    legal = flat(options())
    if missing := sorted(set(legal) - set(values)):
        raise UserError(f"{path}: lacks {missing[0]!r}: another task's run, or another version's")
    # JSON has no tuples.
    return replace(
        options(),
        {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in legal},
    )


def entry(main: Callable[[], None]) -> None:
    """Run an entry point: a user's mistake ends with one line and status 2, divergence with 3."""
    try:
        main()
    except UserError as error:
        _end(error, 2)
    except DivergenceError as error:
        _end(error, 3)
    except BrokenPipeError:
        # The reader of a pipe left (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message: str) -> None:
    """Say something on stderr without ending."""
    print(f"warning: {message}", file=sys.stderr)


def _end(error: Exception, status: int) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(status)


def _parse(options: type[T], argv: Sequence[str], default: T) -> T:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, args=list(argv), default=default)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(_one_line(errors.getvalue(), argv, flat(default))) from None


def _one_line(message: str, argv: Sequence[str], known: Mapping[str, Any]) -> str:
    """tyro's framed error as one line, with the nearest flag to an unknown one."""
    flags = [f"--{_dashed(name)}" for name in known]
    for token in argv:
        name = token.split("=")[0]
        plain = re.sub(r"^--no-", "--", name).replace("_", "-")
        if name.startswith("--") and plain not in (*flags, "--help"):
            near = difflib.get_close_matches(plain, flags, n=2, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            return f"{name}: no such flag{hint}; --help lists all"
    lines = [line.strip("│ ").strip() for line in message.splitlines()]
    text = " ".join(line for line in lines if line and not set(line) <= set("─╭╮╰╯ "))
    text = re.sub(r"╭─.*?─╮", "", text)
    text = re.split(r" Argument helptext:| For full helptext| Perhaps you meant", text)[0].strip()
    untyped = re.match(r"Error parsing (\S+): no type matching (\S+) .*? from \['(.*?)'\]", text)
    return "{0}: {2!r} is not of the type {1}".format(*untyped.groups()) if untyped else text


def _dashed(name: str) -> str:
    return name.replace("_", "-")


Model = Annotated[ModelOptions, Flat]
Data = Annotated[DataOptions, Flat]
Optimizer = Annotated[OptimizerOptions, Flat]
Run = Annotated[RunOptions, Flat]
