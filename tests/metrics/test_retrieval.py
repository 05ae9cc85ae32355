"""Retrieval metrics against plain loops and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cnn_jax.metrics import retrieval


def oracle(scores, relevant):
    """Sort the gallery, walk along it: the hits within 1, 5, 10, and the average precision."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    hits = [bool(relevant[i]) for i in order]
    precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i]]
    return [any(hits[:k]) for k in retrieval.RECALL_AT], float(np.mean(precision))


def drawn(seed, queries=20, items=60):
    rng = np.random.default_rng(seed)
    relevant = rng.random((queries, items)) < 0.08
    relevant[:, 0] |= ~relevant.any(axis=1)
    scores = rng.normal(size=(queries, items)) + 0.7 * relevant
    return scores.astype(np.float32), relevant


def test_figures_equal_a_walk_along_the_sorted_gallery():
    scores, relevant = drawn(0)
    walked = [oracle(s, r) for s, r in zip(scores, relevant, strict=True)]
    figures = retrieval.summarize(retrieval.retrieved(scores, relevant))
    expected = np.mean([hits for hits, _ in walked], axis=0)
    np.testing.assert_allclose([figures[f"recall_at_{k}"] for k in (1, 5, 10)], expected)
    assert 0 < expected[0] < expected[1] < expected[2]
    assert figures["map"] == pytest.approx(np.mean([ap for _, ap in walked]))


def test_average_precision_equals_sklearn_s_with_equal_scores_too():
    scores, relevant = drawn(1)
    found = retrieval.retrieved(np.round(scores), relevant)
    expected = [
        average_precision_score(r, s) for s, r in zip(np.round(scores), relevant, strict=True)
    ]
    np.testing.assert_allclose(found.average_precision, expected)


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(st.sampled_from([-jnp.inf, -1.0, 0.0, 2.0]), min_size=6, max_size=6),
    relevant=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_the_first_rank_is_the_place_in_the_search(scores, relevant):
    rank = int(jax.jit(retrieval.first_rank)(jnp.array(scores), jnp.array(relevant)))
    _, rows = jax.lax.top_k(jnp.array(scores), 6)
    hits = np.array(relevant)[np.asarray(rows)]
    assert rank == (int(np.argmax(hits)) if hits.any() else 6)


def test_queries_to_which_nothing_belongs_do_not_count():
    scores, relevant = drawn(2)
    before = retrieval.summarize(retrieval.retrieved(scores, relevant))
    more = np.concatenate([relevant, np.zeros((3, relevant.shape[1]), bool)])
    found = retrieval.retrieved(np.concatenate([scores, scores[:3]]), more)
    assert found.found.sum() == len(relevant)
    assert retrieval.summarize(found) == before
    nothing = retrieval.summarize(retrieval.retrieved(scores, np.zeros_like(relevant)))
    assert all(np.isnan(value) for value in nothing.values())
