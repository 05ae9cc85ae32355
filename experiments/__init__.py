"""Entry points: `python -m experiments.VERB`, or `cnn-jax VERB` where installed."""

from . import interrupts

if interrupts.is_command():
    interrupts.end_at_once()
