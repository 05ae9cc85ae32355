"""The outcome of an evaluation: what every task's `summarize` returns."""

from typing import Any, NamedTuple


class Summary(NamedTuple):
    """The figures of a set, and what they were derived from.

    Attributes:
        metrics: one number for each key of a row of metrics.
        details: what was computed on the way and a report shows (curves, chosen thresholds,
            decisions), in a form that belongs to the task; None where there is nothing.
    """

    metrics: dict[str, float]
    details: Any = None
