"""A run that a service follows: Weights & Biases, or MLflow (`--track`).

A thread hands over what the run writes: its config, every row of metrics, the result of every
evaluation, and at the end the last pictures and the files that describe the run. What fails there
ends that with one warning, and never the run.

A resumed run goes on as the same run of the service, whose name for it is in `tracking.json`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from cnn_jax import files
from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.reports.per_class import PER_CLASS_FILE
from cnn_jax.reports.report import REPORT_FILE
from cnn_jax.runs.folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    RESULT_FILE,
    pictures,
    read_object,
)
from cnn_jax.training.background import Background

from ..options import RunOptions, warn

TRACKING_FILE = "tracking.json"
"""The file of a run's folder with the names that services have for the run, by service."""

DESCRIBING = (CONFIG_FILE, ENVIRONMENT_FILE, RESULT_FILE, PER_CLASS_FILE, REPORT_FILE)
"""The files of a run's folder that a service gets."""

PROJECT = "cnn_jax"
"""The project or experiment that runs are in, where the service's own variable names no other."""

Status = Literal["finished", "stopped", "failed"]


class Service(Protocol):
    """One run of a service. It is made by a module's `follow(out, name)`.

    Attributes:
        name: the service's name for the run, by which it is found again.
    """

    name: str

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Take every resolved option."""
        ...

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take metrics by `split/metric`; those that are not finite are NaN."""
        ...

    def finish(self, status: Status, drawn: Sequence[Path], described: Sequence[Path]) -> None:
        """Take the last pictures and the files that describe the run, and close it."""
        ...


class Tracking:
    """Hands a run over to a service; see `cnn_jax.runs.log.Tracker`.

    Use it as a context manager inside that of the run's log, which may refuse the folder.

    Args:
        kind: the name of the service, and of its module here.
        out: the run's folder.
    """

    def __init__(self, kind: str, out: Path) -> None:
        self._kind, self._out = kind, out
        self._background, self._told = Background(), False
        self._service: Service

    def __enter__(self) -> "Tracking":
        self._do(self._follow)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status: Status = "finished" if kind is None else "failed"
        if kind is not None and issubclass(kind, UnfinishedError | KeyboardInterrupt):
            status = "stopped"
        self._do(lambda: self._finish(status))
        self._background.__exit__(kind, error, traceback)
        self._tell()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Hand over every resolved option."""
        self._do(lambda: self._service.write_config(config))

    def report(self, step: int, split: str, metrics: Mapping[str, int | float | None]) -> None:
        """Hand over a row of metrics, of a split or of the result; None is not finite."""
        named = {
            f"{split}/{key}": math.nan if value is None else float(value)
            for key, value in metrics.items()
        }
        self._do(lambda: self._service.report(step, named))

    def _follow(self) -> None:
        """Begin the service's run, or go on with the one that it has."""
        path = self._out / TRACKING_FILE
        names = read_object(path, missing_ok=True)
        module = import_module(f".{self._kind}_run", __name__)
        self._service = module.follow(self._out.resolve(), names.get(self._kind))
        names[self._kind] = self._service.name
        files.replace(path, json.dumps(names, indent=2) + "\n")

    def _finish(self, status: Status) -> None:
        described = [self._out / name for name in DESCRIBING]
        existing = [path for path in described if path.exists()]
        self._service.finish(status, pictures(self._out), existing)

    def _do(self, job: Callable[[], None]) -> None:
        """Let the thread do a job after those before it, unless one has failed."""
        self._tell()
        if self._background.failure is None:
            self._background.submit(job)

    def _tell(self) -> None:
        failure = self._background.failure
        if failure is not None and not self._told:
            self._told = True
            reason = " ".join(str(failure).split()) or type(failure).__name__
            warn(f"--track {self._kind}: {reason[:300]}; the run goes on without it")


def check_package(options: RunOptions) -> None:
    """Raise UserError if the package of the service that is asked for is not installed."""
    if options.track is None:
        return
    spec = find_spec(options.track)
    # A folder of this name, which these services make, passes for a package without a file.
    if spec is None or spec.origin is None:
        raise UserError(
            f"--track {options.track}: needs pip install 'cnn_jax[{options.track}]'; "
            "--track None goes without"
        )


def followed(options: RunOptions, out: Path, enabled: bool) -> Tracking | None:
    """The tracking that is asked for, of the first process; None for none."""
    return Tracking(options.track, out) if options.track is not None and enabled else None
