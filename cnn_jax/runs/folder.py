"""Reader of a run's folder."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.ranges import LARGEST_INT
from cnn_jax.reading import read_json, read_text

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
NETWORK_FILE = "network.svg"
SAMPLES = "samples"
"""The folder of the pictures of the last evaluation, in PNG files, and of those of `predict`."""
PREDICTED_PREFIX = "predict_"
"""The names of the pictures of `predict` begin so."""

# The keys that say where the time since the last row went, in seconds, begin so.
TIME_PREFIX = "time_"
# Keys of a row that are not measurements.
ROW_KEYS = ("step", "split", "seconds")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """The content of a run's folder.

    Attributes:
        path: the folder.
        config: every resolved option.
        environment: versions, devices and command; empty where the file is missing.
        rows: the reports in the order written: `step`, `split`, `seconds` and metrics. A metric
            that was not finite is None.
        result: the last evaluation; empty before the first one.
    """

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    result: Mapping[str, Any]

    @property
    def splits(self) -> list[str]:
        """The splits reported, in order of first appearance."""
        return list(dict.fromkeys(row["split"] for row in self.rows))

    def keys(self, split: str) -> list[str]:
        """Return the metric keys reported for a split, in order of first appearance."""
        keys = dict.fromkeys(key for row in self.rows if row["split"] == split for key in row)
        return [key for key in keys if not (key in ROW_KEYS or key.startswith(TIME_PREFIX))]

    def last(self, split: str) -> Row | None:
        """Return the last report of a split, or None."""
        return next((row for row in reversed(self.rows) if row["split"] == split), None)

    def series(self, split: str, key: str) -> tuple[list[int], list[float]]:
        """Return the steps and the values of one metric, in order of steps.

        If a step was reported twice (a repeated evaluation), the later report counts. Values that
        were not finite are NaN.
        """
        values = {
            row["step"]: math.nan if row[key] is None else float(row[key])
            for row in self.rows
            if row["split"] == split and key in row
        }
        steps = sorted(values)
        return steps, [values[step] for step in steps]

    @property
    def times(self) -> dict[str, float]:
        """The seconds up to the last report by what they went into, as `time_steps`."""
        times: dict[str, float] = {}
        for row in self.rows:
            for key, seconds in row.items():
                if key.startswith(TIME_PREFIX):
                    times[key] = times.get(key, 0.0) + (seconds or 0.0)
        return times

    @property
    def steps(self) -> int:
        """The last step reported."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def seconds(self) -> int | float | None:
        """Wall time up to the last report, over all resumptions; None if unknown."""
        return max((row["seconds"] for row in self.rows if "seconds" in row), default=None)


def is_timing(key: str) -> bool:
    """Tell a time or speed: two runs of the same config and seed differ only in these."""
    return key in ("examples_per_second", "device_busy", "seconds") or key.startswith(TIME_PREFIX)


def read_run(path: str | Path) -> Run:
    """Read a run's folder; the run may still be writing it.

    Raises:
        UserError: the folder, its `config.json` or its `metrics.jsonl` is missing, or a file is
            malformed; the message names the file and the line.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the folder of a run (its --out)")
    for name in (CONFIG_FILE, METRICS_FILE):
        if not (path / name).is_file():
            raise UserError(f"{path}: not the folder of a run: {name} is missing")
    return Run(
        path=path,
        config=read_object(path / CONFIG_FILE),
        environment=read_object(path / ENVIRONMENT_FILE, missing_ok=True),
        rows=read_rows(path / METRICS_FILE),
        result=read_object(path / RESULT_FILE, missing_ok=True),
    )


def pictures(directory: Path) -> list[Path]:
    """The pictures of a run's last evaluation, in the order of their names."""
    found = sorted((directory / SAMPLES).glob("[!.]*.png"))
    return [path for path in found if not path.name.startswith(PREDICTED_PREFIX)]


def read_object(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: the file.
        missing_ok: whether a missing file reads as an empty object.

    Raises:
        UserError: the file is missing, unreadable or not a JSON object.
    """
    if missing_ok and not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}:1: expected a JSON object, found a {type(value).__name__}")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the reports of a `metrics.jsonl`.

    A last line without an end is skipped: a killed process leaves one, and a running process may
    be writing one.

    Raises:
        UserError: the file is unreadable, or another line is not a report.
    """
    lines = read_text(path).split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # A whole line ends in a newline: this one was cut.
                break
            reason = getattr(error, "msg", None) or "its values are nested too deeply or too long"
            raise UserError(f"{path}:{number}: not JSON ({reason})") from None
        problem = _row_problem(row)
        if problem:
            raise UserError(f"{path}:{number}: not a report: {problem}")
        rows.append(row)
    return rows


def result_step(directory: Path) -> int:
    """Read the step of the last complete evaluation; -1 where none is, or its file is damaged."""
    try:
        step = read_object(directory / RESULT_FILE, missing_ok=True).get("step")
    except UserError:
        return -1
    return step if isinstance(step, int) else -1


def evaluated(directory: Path, step: int, split: str = "eval") -> bool:
    """Tell whether a run's evaluation of a step is complete: its row, its page and its result.

    The result is written last (see `cnn_jax.runs.log.RunLog`).

    Raises:
        UserError: the rows cannot be read.
    """
    path = directory / METRICS_FILE
    if not path.exists() or result_step(directory) < step:
        return False
    return any((row["step"], row["split"]) == (step, split) for row in read_rows(path))


def _row_problem(row: Any) -> str | None:
    """Return the reason why a parsed line is not a report; None if it is one."""
    if not isinstance(row, dict):
        return f"expected an object, found a {type(row).__name__}"
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= LARGEST_INT:
        return 'expected "step" to be a whole number of 0 or more'
    if not isinstance(row.get("split"), str):
        return 'expected "split" to be a name such as "train"'
    for key, value in row.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            number = False
        if key not in ("step", "split") and not (number or value is None):
            return f'expected "{key}" to be a number or null'
    return None
