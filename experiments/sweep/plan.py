"""The runs of a sweep, made and checked before the first of them starts."""

import importlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax import files
from cnn_jax.errors import UserError, nearest
from cnn_jax.runs.folder import CONFIG_FILE, RESULT_FILE, read_object

from .. import options as flags
from ..trainer import Command
from . import settings
from .settings import Setting

PLAN_FILE = "sweep.json"
LOGS = "logs"
"""The folder of what the runs print, and of the status that each ended with."""

_OWN = {
    "seed": "the sweep's --seeds gives it",
    "out": "the sweep's --out names the folder of all runs",
    **dict.fromkeys(
        ("resume", "eval_only", "split", "weights", "recalibrate"), "a sweep trains, and resumes"
    ),
    "predictions": "every run would write the same file; evaluate a run for it",
    "distributed": "each run has one process; a Slurm array adds the flag itself",
}
"""The flags of a run that no setting may have, and why."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        out: the sweep's folder.
        name: the name of its folder in there.
        setting: the values of the flags that the sweep varies, without the seed.
        seed: its seed.
        arguments: all of its flags but `--out` and `--resume`, as they are typed.
    """

    out: Path
    name: str
    setting: Setting
    seed: int
    arguments: Sequence[str]

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.out / self.name

    @property
    def log(self) -> Path:
        """The file of what it prints."""
        return self.out / LOGS / f"{self.name}.log"

    @property
    def status_file(self) -> Path:
        """The file of the exit status that it ended with last."""
        return self.out / LOGS / f"{self.name}.status"

    @property
    def started(self) -> bool:
        """Tell whether there is a run to resume."""
        return (self.folder / CONFIG_FILE).exists()

    @property
    def finished(self) -> bool:
        """Tell whether it has come to its end."""
        if not (self.folder / RESULT_FILE).exists() or not self.status_file.exists():
            return False
        return self.status_file.read_text().strip() == "0"


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep.

    Attributes:
        verb: the command that trains.
        out: the folder of the sweep.
        fixed: the values of the flags that all runs share, but for those that a resumed run may
            be given anew.
        settings: the combinations, in order.
        runs: a run for each setting and seed; the seeds of one setting follow one another.
    """

    verb: str
    out: Path
    fixed: Mapping[str, Any]
    settings: Sequence[Setting]
    runs: Sequence[PlannedRun]

    def keep(self) -> None:
        """Write `sweep.json`.

        Raises:
            UserError: the folder holds a sweep of another verb, or of other flags.
        """
        path = self.out / PLAN_FILE
        text = json.dumps({"verb": self.verb, "flags": self.fixed}, indent=2, ensure_ascii=False)
        if path.exists() and read_object(path) != json.loads(text):
            raise UserError(
                f"{path}: is of a sweep with another verb or other flags behind --; give another "
                "folder with --out"
            )
        files.replace(path, text + "\n")


def command(verb: str) -> Command:
    """A command that trains."""
    return importlib.import_module(f"{__package__.partition('.')[0]}.{verb}").COMMAND


def plan(
    verb: str,
    out: Path,
    fixed: Sequence[str],
    grid: Sequence[str],
    seeds: Sequence[int],
    draws: int | None = None,
    search_seed: int = 0,
) -> Plan:
    """The runs of a sweep, whose flags are all legal.

    Args:
        verb: the command that trains.
        out: the folder of the sweep.
        fixed: flags that all runs share, as they are typed.
        grid: values of flags, see `settings.read`.
        seeds: the seeds of each setting.
        draws: the number of settings that are drawn; None for all combinations.
        search_seed: the number that the draws derive from.

    Raises:
        UserError: a flag is unknown, illegal, given twice or the sweep's own; or a folder holds a
            run with other flags.
    """
    chosen = command(verb)
    known = flags.declared(chosen.options)
    varied = settings.read(grid, known)
    given = flags.typed(chosen.options, fixed)
    for name in (*varied, *given):
        if name in _OWN:
            raise UserError(f"{known[name].dashed}: not a flag of a sweep's runs; {_OWN[name]}")
        if name in varied and name in given:
            raise UserError(f"{known[name].dashed}: given here and in --grid; give one of them")
    for seed, count in Counter(seeds).items():
        if count > 1:
            raise UserError(f"--seeds: {seed} is given twice")
    if draws is None:
        combined = settings.combinations(varied)
    elif varied:
        combined = settings.drawn(varied, draws, search_seed)
    else:
        raise UserError("--random: give what to draw with --grid NAME=log:LOW:HIGH or NAME=A,B")
    return of_settings(
        verb,
        out,
        fixed,
        [(setting, settings.arguments(setting, known)) for setting in combined],
        seeds,
    )


def of_settings(
    verb: str,
    out: Path,
    fixed: Sequence[str],
    typed: Sequence[tuple[Setting, Sequence[str]]],
    seeds: Sequence[int],
) -> Plan:
    """The runs of some settings and seeds, whose flags are all legal.

    Args:
        verb: the command that trains.
        out: the folder of the sweep.
        fixed: flags that all runs share, as they are typed.
        typed: the settings, which name folders and rows, and the flags of each as they are typed.
        seeds: the seeds of each setting.

    Raises:
        UserError: a flag is illegal, or a folder holds a run with other flags.
    """
    chosen = command(verb)
    known = flags.declared(chosen.options)
    runs = [
        PlannedRun(
            out,
            settings.run_name(setting, seed),
            setting,
            seed,
            [*fixed, *more, f"--seed={seed}"],
        )
        for setting, more in typed
        for seed in seeds
    ]
    folded = Counter(run.name.casefold() for run in runs)
    for run in runs:
        if folded[run.name.casefold()] > 1:
            raise UserError(f"--grid: two settings would share the folder {run.name}")
        _check(run, chosen)
    given = flags.typed(chosen.options, fixed)
    lasting = {k: v for k, v in given.items() if not known[k].declared.resumable}
    return Plan(verb, out, lasting, [setting for setting, _ in typed], runs)


def _check(run: PlannedRun, chosen: Command) -> None:
    """Raise UserError, with the name of the run, unless its command line is legal."""

    def parse(*more: str) -> Any:
        typed = [*run.arguments, "--out", str(run.folder), *more]
        return flags.parse(chosen.options, typed, chosen.presets, chosen.variant)

    try:
        parsed = parse()
        model, names = parsed.model.model, chosen.model_names(parsed)
        if model not in names:
            raise UserError(f"--model {model}: no such network{nearest(model, names)}")
        if run.started:
            parse("--resume")
    except UserError as error:
        raise UserError(f"{run.name}: {flags.as_flags(error)}") from None
