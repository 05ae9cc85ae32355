"""The options of every verb that has flags, for tests of all of them."""

import importlib

from experiments import options as flags
from experiments.__main__ import VERBS


def _options(verb):
    if verb == "predict":
        return flags.PredictOptions
    name = f"experiments.{verb}"
    return importlib.import_module(f"{name}.__main__" if verb == "benchmark" else name).Options


OPTIONS = {verb: _options(verb) for verb in VERBS if verb != "tour"}
"""By verb, in the order of `--help`."""
