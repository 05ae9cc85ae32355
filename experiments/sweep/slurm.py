"""A sweep as a Slurm array: `experiments/launch/slurm.sh` with a task for each run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnn_jax import files
from cnn_jax.errors import UserError

from .plan import LOGS, Plan, PlannedRun

ARRAY_FILE = "array.sh"
_TEMPLATE = Path(__file__).parents[1] / "launch" / "slurm.sh"

# A run of a sweep is smaller than what the file is written for.
_DEFAULTS = {"nodes": "1", "gpus-per-node": "1", "cpus-per-task": "8"}


def write(plan: Plan, at_a_time: int | None, sbatch: Sequence[str], submit: bool) -> None:
    """Write the array of the runs that have not finished, and tell how to hand it in, or do so.

    Args:
        plan: the sweep.
        at_a_time: the most tasks that run at a time; None for any number.
        sbatch: options of sbatch, `NAME=VALUE`.
        submit: whether it is handed in.

    Raises:
        UserError: an option is of another form, or sbatch is missing or refuses.
    """
    options = {}
    for item in sbatch:
        name, _, value = item.lstrip("-").partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", name) or not value or "\n" in value:
            raise UserError(f"--sbatch {item}: must be NAME=VALUE, as in time=02:00:00")
        options[name] = value
    pending = [run for run in plan.runs if not run.finished]
    path = plan.out / ARRAY_FILE
    if not pending:
        print("all runs have finished; the same command without --slurm compares them")
        return
    files.replace(path, script(plan, pending, at_a_time, options))
    if not submit:
        print(f"{len(pending)} of {len(plan.runs)} runs; hand them in: sbatch {path}")
    else:
        try:
            told = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
        except FileNotFoundError:
            raise UserError(f"--submit: no sbatch here; where it is: sbatch {path}") from None
        if told.returncode:
            raise UserError(f"--submit: sbatch {path}: {' '.join(told.stderr.split())}")
        print(told.stdout.strip())
    print("when they have ended, the same command without --slurm compares them")


def script(
    plan: Plan, runs: Sequence[PlannedRun], at_a_time: int | None, options: Mapping[str, str]
) -> str:
    """The array: the header and the end of `slurm.sh`, with a run for each task.

    Args:
        plan: the sweep.
        runs: the runs of the array.
        at_a_time: the most tasks that run at a time; None for any number.
        options: of sbatch, in place of those of the file.
    """
    head, _, body = _TEMPLATE.read_text().partition("set -u\n")
    given = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S*))?", head, flags=re.M)
    limit = "" if at_a_time is None else f"%{at_a_time}"
    header = {
        **dict(given),
        **_DEFAULTS,
        "job-name": "sweep",
        "array": f"0-{len(runs) - 1}{limit}",
        "chdir": str(Path.cwd()),
        "output": f"{plan.out / LOGS}/array-%A_%a.log",
        **options,
    }
    lines = [f"#SBATCH --{name}" + (f"={value}" if value else "") for name, value in header.items()]
    tasks = [
        f"  {number}) name={shlex.quote(run.name)}; arguments=({shlex.join(run.arguments)}) ;;"
        for number, run in enumerate(runs)
    ]
    chosen = ['case "$SLURM_ARRAY_TASK_ID" in', *tasks, "esac", 'out="$sweep/$name"']
    module = f"{__package__.partition('.')[0]}.{plan.verb}"
    for pattern, new in (
        (r"^out=.*$", "\n".join(chosen)),
        (r"^# <- the training.*\n", ""),
        (
            r"^srun .*\\\n(?:.*\\\n)*.*$",
            'srun --kill-on-bad-exit=0 --open-mode=append --output="$sweep/logs/$name.log" \\\n'
            f"  {shlex.quote(sys.executable)} -m {module} --distributed "
            '--out "$out" "${resume[@]}" "${arguments[@]}"',
        ),
        (r"^status=\$\?$", 'status=$?\necho "$status" > "$sweep/logs/$name.status"'),
    ):
        body, count = re.subn(pattern, lambda _, new=new: new, body, flags=re.M)
        if count != 1:
            raise RuntimeError(f"{_TEMPLATE}: {count} places match {pattern}")
    about = (
        "# A sweep as a Slurm array, made of experiments/launch/slurm.sh; a task resumes its run."
    )
    sweep = f"sweep={shlex.quote(str(plan.out))}"
    return "\n".join(["#!/bin/bash", about, *lines, "", "set -u", "", sweep, body.lstrip("\n")])
