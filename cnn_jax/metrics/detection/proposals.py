"""Recall of proposals: the share of the objects that a detector built on them can find at all."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Num

from cnn_jax.ops import boxes as box_ops

THRESHOLDS = tuple(i / 100 for i in range(50, 100, 5))
"""Overlaps from which on an object counts as covered; their mean recall is the average recall."""


class Covered(NamedTuple):
    """Numbers of covered objects and of proposals; they add over images.

    Attributes:
        covered: number of covered objects, by number of proposals used and by threshold.
        objects: number of objects.
        proposals: number of proposals.
        images: number of images.
    """

    covered: Num[Array | np.ndarray, "*batch counts thresholds"]
    objects: Num[Array | np.ndarray, "*batch"]
    proposals: Num[Array | np.ndarray, "*batch"]
    images: Num[Array | np.ndarray, "*batch"]


def coverage(
    proposals: Float[Array, "proposals 4"],
    valid: Bool[Array, " proposals"],
    objects: Float[Array, "objects 4"],
    object_valid: Bool[Array, " objects"],
    counts: tuple[int, ...],
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Covered:
    """Count the objects of one image that any of the first n proposals overlaps enough.

    Proposals and objects are not paired one to one: one box may cover two objects (Hosang et al.
    2016, "What makes for effective detection proposals?", section 4).

    Args:
        proposals, valid: the best first, padding last.
        objects, object_valid: the objects to cover.
        counts: the numbers n of proposals.
        thresholds: the least IoU.
    """
    overlaps = jnp.where(valid[:, None], box_ops.iou(proposals, objects), 0.0)
    best = lax.cummax(overlaps, axis=0)
    last = jnp.array([min(count, len(proposals)) - 1 for count in counts])
    limits = jnp.array(thresholds, best.dtype)[None, None]
    covered = (best[last][..., None] >= limits) & object_valid[None, :, None]
    return Covered(
        covered=jnp.sum(covered, axis=1, dtype=jnp.int32),
        objects=jnp.sum(object_valid, dtype=jnp.int32),
        proposals=jnp.sum(valid, dtype=jnp.int32),
        images=jnp.ones((), jnp.int32),
    )


class Recall(NamedTuple):
    """Recall of a set, nan where there is no object.

    Attributes:
        by_threshold: by number of proposals used and by threshold.
        average: its mean over the thresholds.
        proposals: proposals of an image, on average.
    """

    by_threshold: Float[np.ndarray, "counts thresholds"]
    average: Float[np.ndarray, " counts"]
    proposals: float


def recall(sums: Covered) -> Recall:
    """Divide the sums over a set."""
    covered = np.asarray(sums.covered, np.float64)
    objects = int(sums.objects)
    share = covered / objects if objects else np.full_like(covered, np.nan)
    return Recall(share, share.mean(axis=1), float(sums.proposals) / max(int(sums.images), 1))


def steps(most: int) -> tuple[int, ...]:
    """List numbers of proposals to look at: 10, 30, 100, 300, ... and the most that are used."""
    series = (base * 10**power for power in range(1, 6) for base in (1, 3))
    return (*(count for count in series if count < most), most)
