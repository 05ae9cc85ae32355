"""`python -m experiments.sweep`."""

from .. import options as flags
from . import main

flags.entry(main)
