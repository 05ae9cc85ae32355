"""`python -m experiments.explain`."""

from .. import options as flags
from . import main

flags.entry(main)
