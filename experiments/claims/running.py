"""A claim's runs, carried out as a sweep, and what is measured of them.

Seeds come one after another, each with all settings, so that every finished seed adds to the
verdict. Those that choose what is tuned come first; the others have the chosen variants alone. A
run whose rows are known, committed or measured here, is not carried out.
"""

import dataclasses
import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.runs.claim import claimed
from cnn_jax.runs.folder import RESULT_FILE, Run, read_object, read_run

from .. import sweep
from ..sweep import jobs, table
from ..sweep.plan import LOGS, Plan, PlannedRun, of_settings
from . import rows as kept
from . import verdict
from .claim import Claim, Measure, Variant
from .rows import Row

ROWS = "rows.csv"

Evaluations = dict[tuple[str, ...], Mapping[str, Any]]
"""The metrics of a run's evaluations, by their flags; measures share them."""

_DIVERGED = 3
"""The exit status of a run whose loss was not finite."""


def known(claim: Claim, out: Path) -> dict[str, Row]:
    """The rows that are committed, or were measured in a folder of claims, which count first."""
    return {**kept.committed(claim), **kept.read(out / claim.name / ROWS)}


def carry_out(claim: Claim, out: Path, at_a_time: int | None) -> list[str]:
    """Carry out the runs of a claim whose rows are not known, and keep what is measured of them.

    Returns:
        The names of the runs that failed.

    Raises:
        UnfinishedError: it was asked to end early; the seeds that were measured are kept.
        UserError: the data is not there, a flag is illegal, or an evaluation failed.
    """
    folder = out / claim.name
    found, committed = known(claim, out), kept.committed(claim)
    seeds = sorted(claim.seeds, key=lambda seed: seed not in claim.tuned_on)
    if not any(_missing(claim, seed, found) for seed in seeds):
        return []
    planned = planned_runs(claim, folder, seeds)
    failed: list[str] = []
    with files.writing(folder / LOGS):
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
    with claimed(folder / LOGS):
        planned.keep()
        for seed in seeds:
            failed += _carry_out_seed(claim, planned, seed, at_a_time, found)
            kept.write(folder / ROWS, (r for r in found.values() if committed.get(r.key) != r))
        _compare(planned)
    return failed


def planned_runs(claim: Claim, folder: Path, seeds: Sequence[int]) -> Plan:
    """The runs of some seeds, whose flags are all legal."""
    settings = [(v.named, claim.placed(v.typed)) for v in claim.variants]
    return of_settings(claim.verb, folder, claim.placed(claim.flags), settings, seeds)


def _missing(claim: Claim, seed: int, found: Mapping[str, Row]) -> list[tuple[Variant, Measure]]:
    """The measures of a seed that lack. Times belong together: all of them, or none."""
    wanted = _wanted(claim, seed, found)
    missing = [pair for pair in wanted if claim.key(pair[0], seed, pair[1]) not in found]
    if any(measure.timed for _, measure in missing):
        timed = [pair for pair in wanted if pair[1].timed]
        missing = [pair for pair in missing if not pair[1].timed] + timed
    return missing


def _wanted(claim: Claim, seed: int, found: Mapping[str, Row]) -> list[tuple[Variant, Measure]]:
    """List the measures of a seed; none while it is not known which variants are chosen."""
    if seed in claim.tuned_on:
        return claim.measured
    settings = dict.fromkeys(variant.setting for variant in claim.variants)
    best = {c.label for s in settings if (c := verdict.chosen(claim, s, found)) is not None}
    return [(variant, measure) for variant, measure in claim.measured if variant.label in best]


def _carry_out_seed(
    claim: Claim, planned: Plan, seed: int, at_a_time: int | None, found: dict[str, Row]
) -> list[str]:
    """Carry out the runs of a seed, and add what is measured of them; return those that failed."""
    missing = _missing(claim, seed, found)
    if not missing:
        return []
    runs = {
        variant.label: next(
            run for run in planned.runs if run.seed == seed and run.setting == variant.named
        )
        for variant, _ in missing
    }
    pending = [run for run in runs.values() if _status(run) != _DIVERGED]
    sweep.finish(dataclasses.replace(planned, runs=pending), at_a_time)
    values, failed = _values(claim, runs, missing, jobs.places(at_a_time)), []
    for variant, measure in missing:
        run, value = runs[variant.label], values[variant.label, measure.name]
        if value is None:
            failed.append(run.name)
            continue
        read, key = read_run(run.folder), claim.key(variant, seed, measure)
        seconds = round(read.seconds or 0.0, 1)
        device = str(read.environment.get("device_kind", ""))
        found[key] = Row(key, variant.label, seed, measure.name, value, seconds, device)
    return list(dict.fromkeys(failed))


