"""Which object each proposal or anchor stands for, and which of them a batch is drawn from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Matches(NamedTuple):
    """What each proposal of an image is to its objects.

    Attributes:
        index: the object that it overlaps most (0 where there is none).
        overlap: their IoU; -1 where there is no object.
        foreground: whether it stands for that object.
        background: whether it stands for none; the rest are in between and not trained on.
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
    """Matches proposals, or anchors, with the objects of one image.

    Args:
        overlaps: IoU of every proposal with every object.
        valid_objects: which objects are objects and not padding; without any, all proposals are
            background where its range begins at 0.
        valid_proposals: which proposals are proposals; the others are neither foreground nor
            background.
        foreground: proposals of at least this IoU with an object stand for it.
        background: proposals whose highest IoU lies in [low, high) stand for the background:
            (0.1, 0.5) in Fast R-CNN, where the low end mines hard negatives.
        best_for_object: every object also gets the proposals that overlap it most, if at all,
            however little that is (anchors in Ren et al. 2015, section 3.1.2).

    Returns:
        Of equal overlaps the first object is matched.

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
    # No object at all is an overlap of 0.
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
        index: of the proposal; 0 in a row that is not valid.
        foreground: whether the proposal stands for an object.
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
    """Draws proposals without replacement, at most a share of them foreground.

    Fast R-CNN's rule (section 2.3 and its code): as many of the foreground as there are, but no
    more than `fraction * count`, rounded; the rest from the background; where that is too small
    too, rows stay empty rather than repeat a proposal.

    Args:
        key: random key.
        foreground, background: disjoint sets of proposals, as from `match`.
        count: the number of rows.
        fraction: largest share of the foreground.
    """
    # One draw orders both: the sets are disjoint, so their orders are independent.
    chance = jax.random.uniform(key, foreground.shape)
    places = jnp.arange(foreground.shape[0])

    def shuffled(members: Bool[Array, " proposals"]) -> Int[Array, " proposals"]:
        return jnp.argsort(jnp.where(members, chance, jnp.inf))

    # Halves to the even neighbour, as in NumPy.
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
