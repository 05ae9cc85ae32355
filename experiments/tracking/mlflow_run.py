"""A run of MLflow. Its variables count: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`, ..."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# A server that does not answer would hold the end of a run for half an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from . import PROJECT, Status

_STATES: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

# The most parameters that MLflow takes at once, and the longest value of one.
_PARAMETERS, _LONGEST = 100, 6000


class MlflowRun:
    """See `experiments.tracking.Service`.

    MLflow lets no parameter change. Where a resumed run has another value, `config.json` among the
    artifacts has it.
    """

    def __init__(self, client: MlflowClient, name: str) -> None:
        self.name = name
        self._client = client

    def write_config(self, config: Mapping[str, Any]) -> None:
        known = self._client.get_run(self.name).data.params
        values = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in config.items()
            if key not in known
        }
        parameters = [Param(key, value[:_LONGEST]) for key, value in values.items()]
        for begin in range(0, len(parameters), _PARAMETERS):
            part = parameters[begin : begin + _PARAMETERS]
            self._client.log_batch(self.name, params=part)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        rows = [Metric(key, value, now, step) for key, value in metrics.items()]
        self._client.log_batch(self.name, metrics=rows)

    def finish(self, status: Status, drawn: Sequence[Path], described: Sequence[Path]) -> None:
        for path in drawn:
            self._client.log_artifact(self.name, str(path), path.parent.name)
        for path in described:
            self._client.log_artifact(self.name, str(path))
        self._client.set_terminated(self.name, _STATES[status])


def follow(out: Path, name: str | None) -> MlflowRun:
    """Go on with the run of this name, or begin a new one."""
    client = MlflowClient()
    if name is None:
        place = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(place)
        number = client.create_experiment(place) if experiment is None else experiment.experiment_id
        name = client.create_run(number, run_name=out.name).info.run_id
    else:
        client.update_run(name, "RUNNING")
    client.set_tag(name, "folder", str(out))
    return MlflowRun(client, name)
