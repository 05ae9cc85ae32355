"""Writer of a run's folder, and display of the run's progress.

Only one process writes. The others make a log that is not `enabled` and call it in the same way.
Rows of `metrics.jsonl` are whole lines. A kill may cut the last line; resuming removes it.
"""

import dataclasses
import enum
import io
import json
import logging
import math
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnn_jax import files
from cnn_jax.errors import UserError
from cnn_jax.progress import PipeConsole
from cnn_jax.runs.environment import describe_environment
from cnn_jax.runs.folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RESULT_FILE,
    TIME_PREFIX,
    pictures,
    read_object,
    read_rows,
    result_step,
)
from cnn_jax.runs.names import in_order, metric, show

# Without a terminal, a training line is printed at each of this many parts of the run, or when
# this many seconds have passed since the last one. So the log stays alive and short.
QUIET_PARTS = 20
QUIET_SECONDS = 60.0

_RGB = 3  # TensorBoard's number for it


@runtime_checkable
class Tracker(Protocol):
    """A follower of what a log writes."""

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Take every resolved option, as JSON has them."""
        ...

    def report(self, step: int, split: str, metrics: Mapping[str, int | float | None]) -> None:
        """Take a row of metrics, or those of the last evaluation, whose split is `"result"`."""
        ...


class RunLog:
    """The writer of a run's folder.

    Use it as a context manager, which shows the progress bar and removes it:

        with RunLog(out, total_steps=1000) as log:
            log.write_config(options)
            log.write_environment()
            for step in range(1, 1001):
                ...
                log.advance(step)
                if step % 100 == 0:
                    log.report(step, "train", {"loss": loss, "examples_per_second": rate})

    A row is on disk when `report` returns. `write_result` comes last of an evaluation, after its
    row, pictures and page: `folder.evaluated` then tells a resumed run that nothing is missing.

    Args:
        directory: the run's folder; created if missing.
        total_steps: the last step of the run.
        resumed_step: the step of the checkpoint that the run continues from. Later rows and a cut
            last line are removed, so that the file equals that of an uninterrupted run except for
            times and speeds. A row that is reported again takes the place of the earlier one.
            None starts a new run.
        appended: whether rows are appended to those of an earlier run, whatever their steps, as
            a repeated evaluation needs.
        console: the console for lines and the bar; standard error by default.
        enabled: False makes every method do nothing; for all processes but the first.
        clock: a monotonic clock in seconds.
        tracker: told what is written, after it is.

    Raises:
        UserError: the folder cannot be written, or a new run would overwrite another's metrics.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        total_steps: int,
        resumed_step: int | None = None,
        appended: bool = False,
        console: Console | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
        tracker: Tracker | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.total_steps = total_steps
        self.enabled = enabled
        self._resumed_step = resumed_step
        self._clock = clock
        self._tracker = tracker
        self._earlier_seconds = 0.0
        self._start = clock()
        self._printed_step = 0 if resumed_step is None else resumed_step
        self._printed_at = -math.inf
        self._events: Any = None
        self._progress = None
        self._task = None
        self._repeated: set[tuple[int, str]] = set()  # rows that a resumed run may write again
        if not enabled:
            return
        self.console = console or PipeConsole(stderr=True)
        with files.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        metrics = self.directory / METRICS_FILE
        if resumed_step is not None:
            self._rewind(resumed_step)
        elif appended:
            self._start_from(self._whole_rows())
        elif metrics.exists() and metrics.stat().st_size:
            raise UserError(
                f"{self.directory}: already holds a run; continue it with --resume, "
                "or give another folder with --out"
            )

    def __enter__(self) -> "RunLog":
        if self.enabled and self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self.console,
                refresh_per_second=4,
            )
            # The bar starts at the resumed step, so that its speed is that of this process.
            self._task = self._progress.add_task(
                "compiling",
                total=self.total_steps,
                completed=self._resumed_step or 0,
                speed="",
                loss="",
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar and close the files; a second call does nothing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        events, self._events = self._events, None
        if events is not None:
            with files.writing(self.directory):
                events.close()

    def write_config(self, config: Any) -> None:
        """Write `config.json`: a dataclass or mapping of every resolved option."""
        if not self.enabled:
            return
        config = plain(config)
        _write_json(self.directory / CONFIG_FILE, config)
        if self._tracker is not None:
            self._tracker.write_config(config)

    def write_environment(self) -> None:
        """Write `environment.json`; a resumed run keeps the earlier ones under `"earlier"`."""
        if not self.enabled:
            return
        path = self.directory / ENVIRONMENT_FILE
        environment = describe_environment()
        if self._resumed_step is not None:
            previous = read_object(path, missing_ok=True)
            earlier = previous.pop("earlier", [])
            environment["resumed_step"] = self._resumed_step
            earlier = earlier if isinstance(earlier, list) else [earlier]
            environment["earlier"] = [*earlier, previous] if previous else earlier
            self._compare_processors(previous, environment)
        _write_json(path, environment)

    def _compare_processors(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Tell a run on processors that it goes on on another number of them."""
        counts = [each.get("cpu_count") for each in (before, now)]
        on_processors = before.get("backend") == now["backend"] == "cpu"
        if on_processors and counts[0] is not None and counts[0] != counts[1]:
            self.message(
                f"processors: {counts[0]} before, now {counts[1]}: sums may differ in their last "
                "bits from those of a run that was not stopped"
            )

    def report(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """Append one row to `metrics.jsonl` and TensorBoard, and print it.

        Args:
            step: number of updates made so far.
            split: `"train"`, `"eval"` or `"test"`.
            metrics: scalars by key, on the host or a device; fractions in 0..1.
                `examples_per_second` is measured by the caller.
        """
        if not self.enabled:
            return
        metrics = {key: plain(value) for key, value in metrics.items()}
        row = {"step": int(step), "split": split, **metrics}
        row["seconds"] = round(self._earlier_seconds + self._clock() - self._start, 3)
        path = self.directory / METRICS_FILE
        if (step, split) in self._repeated:
            self._repeated.remove((step, split))
            self._write_rows(kept for kept in self._whole_rows() if _place(kept) != (step, split))
        with files.writing(path), path.open("a", encoding="utf-8") as file:
            file.write(_dump(row) + "\n")
        self._write_scalars(step, split, metrics)
        if self._tracker is not None:
            self._tracker.report(step, split, metrics)
        self._show(step, split, metrics)

    def report_pictures(self, step: int, split: str) -> None:
        """Append the pictures of the last evaluation, as its report drew them, to TensorBoard.

        Args:
            step: number of updates made so far.
            split: the split that was evaluated.
        """
        if not self.enabled:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        values = []
        for path in pictures(self.directory):
            with files.writing(path):
                content = path.read_bytes()
            width, height = Image.open(io.BytesIO(content)).size
            picture = Summary.Image(
                width=width, height=height, colorspace=_RGB, encoded_image_string=content
            )
            values.append(Summary.Value(tag=f"{split}/{path.stem}", image=picture))
        self._write_events(step, [Summary(value=[value]) for value in values])

    def write_result(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """Replace `result.json` by an evaluation whose row, pictures and page are written."""
        if not self.enabled:
            return
        metrics = plain(metrics)
        result = {"step": int(step), "split": split, **metrics}
        _write_json(self.directory / RESULT_FILE, result)
        if self._tracker is not None:
            self._tracker.report(step, "result", metrics)

    def advance(self, step: int) -> None:
        """Move the bar to a step; this is cheap enough for every step."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description="training")

    def phase(self, name: str) -> None:
        """Show an activity such as `"evaluating"` before the bar, until the next `advance`."""
        if self._progress is not None:
            self._progress.update(self._task, description=name)

    def message(self, text: str) -> None:
        """Print a line of text above the bar."""
        if self.enabled:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _whole_rows(self) -> list[dict[str, Any]]:
        """Read the rows that are there."""
        path = self.directory / METRICS_FILE
        return read_rows(path) if path.exists() else []

    def _write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        files.replace(self.directory / METRICS_FILE, "".join(_dump(row) + "\n" for row in rows))

    def _start_from(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows back that are kept, and continue the clock from them."""
        self._write_rows(rows)
        self._earlier_seconds = max((row.get("seconds", 0.0) for row in rows), default=0.0)

    def _rewind(self, step: int) -> None:
        """Restore the rows, the result and the clock of the moment when `step` was saved."""
        result = self.directory / RESULT_FILE
        complete = result_step(self.directory)
        rows = [row for row in self._whole_rows() if row["step"] <= step]
        self._start_from(rows)
        self._repeated = {_place(row) for row in rows}
        # An evaluation that was cut short has a row, and no result.
        evaluations = [row for row in rows if row["split"] != "train" and row["step"] <= complete]
        if evaluations:
            last = {key: value for key, value in evaluations[-1].items() if _in_result(key)}
            _write_json(result, last)
        else:
            with files.writing(result):
                result.unlink(missing_ok=True)

    def _show(self, step: int, split: str, metrics: Mapping[str, int | float | None]) -> None:
        """Print a report as one line and update the bar."""
        if self._progress is None:
            if split == "train" and not self._due(step):
                return
        elif split == "train":
            speed, loss = (metrics.get(key) for key in ("examples_per_second", "loss"))
            self._progress.update(
                self._task,
                speed="" if speed is None else f"{show('examples_per_second', speed)} examples/s",
                loss="" if loss is None else f"loss {show('loss', loss)}",
            )
        self.message(self._line(step, split, metrics))

    def _due(self, step: int) -> bool:
        """Return whether a training line is due in a log without a terminal."""
        parts = [QUIET_PARTS * s // max(self.total_steps, 1) for s in (self._printed_step, step)]
        now = self._clock()
        if parts[0] == parts[1] and now - self._printed_at < QUIET_SECONDS:
            return False
        self._printed_step, self._printed_at = step, now
        return True

    def _line(self, step: int, split: str, metrics: Mapping[str, int | float | None]) -> str:
        width = len(f"{self.total_steps:,}")
        cells = [f"{step:>{width},}/{self.total_steps:,}", f"{split:5}"]
        for key in in_order(key for key in metrics if not key.startswith(TIME_PREFIX)):
            value = show(key, metrics[key])
            is_rate = key == "examples_per_second"
            cells.append(f"{value} examples/s" if is_rate else f"{metric(key).label} {value}")
        return "  ".join(cells)

    def _write_scalars(
        self, step: int, split: str, metrics: Mapping[str, int | float | None]
    ) -> None:
        """Append a row to TensorBoard's file, as `split/metric`."""
        from tensorboardX.summary import scalar

        # Missing metrics are logged as NaN, without a warning.
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
        values = {k: math.nan if value is None else value for k, value in metrics.items()}
        self._write_events(step, [scalar(f"{split}/{k}", value) for k, value in values.items()])

    def _write_events(self, step: int, summaries: Iterable[Any]) -> None:
        """Append summaries to TensorBoard's file."""
        # Imported here because it is slow and only the first process needs it.
        from tensorboardX.proto.event_pb2 import Event

        with files.writing(self.directory):
            if self._events is None:
                self._events = self._new_events()
            for summary in summaries:
                event = Event(wall_time=time.time(), step=step, summary=summary)
                self._events.write(event.SerializeToString())
            self._events.flush()

    def _new_events(self) -> Any:
        """Begin a file of TensorBoard."""
        # The writer of records is used, not those above it: on a full disk one leaves a file open,
        # and the thread of the other ends in a traceback.
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        writer = RecordWriter(str(self.directory / name))
        first = Event(wall_time=now / 1e9, file_version="brain.Event:2")
        writer.write(first.SerializeToString())
        if self._resumed_step is not None:
            # Tells TensorBoard to discard these and later steps of earlier files.
            begin = SessionLog(status=SessionLog.START)
            event = Event(wall_time=now / 1e9, step=self._resumed_step + 1, session_log=begin)
            writer.write(event.SerializeToString())
        return writer


def plain(value: Any) -> Any:
    """Convert a value to one that JSON can hold.

    Dataclasses and mappings become objects, sequences and arrays become lists, and paths and all
    other types become text. Numbers that are not finite become None. A float32 becomes the
    shortest decimal number that reads back as the same float32.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, jax.Array | np.ndarray):
        array = np.asarray(value)
        return plain(array[()]) if array.ndim == 0 else [plain(item) for item in array]
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, np.generic) and jnp.issubdtype(value.dtype, jnp.floating):
        return plain(float(str(value)))
    return getattr(value, "__name__", None) or str(value)


def _place(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["step"], row["split"]


def _in_result(key: str) -> bool:
    """Tell whether a key of an evaluation's row stands in `result.json` too."""
    return key != "seconds" and not key.startswith(TIME_PREFIX)


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _write_json(path: Path, value: Any) -> None:
    files.replace(path, json.dumps(value, allow_nan=False, ensure_ascii=False, indent=2) + "\n")
