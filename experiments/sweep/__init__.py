"""Many runs of one command: grids of settings, several seeds, and one table at their end.

python -m experiments.sweep classify --seeds 0 1 2 --grid model=resnet18,vgg11 --out runs/grid
python -m experiments.sweep classify --random 20 --grid learning_rate=log:.001:1 --out runs/search
python -m experiments.sweep segment --seeds 0 1 2 --out runs/seeds --jobs 2 -- --data masks:DIR
python -m experiments.sweep classify --seeds 0 1 2 --out runs/array --slurm -- --data folder:DIR

The same command goes on with what was stopped: finished runs are left alone, broken ones resumed.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import jax

from cnn_jax import files
from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.runs.claim import claimed
from cnn_jax.training import stopping

from .. import options as flags
from . import jobs, slurm, table
from .plan import LOGS, Plan, plan

FAILED = 1
"""The exit status where runs failed; the comparison has the others."""

_SEED = flags.declared(flags.RunOptions)["seed"].range


@dataclass(frozen=True)
class Options:
    """Train one command with many settings and seeds, and compare them. The flags behind `--` are
    those that all runs share."""

    verb: ClassVar[str] = "sweep"

    command: Literal["classify", "annotate", "detect", "segment", "translate"] | None = flags.flag(
        None, positional=True, metavar="VERB"
    )
    """The command that trains."""
    grid: tuple[str, ...] = flags.flag((), metavar="NAME=VALUES")
    """Values of flags: every combination is a setting. `model=resnet18,vgg11` lists them;
    semicolons separate where values hold commas. With --random, `uniform:LOW:HIGH` and
    `log:LOW:HIGH` are ranges."""
    seeds: tuple[int, ...] = flags.flag((0,), range=_SEED)
    """The seeds of each setting."""
    random: int | None = flags.flag(None, minimum=1, maximum=100_000, metavar="N")
    """Draw N settings from the lists and ranges of --grid, in place of all combinations."""
    search_seed: int = flags.flag(0, range=_SEED, only={"random": flags.GIVEN})
    """The number that the drawn settings derive from. A larger --random begins with the same
    settings."""
    out: str | None = flags.flag(None, aliases="output-dir", metavar="DIR")
    """Folder of the sweep, with a folder for each run."""
    metric: str | None = flags.flag(None, metavar="NAME")
    """The metric that orders the settings. Default: the main one of the command."""
    jobs: int | None = flags.flag(None, minimum=1, maximum=1024)
    """Number of runs at a time, each on a device of its own. Default: one on each accelerator of
    the machine, or one if it has none. A single run uses all devices."""
    slurm: bool = False
    """Run nothing here; write DIR/array.sh, a Slurm array of the runs that have not finished."""
    submit: bool = flags.flag(False, only={"slurm": flags.GIVEN})
    """Submit the array with sbatch, too."""
    sbatch: tuple[str, ...] = flags.flag((), only={"slurm": flags.GIVEN}, metavar="NAME=VALUE")
    """Options of the array for sbatch: `partition=gpu time=02:00:00`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, carry out the runs that have not finished, and compare them all."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    options = flags.parse_plain(Options, given[:end])
    if options.command is None:
        raise UserError("give the command that trains: sweep classify ...")
    if options.out is None:
        raise UserError("--out: name the folder of the sweep")
    if not options.seeds:
        raise UserError("--seeds: give one or more")
    table.check_metric(options.metric)
    planned = plan(
        options.command,
        Path(options.out),
        given[end + 1 :],
        options.grid,
        options.seeds,
        options.random,
        options.search_seed,
    )
    # The devices are for the runs: this process takes no memory of theirs.
    jax.config.update("jax_platforms", "cpu")
    logs = planned.out / LOGS
    with files.writing(logs):
        logs.mkdir(parents=True, exist_ok=True)
    with claimed(logs):
        planned.keep()
        if options.slurm:
            slurm.write(planned, options.jobs, options.sbatch, options.submit)
        else:
            carry_out(planned, options.jobs, options.metric)


def carry_out(planned: Plan, at_a_time: int | None, metric: str | None) -> None:
    """Carry out the runs of a sweep that have not finished, and compare them all.

    Raises:
        UnfinishedError: it was asked to end early.
        SystemExit: runs failed.
    """
    failed = finish(planned, at_a_time)
    if len(failed) < len(planned.runs):
        print(f"page: {table.write(table.compared(planned, failed, metric))}")
    if failed:
        print(f"{len(failed)} of {len(planned.runs)} runs failed:", file=sys.stderr)
        for name, reason in failed.items():
            print(f"  {name}: {reason}", file=sys.stderr)
        raise SystemExit(FAILED)


def finish(planned: Plan, at_a_time: int | None) -> dict[str, str]:
    """Carry out the runs of a sweep that have not finished; return why some failed, by name.

    Raises:
        UnfinishedError: it was asked to end early.
    """
    pending = [run for run in planned.runs if not run.finished]
    done = len(planned.runs) - len(pending)
    print(f"{len(planned.runs)} runs, {done} of them finished", file=sys.stderr)
    ended: dict[str, int] = {}
    if pending:
        places = jobs.places(at_a_time)
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        with stopping.noted(*signals) as stop:
            ended = jobs.carry_out(planned.verb, pending, places, stop)
        if stop.is_set() or jobs.UNFINISHED in ended.values():
            done = sum(run.finished for run in planned.runs)
            raise UnfinishedError(
                f"{planned.out}: {done} of {len(planned.runs)} runs have finished; the same "
                "command goes on"
            )
    return {run.name: jobs.failure(run, ended[run.name]) for run in pending if ended[run.name]}
