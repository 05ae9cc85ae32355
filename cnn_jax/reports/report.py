"""A run's page, `report.html`: its results, curves, pictures and settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cnn_jax import files
from cnn_jax.reading import read_bytes
from cnn_jax.reports import curves
from cnn_jax.reports.network import NetworkPicture
from cnn_jax.reports.page import Folded, Section, Table, render, settings_table
from cnn_jax.runs.folder import NETWORK_FILE, Run, read_run
from cnn_jax.runs.names import duration, in_order, main_metric, metric, show

REPORT_FILE = "report.html"


@runtime_checkable
class Evaluation(Protocol):
    """The outcome of an evaluation (see `cnn_jax.training.evaluation.Evaluation`)."""

    metrics: Mapping[str, float]
    sums: Mapping[str, Any]
    details: Any


def write_report(directory: str | Path, *, sections: Sequence[Section] = ()) -> Path:
    """Write `report.html` into a run's folder, from what the folder holds.

    Args:
        directory: the run's folder.
        sections: the task's own sections, placed after the curves.

    Returns:
        The file's path.

    Raises:
        UserError: the folder cannot be read or written.
    """
    run = read_run(directory)
    grown = curves.of_run(run)
    parts = [results_table(run), *([grown] if grown.charts else []), *sections]
    network = Path(directory) / NETWORK_FILE
    if network.is_file():
        parts.append(NetworkPicture("Network", read_bytes(network)))
    if run.times:
        parts.append(times_table(run))
    parts.append(Folded(settings_table("Settings", run.config)))
    if run.environment:
        parts.append(Folded(settings_table("Environment", run.environment)))
    path = Path(directory) / REPORT_FILE
    command = str(run.environment.get("command", ""))
    files.replace(path, render(title(run), verdict(run), parts, command))
    return path


def title(run: Run) -> str:
    """Format the title, such as `resnet20 on shapes`; by default the folder's name."""
    model, data = (run.config.get(key) for key in ("model", "data"))
    return f"{model} on {data}" if model and data else run.path.resolve().name


def verdict(run: Run) -> str:
    """Summarise the run in one sentence: the main figure, steps, time, device, seed."""
    held_out = [split for split in run.splits if split != "train"]
    # A test counts more than an evaluation, on which choices may have been based.
    split = "test" if "test" in held_out else next(iter(held_out), "train")
    row = run.last(split)
    if row is None:
        return "Nothing reported yet."
    key = main_metric(run.keys(split))
    parts = [] if key is None else [f"{metric(key).label} {show(key, row.get(key))} on {split}"]
    parts.append(f"after {row['step']:,} step{'' if row['step'] == 1 else 's'}")
    if run.seconds is not None:
        parts.append(f"in {duration(run.seconds)}")
    if "device_kind" in run.environment:
        count, kind = run.environment.get("device_count", 1), run.environment["device_kind"]
        parts.append(f"on {count} x {kind}" if count != 1 else f"on one {kind}")
    if "seed" in run.config:
        parts.append(f"with seed {run.config['seed']}")
    text = " ".join(parts)
    first = text.split()[0]
    if first.islower():  # A name with its own capitals, such as mAP, is unchanged.
        text = text[0].upper() + text[1:]
    return text + "."


def results_table(run: Run) -> Table:
    """Tabulate the last report of every split, and the best evaluation if it was another one."""
    last = {split: row for split in run.splits if (row := run.last(split))}
    keys = in_order(key for split in last for key in run.keys(split))
    best = {key: _best(run, key) for key in keys}
    rows = [["step", *(f"{row['step']:,}" for row in last.values()), ""]]
    for key in keys:
        cells = [show(key, row[key]) if key in row else "" for row in last.values()]
        rows.append([metric(key).label, *cells, best[key]])
    header = ["", *last, "best eval"]
    if not any(best.values()):
        header, *rows = (row[:-1] for row in (header, *rows))
    return Table("Results", header, rows)


def times_table(run: Run) -> Table:
    """Tabulate where the time went: steps on the device, and what it waited for."""
    total = sum(run.times.values()) or 1.0
    largest = sorted(run.times.items(), key=lambda item: -item[1])
    rows = [
        [metric(key).label, f"{seconds:,.1f}", f"{100 * seconds / total:.1f} %"]
        for key, seconds in largest
        if seconds
    ]
    note = "Steps is the time in which the device worked on a step; all other time it waited."
    return Table("Time", ["", "seconds", "share"], rows, note)


def _best(run: Run, key: str) -> str:
    """Format the best evaluation of a metric and its step; empty if there was only one."""
    direction = metric(key).higher_is_better
    steps, values = run.series("eval", key)
    finite = [(value, step) for step, value in zip(steps, values, strict=True) if value == value]
    if direction is None or len(finite) < 2:
        return ""
    # Among equal values, the first counts.
    value, step = max(finite, key=lambda pair: (pair[0] if direction else -pair[0], -pair[1]))
    return f"{show(key, value)} (step {step:,})"
