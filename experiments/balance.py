"""Rare classes that count more in the loss, or are drawn more often, as `classify` and `detect` do.

Both follow from the training set alone: a resumed run finds the same order in it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.data.batches import Order
from cnn_jax.data.sampling import SampledOrder, class_balanced, rarest, repeat_factors
from cnn_jax.data.source import Source
from cnn_jax.data.surveys.classes import Classes, survey

from . import class_weights
from . import options as flags
from .run import folder

SURVEYED = 1000
"""Of generated scenes, the first so many are counted for the classes' weights."""


class Balance(NamedTuple):
    """The weights of the classes, the order of the training stream, and lines about both.

    Attributes:
        weights: a weight for each class; none for 1 each.
        order: of the training examples; None for each of them once an epoch.
        notices: lines for the user.
    """

    weights: tuple[float, ...] = ()
    order: Order | None = None
    notices: Sequence[str] = ()


def balanced(options: Any, training: Source | None, class_names: Sequence[str]) -> Balance:
    """Apply the flags of `BalanceOptions` to a training set.

    Args:
        options: all options.
        training: the training examples; None where they are not read.
        class_names: the names of the classes.

    Raises:
        UserError: weights that are none, or not of these classes.
    """
    chosen: flags.BalanceOptions = options.balance
    weights = class_weights.typed(chosen.class_weights, class_names)
    again = options.run.resume or options.run.eval_only
    if again:
        weights = class_weights.recorded(folder(options), class_names)
    computed = chosen.class_weights == class_weights.RULES and not again
    sampled = chosen.sampling != "uniform"
    if training is None or not (computed or sampled):
        return Balance(weights)
    found = survey(training, SURVEYED if options.data.data == flags.BUILT_IN else None)
    notices = []
    if computed:
        weights = class_weights.balanced(found.counts(len(class_names)))
        notices.append(class_weights.described("balanced", class_names, weights))
    if not sampled:
        return Balance(weights, None, notices)
    shares = _shares(found, chosen)
    notices.append(_drawn(chosen.sampling, shares))
    return Balance(weights, SampledOrder(shares, rarest(found), options.run.seed), notices)


def _shares(found: Classes, chosen: flags.BalanceOptions) -> np.ndarray:
    if chosen.sampling == "balanced":
        return class_balanced(found)
    return repeat_factors(found, chosen.repeat_threshold)


def _drawn(sampling: str, shares: np.ndarray) -> str:
    """Describe how often examples are drawn."""
    drawn = shares[shares > 0]
    line = (
        f"sampling ({sampling.replace('_', ' ')}): an epoch draws an example "
        f"{drawn.min():.3g} to {drawn.max():.3g} times on average"
    )
    left_out = len(shares) - len(drawn)
    return f"{line}; {left_out:,} without objects are not drawn" if left_out else line
