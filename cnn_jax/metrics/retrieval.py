"""Retrieval metrics: how well a ranking of a gallery finds what belongs to a query.

The first group are functions of one query, to be vmapped. The figures of a set are divided once, on
the host.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.metrics import annotation
from cnn_jax.metrics.host import on_host

RECALL_AT = (1, 5, 10)
"""The numbers of neighbours that recall is reported for."""


class Retrieved(NamedTuple):
    """The result of queries; arrays add to those of other queries by concatenation.

    Attributes:
        rank: of the best item that belongs to each query, from 0; the number of items where none
            does.
        average_precision: of each query; 0 where no item belongs to it.
        found: whether an item of the gallery belongs to the query at all.
    """

    rank: Int[np.ndarray, " queries"]
    average_precision: Float[np.ndarray, " queries"]
    found: Bool[np.ndarray, " queries"]


def first_rank(scores: Float[Array, " items"], relevant: Bool[Array, " items"]) -> Int[Array, ""]:
    """Count the items ahead of the best one that belongs to a query.

    Of equal scores the lower index ranks first, as in a search with `jax.lax.top_k`.

    Args:
        scores: of the items of the gallery, higher for more similar ones.
        relevant: which of them belong to the query.

    Returns:
        The rank from 0; the number of items where none belongs to the query.
    """
    places = jnp.arange(len(scores))
    best = jnp.max(scores, where=relevant, initial=-jnp.inf)
    place = jnp.argmax(relevant & (scores == best))
    ahead = (scores > best) | ((scores == best) & (places < place))
    return jnp.where(jnp.any(relevant), jnp.sum(ahead), len(scores)).astype(jnp.int32)


def recall_at(rank: Int[Array, ""], k: int) -> Bool[Array, ""]:
    """Tell whether an item that belongs to a query is among its `k` nearest.

    This is the recall of metric learning, whose mean over queries is Recall@k.

    Args:
        rank: of :func:`first_rank`.
        k: the number of neighbours.

    References:
        Jegou et al., Product Quantization for Nearest Neighbor Search, PAMI, 2011; Oh Song et al.,
        `Deep Metric Learning via Lifted Structured Feature Embedding
        <https://arxiv.org/abs/1511.06452>`_, 2016, section 6
    """
    return rank < k


def retrieved(
    scores: Float[np.ndarray, "queries items"], relevant: Bool[np.ndarray, "queries items"]
) -> Retrieved:
    """Compute the rank and the average precision of each query, on the host.

    The average precision is `cnn_jax.metrics.annotation.average_precision`, over all items.
    """
    return Retrieved(
        on_host(_first_ranks, scores, relevant),
        annotation.average_precisions(annotation.curves(scores.T, relevant.T)),
        relevant.any(axis=1),
    )


_first_ranks = jax.jit(jax.vmap(first_rank))


def summarize(queries: Retrieved) -> dict[str, float]:
    """Average over the queries to which an item of the gallery belongs; nan without any.

    Returns:
        `recall_at_1`, `recall_at_5`, `recall_at_10` and `map`, as shares.
    """
    with_items = queries.found
    if not with_items.any():
        return {**{f"recall_at_{k}": float("nan") for k in RECALL_AT}, "map": float("nan")}
    ranks = jnp.asarray(queries.rank[with_items])
    hits = {k: jax.vmap(recall_at, (0, None))(ranks, k) for k in RECALL_AT}
    return {
        **{f"recall_at_{k}": float(np.mean(np.asarray(hit))) for k, hit in hits.items()},
        "map": float(queries.average_precision[with_items].mean()),
    }
