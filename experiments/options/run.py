"""The options of a run: where it goes, what it writes, when it stops."""

import dataclasses
from typing import Literal

from cnn_jax.ranges import LARGEST_INT

from .declare import GIVEN, flag

Precision = Literal["tensorfloat32", "float32"]

_LARGEST_SEED = 2**32 - 1  # what JAX tells apart


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The folder of the run, what is done, and how often it reports."""

    preset: str | None = flag(None, aliases="recipe", metavar="NAME")
    """A recipe, whose values take the place of the defaults; `--preset list` prints the names. The
    built-in data has its own recipe."""
    config: str | None = flag(None, typed_only=True, aliases="cfg config-file", metavar="FILE")
    """A YAML or JSON file of flags, or the config.json of a run, whose values are the defaults.
    Typed flags come first, then the file, then the preset, then the flags' own defaults."""
    out: str | None = flag(
        None,
        resumable=True,
        unrecorded=True,
        aliases="output-dir output work-dir workdir logdir",
        metavar="DIR",
    )
    """Folder of the run. Default: runs/VERB-TIME."""
    resume: bool = flag(False, resumable=True, typed_only=True)
    """Continue the run in --out from its newest checkpoint, with its own options; --steps or
    --epochs lengthen it."""
    eval_only: bool = flag(False, resumable=True, typed_only=True, aliases="test-only evaluate")
    """Evaluate the run in --out (or --init-from) and train nothing."""
    split: Literal["eval", "test", "train"] = flag(
        "eval", resumable=True, typed_only=True, only={"eval_only": GIVEN}
    )
    """The examples that are evaluated. Those of training are not augmented; the row of their
    evaluation is called training_set, because rows of training are called train."""
    predictions: str | None = flag(None, resumable=True, unrecorded=True, metavar="FILE")
    """Write a row for each example of an evaluation to this file, .csv or .jsonl: its name, the
    truth, the prediction and its probability."""
    state: Literal["best", "last"] | None = flag(
        None, resumable=True, typed_only=True, only={"eval_only": GIVEN}
    )
    """State that is evaluated: the one with the best evaluation, or the last one. Default: the
    best, if the run keeps it."""
    weights: Literal["raw", "ema"] | None = flag(
        None, resumable=True, typed_only=True, only={"eval_only": GIVEN}
    )
    """Weights that are evaluated. raw: those that training continues from; ema: their average.
    Default: the average, if the run keeps one."""
    recalibrate: bool = flag(False, resumable=True, typed_only=True, only={"eval_only": GIVEN})
    """Compute the statistics of batch normalisation anew from the training set."""
    seed: int = flag(0, minimum=0, maximum=_LARGEST_SEED, aliases="manual-seed")
    """All randomness derives from this number."""
    fast: bool = False
    """On a GPU, use the fastest kernels, even if the order of their sums varies: two runs of one
    seed then differ. On a CPU it changes nothing."""
    matmul_precision: Precision | None = None
    """Precision of float32 products and convolutions on an accelerator. Default: the device's own,
    TensorFloat-32 on most GPUs. A CPU always has float32."""
    report_every: int = flag(
        50,
        resumable=True,
        minimum=1,
        maximum=LARGEST_INT,
        aliases="print-freq log-interval log-every logging-steps",
    )
    """Steps between reports of the training metrics."""
    eval_every: int = flag(
        0,
        resumable=True,
        minimum=0,
        maximum=LARGEST_INT,
        aliases="eval-interval eval-period eval-steps",
    )
    """Steps between evaluations; 0 stands for ten evaluations a run."""
    checkpoint_every: int = flag(
        0,
        resumable=True,
        minimum=0,
        maximum=LARGEST_INT,
        aliases="save-every checkpoint-period save-steps",
    )
    """Steps between checkpoints; 0 stands for one at each evaluation."""
    keep: int = flag(3, resumable=True, minimum=1, maximum=1_000_000, aliases="checkpoint-hist")
    """Number of checkpoints that are kept."""
    best: str | None = flag(None, metavar="METRIC")
    """Keep the state with the best evaluation by this metric in best/ too, and use it to evaluate
    and predict."""
    patience: int | None = flag(
        None,
        resumable=True,
        minimum=1,
        maximum=LARGEST_INT,
        only={"best": GIVEN},
        aliases="early-stopping early-stopping-patience",
    )
    """End the run after this number of evaluations without a better --best."""
    track: Literal["wandb", "mlflow"] | None = flag(None, resumable=True)
    """Send the config, every row of metrics and the last pictures to Weights & Biases or MLflow; a
    resumed run continues the same run there."""
    profile: str | None = flag(
        None,
        resumable=True,
        typed_only=True,
        unless={"eval_only": GIVEN},
        metavar="START:STOP",
    )
    """Record the steps after START updates, up to STOP, with JAX's profiler, in profile/. A resumed
    run records those of these steps that it makes."""
    graph: str | None = flag(None, resumable=True, typed_only=True, metavar="FILE.svg")
    """Draw the network into this file, with its blocks' shapes, parameters and multiply-adds, and
    train nothing."""
    distributed: bool = flag(False, resumable=True)
    """Join the other processes of the run, which JAX finds under Slurm, on TPU pods and on
    Kubernetes."""
    parallel: Literal["pmap", "shard"] = flag("pmap", resumable=True)
    """How a step runs on all devices: `pmap`, or its twin `shard`, which is `shard_map` under
    `jit`. Both give the same bits."""
    max_minutes: float | None = flag(
        None, resumable=True, above=0, maximum=1e6, aliases="max-time time-limit"
    )
    """Save and end with status 75 after this time; --resume continues."""
