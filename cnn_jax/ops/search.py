"""Search for a probable sentence: greedy and beam search, in fixed shapes, inside jit.

The functions search for one sentence; vmap them over a batch. A `step` extends one hypothesis: it
maps (state, last word) to (state, log-probabilities of the next word, attention weights).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cnn_jax.conventions import BEGIN, END, PAD

Step = Callable[[Any, Array], tuple[Any, Array, Array]]


class Sentence(NamedTuple):
    """The sentence that a search has chosen.

    Attributes:
        words: the words, `END` (unless the sentence has the maximum length), then `PAD`.
        weights: the attention weights at each word, zero after the end.
        log_probability: the sentence's log-probability, `END` included.
    """

    words: Int[Array, "*batch maximum"]
    weights: Float[Array, "*batch maximum time"]
    log_probability: Float[Array, "*batch"]


def greedy(step: Step, state: Any, maximum: int) -> Sentence:
    """Take the most probable word at each step."""
    _, _, shape = jax.eval_shape(step, state, jnp.zeros((), jnp.int32))
    start = Sentence(
        jnp.full(maximum, PAD, jnp.int32),
        jnp.zeros((maximum, *shape.shape), shape.dtype),
        jnp.zeros(()),
    )

    def going_on(carry: tuple[Any, ...]) -> Array:
        i, _, word, _ = carry
        return (i < maximum) & (word != END)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, state, word, sentence = carry
        state, log_probabilities, weights = step(state, word)
        word = jnp.argmax(log_probabilities).astype(jnp.int32)
        sentence = Sentence(
            sentence.words.at[i].set(word),
            sentence.weights.at[i].set(weights),
            sentence.log_probability + log_probabilities[word],
        )
        return i + 1, state, word, sentence

    begin = (jnp.zeros((), jnp.int32), state, jnp.full((), BEGIN, jnp.int32), start)
    return jax.lax.while_loop(going_on, advance, begin)[-1]


def beam(step: Step, state: Any, maximum: int, width: int, length_penalty: float = 1.0) -> Sentence:
    """Follow `width` hypotheses together, and return the best.

    A hypothesis that ends keeps its place, so the beam narrows, as in Bahdanau et al.'s own search.
    A beam of one is greedy search. The best hypothesis has the highest
    ``log p / length ** length_penalty``, with `END` counted. A hypothesis that reaches the maximum
    without ending is returned only if none has ended.

    Args:
        step: the step of one hypothesis.
        state: the decoder's first state.
        maximum: the length of the longest sentence, `END` included.
        width: the number of hypotheses.
        length_penalty: 0 ranks by the log-probability, 1 by its mean over the words.
    """
    _, vocabulary, shape = jax.eval_shape(step, state, jnp.zeros((), jnp.int32))
    size = vocabulary.shape[-1]
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), state)
    words = jnp.full((width, maximum), PAD, jnp.int32)
    weights = jnp.zeros((width, maximum, *shape.shape), shape.dtype)
    last = jnp.full(width, BEGIN, jnp.int32)
    # All hypotheses are equal at first, so only one counts.
    scores = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)

    def going_on(carry: tuple[Any, ...]) -> Array:
        i, _, last, _, _, scores = carry
        return (i < maximum) & jnp.any((last != END) & (scores > -jnp.inf))

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, states, last, words, weights, scores = carry
        new_states, log_probabilities, new_weights = jax.vmap(step)(states, last)
        # A place without a candidate has a score of minus infinity and stays open.
        ended = (last == END) & (scores > -jnp.inf)
        candidates = jnp.where(ended, -jnp.inf, scores)[:, None] + log_probabilities
        best, places = jax.lax.top_k(candidates.reshape(-1), width)
        # The n-th open place takes the n-th best candidate.
        rank = jnp.maximum(jnp.cumsum(~ended) - 1, 0)
        here = jnp.arange(width)
        parent = jnp.where(ended, here, places[rank] // size)
        word = jnp.where(ended, PAD, places[rank] % size).astype(jnp.int32)
        states = jax.tree.map(lambda x: x[parent], new_states)
        words = words[parent].at[:, i].set(word)
        written = jnp.where(ended[:, None], 0.0, new_weights[parent])
        weights = weights[parent].at[:, i].set(written)
        scores = jnp.where(ended, scores, best[rank])
        return i + 1, states, jnp.where(ended, END, word), words, weights, scores

    begin = (jnp.zeros((), jnp.int32), states, last, words, weights, scores)
    _, _, last, words, weights, scores = jax.lax.while_loop(going_on, advance, begin)
    lengths = jnp.sum(words != PAD, axis=-1, dtype=scores.dtype)
    ranked = scores / jnp.maximum(lengths, 1) ** length_penalty
    ended = (last == END) & (scores > -jnp.inf)
    ranked = jnp.where(ended | ~jnp.any(ended), ranked, -jnp.inf)
    chosen = jnp.argmax(ranked)
    return Sentence(words[chosen], weights[chosen], scores[chosen])
