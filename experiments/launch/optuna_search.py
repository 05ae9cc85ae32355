"""A search with Optuna, whose study is a file of SQLite: copy it, and change what is marked "<-".

python -m experiments.launch.optuna_search runs/search 20     # needs .[search]

Trial 7 is the run `runs/search/trial=7`. Started again, the same command goes on to the number of
trials, and first repeats those that were cut short. Several processes, also on several machines
that share the folder and have PostgreSQL or a journal in SQLite's place, work on one study.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from cnn_jax.errors import UserError
from cnn_jax.runs.claim import is_claimed

from ..options import entry
from ..sweep.jobs import UNFINISHED, guarded

try:
    import optuna
except ImportError:
    optuna = None

# <- the command that trains, and the flags that all trials share
VERB = "classify"
FIXED = ["--epochs", "1", "--eval-every", "20"]
METRIC, DIRECTION = "top1", "maximize"  # <-


def flags(trial: "optuna.Trial") -> dict[str, str]:
    """The flags that the tuner chooses."""
    return {  # <-
        "learning-rate": f"{trial.suggest_float('learning_rate', 1e-3, 1, log=True):.4g}",
        "label-smoothing": f"{trial.suggest_float('label_smoothing', 0, 0.2):.4g}",
        "model": trial.suggest_categorical("model", ["resnet20", "vgg11_bn"]),
    }


def objective(trial: "optuna.Trial", out: Path) -> float:
    """Carry one trial out as a run of its own, and return its last figure."""
    # A repeated trial has the values of the one that was cut short, and goes on with its run.
    number = trial.user_attrs.get("run", trial.number)
    folder = out / f"trial={number}"
    trial.set_user_attr("run", number)
    given = [f"--{name}={value}" for name, value in flags(trial).items()]
    while is_claimed(folder):  # by a run that a killed search has left, and that is about to end
        time.sleep(1)
    resumed = ["--resume"] if (folder / "config.json").exists() else []
    module = f"{__package__.partition('.')[0]}.{VERB}"
    line = [sys.executable, "-m", module, *FIXED, *given, f"--out={folder}", *resumed]
    status = subprocess.run(guarded(line)).returncode
    if status == UNFINISHED:  # it was asked to end early, and so is the search; it stays open
        raise SystemExit(status)
    if status == 3:  # the loss is not finite
        raise optuna.TrialPruned
    if status:
        raise RuntimeError(f"{folder}: status {status}")
    return json.loads((folder / "result.json").read_text())[METRIC]


def main() -> None:
    """Open or create the study, repeat what was cut short, and carry out the other trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("trials", type=int)
    options = parser.parse_args()
    if optuna is None:
        raise UserError("Optuna is not installed: pip install 'cnn_jax[search]'")
    options.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{options.out / 'optuna.db'}",
        study_name="search",
        direction=DIRECTION,
        load_if_exists=True,
    )
    # Another seed at each start: the first draws of one seed are the same.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        # A kill left it. Where several processes search, leave this out.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        run = trial.user_attrs.get("run", trial.number)
        study.enqueue_trial(trial.params, user_attrs={"run": run})
    while (missing := options.trials - len(study.get_trials(states=ended))) > 0:
        study.optimize(lambda trial: objective(trial, options.out), n_trials=missing)
    best = study.best_trial
    print(f"best: trial={best.user_attrs['run']}, {best.params}, {METRIC} {best.value:.4f}")


if __name__ == "__main__":
    entry(main)
