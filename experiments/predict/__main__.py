"""`python -m experiments.predict`."""

from .. import options as flags
from . import main

flags.entry(main)
