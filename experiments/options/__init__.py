"""Flags: typed groups of options, parsed from the command line over a file, a preset or a run.

Each group is a frozen dataclass; the options of a command are a dataclass of groups. The name of a
flag is its field's, without the group's.
"""

from .command_line import parse, parse_plain, preset_notice, resumable, typed
from .config import described, recorded, stored
from .data import (
    AUGMENTATION,
    BUILT_IN,
    BYTES_ONLY,
    DATA_RANGES,
    LARGEST_BATCH,
    MOST_WORKERS,
    RGB_ONLY,
    BalanceOptions,
    DataOptions,
    WholeImageOptions,
    rgb_only,
)
from .declare import (
    GIVEN,
    Declared,
    Flag,
    Group,
    checked,
    declared,
    flag,
    group,
    idle,
    read_value,
)
from .messages import as_flags, entry, help_text, program, warn
from .model import ModelOptions, model_group, network_options
from .optimizer import OptimizerOptions
from .predict import PredictOptions, least_score
from .run import Precision, RunOptions
from .values import flat, replace

__all__ = [
    "AUGMENTATION",
    "BUILT_IN",
    "BYTES_ONLY",
    "DATA_RANGES",
    "GIVEN",
    "LARGEST_BATCH",
    "MOST_WORKERS",
    "RGB_ONLY",
    "BalanceOptions",
    "DataOptions",
    "Declared",
    "Flag",
    "Group",
    "ModelOptions",
    "OptimizerOptions",
    "Precision",
    "PredictOptions",
    "RunOptions",
    "WholeImageOptions",
    "as_flags",
    "checked",
    "declared",
    "described",
    "entry",
    "flag",
    "flat",
    "group",
    "help_text",
    "idle",
    "least_score",
    "model_group",
    "network_options",
    "parse",
    "parse_plain",
    "preset_notice",
    "program",
    "read_value",
    "recorded",
    "replace",
    "resumable",
    "rgb_only",
    "stored",
    "typed",
    "warn",
]
