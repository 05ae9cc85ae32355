"""Greedy and beam search against enumeration, on a small network with a random table."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.conventions import BEGIN, END, PAD
from cnn_jax.ops import search

pytestmark = pytest.mark.optimized  # Compares bits between different programs.

SIZE, MAXIMUM, TIME = 6, 4, 3


def chain(seed, sharpness=1.0):
    """A step whose next word depends on the last two; its state is the word before."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(SIZE, SIZE, SIZE)) * sharpness
    table[..., [PAD, BEGIN]] = -50.0
    table = jax.nn.log_softmax(jnp.asarray(table, jnp.float32))
    weights = jax.nn.softmax(jnp.asarray(rng.normal(size=(SIZE, TIME)), jnp.float32))

    def step(state, word):
        return word, table[state, word], weights[word]

    return step, np.asarray(table), np.asarray(weights)


def probability(table, words):
    state, last, total = PAD, BEGIN, 0.0
    for word in words:
        total += table[state, last, word]
        state, last = last, word
    return total


def ending(words):
    """The words up to and with the END, in Python."""
    return [int(w) for w in words if w != PAD]


greedy = jax.jit(lambda step, state: search.greedy(step, state, MAXIMUM), static_argnums=0)


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_of_one_is_greedy(seed):
    step, table, weights = chain(seed)
    first = greedy(step, jnp.asarray(PAD))
    one = jax.jit(lambda state: search.beam(step, state, MAXIMUM, 1))(jnp.asarray(PAD))
    jax.tree.map(np.testing.assert_array_equal, first, one)
    words = ending(first.words)
    assert len(words) == MAXIMUM or words[-1] == END
    assert first.log_probability == pytest.approx(probability(table, words), abs=1e-5)
    fed = [BEGIN, *words[:-1]]
    np.testing.assert_allclose(first.weights[: len(words)], weights[fed], rtol=1e-6)
    assert (np.asarray(first.weights[len(words) :]) == 0).all()


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_wide_enough_finds_the_best_sentence_of_all(seed, length_penalty):
    step, table, _ = chain(seed, 2.0)
    words = [w for w in range(SIZE) if w not in (PAD, BEGIN, END)]
    sentences = [
        (*middle, END) for n in range(MAXIMUM) for middle in itertools.product(words, repeat=n)
    ]
    best = max(sentences, key=lambda s: probability(table, s) / len(s) ** length_penalty)
    run = partial(search.beam, step, maximum=MAXIMUM, width=80, length_penalty=length_penalty)
    result = jax.jit(lambda state: run(state))(jnp.asarray(PAD))
    assert tuple(ending(result.words)) == best
    assert result.log_probability == pytest.approx(probability(table, best), abs=1e-4)


def test_a_wider_beam_finds_what_greedy_misses():
    """The better first word leads nowhere: 0.6 x 0.5 against 0.4 x 1."""
    table = np.full((SIZE, SIZE, SIZE), -50.0, np.float32)
    good, bad = 4, 5
    table[PAD, BEGIN, [good, bad]] = np.log([0.4, 0.6])
    table[BEGIN, bad, [END, bad]] = np.log([0.5, 0.5])
    table[BEGIN, good, END] = 0.0
    table[bad, bad, END] = 0.0
    table = jnp.asarray(table)

    def step(state, word):
        return word, table[state, word], jnp.full(TIME, 1 / TIME)

    assert ending(search.greedy(step, jnp.asarray(PAD), MAXIMUM).words)[0] == bad
    result = search.beam(step, jnp.asarray(PAD), MAXIMUM, 2, length_penalty=0.0)
    assert ending(result.words) == [good, END]
    assert np.exp(result.log_probability) == pytest.approx(0.4)


def test_sentences_of_a_batch_do_not_meet():
    step, _, _ = chain(0)
    firsts = jnp.arange(SIZE)
    for run in (search.greedy, partial(search.beam, width=3)):
        alone = [run(step, first, maximum=MAXIMUM) for first in firsts]
        together = jax.vmap(lambda first, run=run: run(step, first, maximum=MAXIMUM))(firsts)
        for row, one in enumerate(alone):
            np.testing.assert_array_equal(together.words[row], one.words)
            np.testing.assert_allclose(together.weights[row], one.weights, rtol=1e-6)


def test_no_sentence_is_longer_than_the_maximum():
    table = np.full((SIZE, SIZE, SIZE), -50.0, np.float32)
    table[..., 4] = 0.0

    def step(state, word):
        return word, jnp.asarray(table)[state, word], jnp.full(TIME, 1 / TIME)

    for run in (search.greedy, partial(search.beam, width=2)):
        assert ending(run(step, jnp.asarray(PAD), maximum=MAXIMUM).words) == [4] * MAXIMUM
