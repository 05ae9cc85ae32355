"""Matching of proposals or anchors with objects, and sampling of a training batch from them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Matches(NamedTuple):
    """The match of each proposal of an image with the objects.

    Attributes:
        index: the object that the proposal overlaps most (0 if there is no object).
        overlap: their IoU; -1 if there is no object.
        foreground: whether the proposal is a positive for that object.
        background: whether it is a negative; proposals that are neither are not trained on.
    """

    index: Int[Array, " proposals"]
    overlap: Float[Array, " proposals"]
    foreground: Bool[Array, " proposals"]
    background: Bool[Array, " proposals"]


def match(
    overlaps: Float[Array, "proposals objects"],
    valid_objects: Bool[Array, " objects"],
    valid_proposals: Bool[Array, " proposals"] | None = None,
    *,
    foreground: float = 0.5,
    background: tuple[float, float] = (0.0, 0.5),
    best_for_object: bool = False,
) -> Matches:
    """Match the proposals, or anchors, of one image with its objects.

    Args:
        overlaps: the IoU of every proposal with every object.
        valid_objects: False for padding. Without valid objects, all proposals are background if
            its range begins at 0.
        valid_proposals: False for padding, which is neither foreground nor background.
        foreground: the least IoU with an object at which a proposal is foreground.
        background: proposals whose highest IoU lies in [low, high) are background: (0.1, 0.5) in
            Fast R-CNN, where the low end mines hard negatives.
        best_for_object: whether the proposals that overlap an object most are also foreground,
            at any IoU above 0 (anchors in Ren et al. 2015, section 3.1.2).

    Returns:
        The matches; among equal overlaps, the first object is matched.

    References:
        Girshick, `Fast R-CNN <https://arxiv.org/abs/1504.08083>`_, 2015, section 2.3
    """
    if overlaps.shape[1] == 0:
        overlaps = jnp.full((overlaps.shape[0], 1), -1.0)
        valid_objects = jnp.zeros(1, bool)
    if valid_proposals is None:
        valid_proposals = jnp.ones(overlaps.shape[0], bool)
    pairs = valid_proposals[:, None] & valid_objects[None]
    overlaps = jnp.where(pairs, overlaps, -1.0)
    index = jnp.argmax(overlaps, axis=1).astype(jnp.int32)
    highest = jnp.max(overlaps, axis=1)
    is_foreground = highest >= foreground
    low, high = background
    # Without objects the overlap counts as 0.
    is_background = (jnp.maximum(highest, 0.0) >= low) & (highest < high)
    if best_for_object:
        best = jnp.max(overlaps, axis=0, keepdims=True)
        chosen = (overlaps == best) & (best > 0) & pairs
        index = jnp.where(jnp.any(chosen, axis=1), jnp.argmax(chosen, axis=1), index)
        index = index.astype(jnp.int32)
        is_foreground |= jnp.any(chosen, axis=1)
    return Matches(
        index=index,
        overlap=highest,
        foreground=is_foreground & valid_proposals,
        background=is_background & ~is_foreground & valid_proposals,
    )


class Sample(NamedTuple):
    """Rows drawn from an image's proposals, foreground first.

    Attributes:
        index: the proposal's index; 0 in a row that is not valid.
        foreground: whether the proposal is foreground.
        valid: whether the row is filled.
    """

    index: Int[Array, " count"]
    foreground: Bool[Array, " count"]
    valid: Bool[Array, " count"]


def sample_balanced(
    key: Key[Array, ""],
    foreground: Bool[Array, " proposals"],
    background: Bool[Array, " proposals"],
    count: int,
    fraction: float = 0.25,
) -> Sample:
    """Draw proposals without replacement, with a limit on the fraction of foreground.

    Fast R-CNN's rule (section 2.3 and its code): all foreground proposals are drawn, but at most
    `fraction * count`, rounded; the rest comes from the background. If both are too few, rows stay
    empty; no proposal is repeated.

    Args:
        key: the random key.
        foreground, background: disjoint sets of proposals, as from `match`.
        count: the number of rows.
        fraction: the largest fraction of foreground.
    """
    # One draw orders both: the sets are disjoint, so their orders are independent.
    chance = jax.random.uniform(key, foreground.shape)
    places = jnp.arange(foreground.shape[0])

    def shuffled(members: Bool[Array, " proposals"]) -> Int[Array, " proposals"]:
        return jnp.argsort(jnp.where(members, chance, jnp.inf))

    # Halves round to even, as in NumPy.
    most = round(fraction * count)
    foreground_count = jnp.minimum(jnp.sum(foreground), most)
    background_count = jnp.minimum(jnp.sum(background), count - foreground_count)
    rows = jnp.arange(count)
    of_foreground = rows < foreground_count
    valid = rows < foreground_count + background_count
    last = places.shape[0] - 1
    index = jnp.where(
        of_foreground,
        shuffled(foreground)[jnp.minimum(rows, last)],
        shuffled(background)[jnp.clip(rows - foreground_count, 0, last)],
    )
    index = jnp.where(valid, index, 0).astype(jnp.int32)
    return Sample(index, of_foreground, valid)
