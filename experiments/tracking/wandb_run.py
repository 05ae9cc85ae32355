"""A run of Weights & Biases. Its variables count: `WANDB_MODE`, `WANDB_PROJECT`, ..."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from . import PROJECT, Status

_EXIT_CODES: dict[Status, int] = {"finished": 0, "stopped": 75, "failed": 1}


class WandbRun:
    """See `experiments.tracking.Service`. What is kept on this machine is in the run's folder."""

    def __init__(self, out: Path, name: str) -> None:
        self.name = name
        self._run = wandb.init(
            id=name,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=out.name,
            dir=str(out),
            # Its capture of what is printed would stand between the run and the terminal.
            settings=wandb.Settings(console="off"),
        )
        # Steps that a resumed run makes again are not refused.
        self._run.define_metric("*", step_metric="step")
        self._run.summary["folder"] = str(out)

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def finish(self, status: Status, drawn: Sequence[Path], described: Sequence[Path]) -> None:
        shown = {f"samples/{path.stem}": wandb.Image(str(path)) for path in drawn}
        if shown:
            self._run.log(shown)
        for path in described:
            # A copy: W&B would link to the file, and the run's folder may move before it is synced.
            copy = shutil.copy(path, self._run.dir)
            self._run.save(copy, base_path=self._run.dir, policy="now")
        self._run.finish(exit_code=_EXIT_CODES[status])


def follow(out: Path, name: str | None) -> WandbRun:
    """Go on with the run of this name, or begin a new one."""
    return WandbRun(out, name or secrets.token_hex(4))