def _values(
    claim: Claim,
    runs: Mapping[str, PlannedRun],
    wanted: Sequence[tuple[Variant, Measure]],
    places: Sequence[Mapping[str, str]],
) -> dict[tuple[str, str], float | None]:
    """Measure runs; return the values by the label of the variant and the name of the measure.

    As many runs are evaluated at a time as there are places. Times are taken afterwards, alone.
    """
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for place in places:
        free.put(place)
    values: dict[tuple[str, str], float | None] = {}

    def take(label: str, timed: bool) -> None:
        place, evaluations = free.get(), {}
        try:
            for measure in [m for v, m in wanted if v.label == label and m.timed == timed]:
                evaluate = claim.placed(measure.evaluate or ())
                values[label, measure.name] = measured(
                    claim.verb, runs[label], measure, evaluate, evaluations, place
                )
        finally:
            free.put(place)

    with ThreadPoolExecutor(len(places)) as pool:
        list(pool.map(take, runs, [False] * len(runs)))
    for label in runs:
        take(label, True)
    return values


def measured(
    verb: str,
    run: PlannedRun,
    measure: Measure,
    evaluate: Sequence[str],
    evaluations: Evaluations,
    place: Mapping[str, str],
) -> float | None:
    """The value of a run; None where it failed, or diverged and no value stands for that.

    Args:
        verb: the command that trained it.
        run: the run.
        measure: what is measured.
        evaluate: the measure's flags, with the folder of the data in them.
        evaluations: those of the run that were carried out, to which a new one is added.
        place: the environment variables that show an evaluation its device.

    Raises:
        UserError: the run has no such metric, or its evaluation failed.
    """
    status = _status(run)
    if status:
        return measure.diverged if status == _DIVERGED else None
    if measure.timed:
        module = f"{__package__}.timing"
        line = [module, verb, str(run.folder), *evaluate]
        return json.loads(_printed(run, line, place))[measure.metric]
    if measure.evaluate is not None:
        key = tuple(evaluate)
        if key not in evaluations:
            module = f"{__package__.rpartition('.')[0]}.{verb}"
            _printed(run, [module, "--eval-only", "--out", str(run.folder), *evaluate], place)
            evaluations[key] = read_object(run.folder / RESULT_FILE)
        row = evaluations[key]
    else:
        row = _last(read_run(run.folder))
    if measure.reach is not None:
        return _steps_to(read_run(run.folder), measure)
    if row.get(measure.metric) is None:
        raise UserError(f"{run.folder}: its evaluation has no {measure.metric}")
    return float(row[measure.metric])


def _last(run: Run) -> Mapping[str, Any]:
    """The evaluation that ended the training; rows of later evaluations follow it."""
    rows = [row for row in run.rows if row["split"] == "eval"]
    last = max((row["step"] for row in rows), default=None)
    return next((row for row in rows if row["step"] == last), {})


def _steps_to(run: Run, measure: Measure) -> float:
    """The steps until an evaluation has a value; those of the run where none has."""
    steps, values = run.series("eval", measure.metric)
    reached = (step for step, value in zip(steps, values, strict=True) if value >= measure.reach)
    return float(next(reached, run.steps))


def _status(run: PlannedRun) -> int | None:
    """The status that a run ended with; None where it has not."""
    if not run.status_file.exists():
        return None
    text = run.status_file.read_text().strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _printed(run: PlannedRun, module: Sequence[str], place: Mapping[str, str]) -> str:
    """The output of a module on a run's folder; its other lines go to the run's log.

    Raises:
        UserError: it failed.
    """
    line = [sys.executable, "-m", *module]
    with run.log.open("ab") as log:
        ended = subprocess.run(
            line,
            env={**os.environ, **place},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    if ended.returncode:
        raise UserError(f"{run.name}: {' '.join(module[1:])} failed ({jobs.last_line(run)})")
    return ended.stdout.decode()


def _compare(planned: Plan) -> None:
    """Write the sweep's table and page of the runs that are here and have finished."""
    begun = [run for run in planned.runs if run.status_file.exists()]
    unfinished = {run.name: "not finished" for run in begun if not run.finished}
    if len(unfinished) < len(begun):
        here = dataclasses.replace(planned, runs=begun)
        print(f"page: {table.write(table.compared(here, unfinished, None))}")
