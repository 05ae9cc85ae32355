"""`python -m experiments.claims`."""

from .. import options as flags
from . import main

flags.entry(main)
