"""The comparison that a sweep ends in: a row for each setting, best first, and a page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax import files
from cnn_jax.errors import UserError, nearest
from cnn_jax.reports.curves import Curves
from cnn_jax.reports.page import Section, Table, render
from cnn_jax.reports.style import LINE_COLORS
from cnn_jax.runs.folder import Run, is_timing, read_run
from cnn_jax.runs.names import METRICS, duration, in_order, main_metric, metric, show, show_spread

from ..compare import (
    Group,
    Statistic,
    by_length,
    common_split,
    counted,
    measured,
    number,
    overlaid,
    print_table,
    written,
)
from .plan import Plan, PlannedRun

PAGE, DATA = "comparison.html", "comparison.json"

_MORE = 2  # metrics in the table besides the main one; the file has all of them


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        setting: its values.
        runs: its finished runs, by seed.
        figures: each metric's last value over these runs.
    """

    setting: Mapping[str, Any]
    runs: Mapping[int, Run]
    figures: Mapping[str, Statistic]

    @property
    def group(self) -> Group:
        """The runs as `compare` draws them."""
        return Group(list(self.runs.values()), self.setting)


@dataclass(frozen=True)
class Comparison:
    """The finished runs of a sweep.

    Attributes:
        plan: the sweep.
        split: the split whose figures count.
        key: the metric that orders the rows.
        rows: the settings of which a run has finished, best first.
        failed: what became of the other runs, in one line each, by name.
    """

    plan: Plan
    split: str
    key: str
    rows: Sequence[Row]
    failed: Mapping[str, str]


def check_metric(key: str | None) -> None:
    """Raise UserError unless a metric of this name has a better and a worse."""
    ordered = [name for name, known in METRICS.items() if known.higher_is_better is not None]
    if key is not None and key not in ordered:
        raise UserError(f"--metric {key}: no metric that orders runs{nearest(key, ordered)}")


def compared(plan: Plan, failed: Mapping[str, str], key: str | None) -> Comparison:
    """Read the finished runs and put their settings in order.

    Args:
        plan: the sweep, of which at least one run has finished.
        failed: what became of the other runs.
        key: the metric that orders; None for the verb's main one.

    Raises:
        UserError: a run cannot be read, or none has the metric.
    """
    found: list[tuple[Mapping[str, Any], dict[int, Run]]] = []
    for setting in plan.settings:
        runs = {r.seed: read_run(r.folder) for r in _of(plan, setting) if r.name not in failed}
        if runs:
            found.append((setting, runs))
    split = common_split([Group(list(runs.values()), setting) for setting, runs in found])
    rows = [
        Row(setting, runs, measured(Group(list(runs.values()), setting), split))
        for setting, runs in found
    ]
    keys = in_order(key for row in rows for key in row.figures)
    chosen = key or main_metric(keys)
    if chosen not in keys:
        raise UserError(f"--metric {chosen}: the runs have {', '.join(keys)}")

    def goodness(row: Row) -> float:
        figure = row.figures.get(chosen)
        if figure is None or not math.isfinite(figure.mean):
            return math.inf
        return -figure.mean if metric(chosen).higher_is_better else figure.mean

    return Comparison(plan, split, chosen, sorted(rows, key=goodness), failed)


def _of(plan: Plan, setting: Mapping[str, Any]) -> list[PlannedRun]:
    return [run for run in plan.runs if run.setting is setting]


def write(found: Comparison) -> Path:
    """Print the table; write it, with curves, as a page, and its figures as JSON.

    Returns:
        The page's path.
    """
    header, cells = table(found)
    names = len(_varied(found.plan))
    print_table(f"last report on {found.split}:", header, cells, left=max(names, 1))
    label = metric(found.key).label
    note = (
        f"The last report on {found.split}, best {label} first; of several seeds, mean ± sample "
        "standard deviation."
    )
    best = [row.group for row in found.rows[:LINE_COLORS]]
    curves = "Curves" if len(best) == len(found.rows) else f"Curves of the best {len(best)}"
    sections: list[Section] = [
        Table("Settings", header, cells, note, left=max(names, 1)),
        Curves(curves, [*overlaid(best), *by_length(best)]),
    ]
    if found.failed:
        lines = [[name, reason] for name, reason in found.failed.items()]
        sections.append(Table("Runs that did not finish", ["run", "reason"], lines, left=2))
    out = found.plan.out
    lead = (
        f"{counted(len(found.plan.runs), 'run')} of {found.plan.verb}: "
        f"{counted(len(found.plan.settings), 'setting')}, best {label} first."
    )
    files.replace(out / PAGE, render(f"Sweep {out.resolve().name}", lead, sections))
    files.replace(out / DATA, json.dumps(summary(found), indent=2, ensure_ascii=False) + "\n")
    return out / PAGE


def table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the setting, the main metric, each seed's, further metrics, the time."""
    varied = _varied(found.plan)
    seeds = list(dict.fromkeys(run.seed for run in found.plan.runs))
    keys = in_order(key for row in found.rows for key in row.figures if not is_timing(key))
    # The loss is shown whatever else there is.
    more = sorted((k for k in keys if k != found.key), key=lambda key: key != "loss")[:_MORE]
    several = len(seeds) > 1
    header = [
        *(varied or ["setting"]),
        metric(found.key).label,
        *(f"seed {seed}" for seed in seeds if several),
        *(metric(key).label for key in more),
        "time of a run",
    ]
    return header, [
        _cells(row, found, varied, seeds if several else [], more) for row in found.rows
    ]


def _cells(
    row: Row, found: Comparison, varied: Sequence[str], seeds: Sequence[int], more: Sequence[str]
) -> list[str]:
    def figure(key: str) -> str:
        value = row.figures.get(key)
        return "" if value is None else show_spread(key, value.mean, value.spread)

    planned = {run.seed for run in _of(found.plan, row.setting)}

    def of_seed(seed: int) -> str:
        if seed not in row.runs:
            return "failed" if seed in planned else ""
        last = row.runs[seed].last(found.split) or {}
        return show(found.key, last.get(found.key))

    seconds = Statistic.of([r.seconds for r in row.runs.values() if r.seconds is not None])
    return [
        *([written(row.setting[name]) for name in varied] or ["defaults"]),
        figure(found.key),
        *map(of_seed, seeds),
        *map(figure, more),
        "" if seconds is None else duration(seconds.mean),
    ]


def _varied(plan: Plan) -> list[str]:
    return list(plan.settings[0])


def summary(found: Comparison) -> dict[str, Any]:
    """The comparison's numbers, for programs; they hold no times."""

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    def of_run(run: Run) -> dict[str, Any]:
        last = run.last(found.split) or {}
        values = {k: finite(number(v)) for k, v in last.items() if k in METRICS or k == "step"}
        return {"folder": run.path.name, **{k: v for k, v in values.items() if not is_timing(k)}}

    return {
        "verb": found.plan.verb,
        "split": found.split,
        "metric": found.key,
        "settings": [
            {
                "setting": dict(row.setting),
                "metrics": {
                    key: {"mean": finite(value.mean), "spread": finite(value.spread)}
                    for key, value in row.figures.items()
                    if not is_timing(key)
                },
                "seeds": {str(seed): of_run(run) for seed, run in row.runs.items()},
            }
            for row in found.rows
        ],
        "failed": list(found.failed),
    }
