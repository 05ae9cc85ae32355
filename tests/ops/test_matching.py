"""Matching and sampling against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.matching import match, sample_balanced

PROPOSALS, OBJECTS = 12, 4


def match_by_loops(overlaps, valid, foreground, background, best_for_object):
    rows = []
    for proposal in overlaps:
        index, best = 0, -1.0
        for j, overlap in enumerate(proposal):
            if valid[j] and overlap > best:
                index, best = j, overlap
        rows.append([index, best, best >= foreground])
    if best_for_object:
        for j in reversed(range(len(valid))):
            best = max(overlaps[:, j])
            for row, overlap in zip(rows, overlaps[:, j], strict=True):
                if valid[j] and overlap == best > 0:
                    row[0], row[2] = j, True
    low, high = background
    return [(i, best, fg, not fg and low <= max(best, 0) < high) for i, best, fg in rows]


@pytest.mark.parametrize("best_for_object", [False, True])
@pytest.mark.parametrize("background", [(0.0, 0.5), (0.1, 0.5), (0.0, 0.3)])
def test_matches_equal_loops(best_for_object, background):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        overlaps = (rng.integers(0, 11, (PROPOSALS, OBJECTS)) / 10).astype(np.float32)
        overlaps *= rng.random((PROPOSALS, OBJECTS)) < 0.5
        valid = rng.random(OBJECTS) < 0.7
        foreground, high = np.float32(0.5), np.float32(background[1])
        expected = match_by_loops(
            overlaps, valid, foreground, (np.float32(background[0]), high), best_for_object
        )
        result = match(
            jnp.asarray(overlaps),
            jnp.asarray(valid),
            foreground=0.5,
            background=background,
            best_for_object=best_for_object,
        )
        for column, rows in zip(zip(*expected, strict=True), result, strict=True):
            np.testing.assert_array_equal(rows, column)


def test_without_objects_everything_is_background():
    for overlaps, valid in (
        (jnp.ones((3, 2)), jnp.zeros(2, bool)),
        (jnp.ones((3, 0)), jnp.zeros(0, bool)),
    ):
        result = match(overlaps, valid, best_for_object=True)
        assert result.background.all() and not result.foreground.any()
        assert np.all(result.overlap == -1) and np.all(result.index == 0)
        assert not match(overlaps, valid, background=(0.1, 0.5)).background.any()


def test_proposals_that_are_padding_are_neither():
    valid = jnp.array([True, False])
    result = match(jnp.array([[0.9], [0.9]]), jnp.ones(1, bool), valid, best_for_object=True)
    np.testing.assert_array_equal(result.foreground, [True, False])
    result = match(jnp.array([[0.1], [0.1]]), jnp.ones(1, bool), valid)
    np.testing.assert_array_equal(result.background, [True, False])


draw = jax.jit(sample_balanced, static_argnums=(3, 4))


@pytest.mark.parametrize(
    ("foregrounds", "backgrounds", "expected"),
    [(20, 40, (4, 12)), (2, 40, (2, 14)), (20, 5, (4, 5)), (0, 40, (0, 16)), (3, 0, (3, 0))],
)
def test_the_sample_has_the_papers_counts_and_no_repetition(foregrounds, backgrounds, expected):
    kinds = np.random.default_rng(0).permutation(
        [1] * foregrounds + [0] * backgrounds + [-1] * (80 - foregrounds - backgrounds)
    )
    for seed in range(5):
        sample = draw(jax.random.key(seed), kinds == 1, kinds == 0, 16, 0.25)
        index, valid = np.asarray(sample.index), np.asarray(sample.valid)
        assert sample.foreground.sum() == expected[0] and valid.sum() == sum(expected)
        assert len(set(index[valid])) == valid.sum()
        np.testing.assert_array_equal(kinds[index[valid]] == 1, sample.foreground[valid])
        assert np.all(kinds[index[valid]] >= 0) and not index[~valid].any()


def test_fewer_proposals_than_rows():
    sample = draw(jax.random.key(0), jnp.array([True, False]), jnp.array([False, True]), 8, 0.5)
    np.testing.assert_array_equal(sample.index, [0, 1, 0, 0, 0, 0, 0, 0])
    assert sample.valid.sum() == 2


def test_every_proposal_is_as_likely_and_keys_decide():
    foreground = jnp.arange(24) < 8
    keys = jax.random.split(jax.random.key(0), 4000)
    samples = jax.vmap(lambda key: sample_balanced(key, foreground, ~foreground, 8, 0.25))(keys)
    counts = np.bincount(np.asarray(samples.index).ravel(), minlength=24) / 4000
    np.testing.assert_allclose(counts[:8], 2 / 8, atol=0.03)
    np.testing.assert_allclose(counts[8:], 6 / 16, atol=0.03)
    again = draw(keys[0], foreground, ~foreground, 8, 0.25)
    np.testing.assert_array_equal(again.index, samples.index[0])
