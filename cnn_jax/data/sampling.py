"""Orders of a training stream in which rare classes are drawn more often.

An epoch keeps its number of examples: some are drawn several times in it, and others not at all.
Which ones is drawn anew for every epoch, as a function of the seed and the epoch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from cnn_jax.data.batches import in_epochs
from cnn_jax.data.surveys.classes import Classes


def class_balanced(found: Classes) -> Float[np.ndarray, " examples"]:
    """Compute how often an epoch draws each example on average where all classes count alike.

    It is class-aware sampling (Shen et al. 2016, "Relay Backpropagation"): each draw
    is of a class, all of them alike, and of an example that has it. Examples without objects are
    not drawn.
    """
    examples, labels = found.in_examples()
    if not len(labels):
        return np.ones(found.examples)
    having = np.bincount(labels)
    share = found.examples / np.count_nonzero(having)
    return np.bincount(examples, share / having[labels], minlength=found.examples)


def repeat_factors(found: Classes, threshold: float) -> Float[np.ndarray, " examples"]:
    """Compute how often an epoch draws each example on average under repeat-factor sampling.

    A class c that is in a share f(c) of the examples has the factor `max(1, sqrt(t / f(c)))`, and
    an example the largest one of its classes, or 1 (Gupta et al. 2019, "LVIS", equation 1, after
    Mahajan et al. 2018). There an epoch grows; here the factors are scaled to a mean of 1.

    Args:
        found: the classes of the examples.
        threshold: t, the share below which classes are drawn more often.
    """
    examples, labels = found.in_examples()
    shares = np.bincount(labels) / found.examples
    of_class = np.maximum(1.0, np.sqrt(threshold / np.where(shares > 0, shares, 1.0)))
    factors = np.ones(found.examples)
    np.maximum.at(factors, examples, of_class[labels])
    return factors / factors.mean()


@dataclass(frozen=True, eq=False)
class SampledOrder:
    """The order of a stream that draws examples with unequal shares.

    An epoch draws an example as often as its share rounded down or up, by systematic sampling. The
    examples lie by class on the line that is sampled, so that of a class the number is rounded
    likewise.

    Attributes:
        shares: how often an epoch draws each example on average; their mean is 1.
        groups: the class of each example, or one number for all.
        seed: the run's seed.
    """

    shares: Float[np.ndarray, " examples"]
    groups: Int[np.ndarray, " examples"]
    seed: int

    def __call__(self, positions: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        return in_epochs(positions, len(self.shares), lambda epoch: _drawn(self, epoch))


def rarest(found: Classes) -> Int[np.ndarray, " examples"]:
    """Find the class of each example that the fewest examples have; -1 where it has none."""
    examples, labels = found.in_examples()
    having = np.bincount(labels)
    # Of several values for one place the last one stays: the rarest.
    order = np.argsort(-having[labels], kind="stable")
    groups = np.full(found.examples, -1)
    groups[examples[order]] = labels[order]
    return groups


@lru_cache(maxsize=4)
def _drawn(order: SampledOrder, epoch: int) -> Int[np.ndarray, " examples"]:
    count = len(order.shares)
    rng = np.random.default_rng([order.seed, *b"sampled", epoch])
    line = np.lexsort((rng.random(count), order.groups))
    ends = np.cumsum(order.shares[line])
    points = (rng.random() + np.arange(count)) * (ends[-1] / count)
    places = np.searchsorted(ends, points, side="right")
    return rng.permutation(line[np.minimum(places, count - 1)])
