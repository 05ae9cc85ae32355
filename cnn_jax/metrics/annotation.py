"""Annotation metrics: several labels an image.

The first group are functions of one example or of one label, to be vmapped. The second group are
the figures of a whole set, on the host: counts are divided once, in float64, and what ranks or
compares scores runs in double precision too (`cnn_jax.metrics.host`). Average precision and chosen
thresholds rank all examples of a set, so that these two are compiled for the size of the set, once.

Choosing a threshold for each label stays a loop over the labels: each choice is made with those
before it, so that labels cannot be worked on side by side. Within a label, all candidates are.

**0/0 counts as 0** everywhere: the precision of an image or label for which nothing is predicted,
the recall where nothing is true, F of nothing predicted and nothing true, the average precision of
a label that no image has. scikit-learn's `zero_division=0` is the same rule.

References:
    Gong et al., `Deep Convolutional Ranking for Multilabel Image Annotation
    <https://arxiv.org/abs/1312.4894>`_, 2013, section 4.2: per-class and overall figures, N+
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from cnn_jax.metrics.host import on_host

Decisions = Bool[np.ndarray, "examples labels"]
Truth = Bool[np.ndarray, "examples labels"]
Scores = Float[np.ndarray, "examples labels"]

CANDIDATES = 100
"""The number of thresholds that are tried for a label."""


class Counts(NamedTuple):
    """Numbers of labels of an example, or of examples of a label."""

    correct: Num[Array | np.ndarray, "*batch"]
    predicted: Num[Array | np.ndarray, "*batch"]
    true: Num[Array | np.ndarray, "*batch"]


class PrecisionRecall(NamedTuple):
    """The curve of one label: precision and recall as examples are accepted, best score first.

    Attributes:
        precision, recall: one point for each example.
        is_threshold: marks the points of the curve. Examples of equal scores are accepted
            together, so that only the last of them is one.
    """

    precision: Float[Array | np.ndarray, "*batch examples"]
    recall: Float[Array | np.ndarray, "*batch examples"]
    is_threshold: Bool[Array | np.ndarray, "*batch examples"]


def top_k(scores: Float[Array, " labels"], k: int) -> Bool[Array, " labels"]:
    """Decide for the k labels of highest score; of equal scores, for the first labels."""
    return jnp.zeros(scores.shape, bool).at[jnp.argsort(-scores)[:k]].set(True)


def match_counts(predicted: Bool[Array, " n"], truth: Bool[Array, " n"]) -> Counts:
    """Count what is predicted rightly, predicted and true, of one example or one label."""
    return Counts(
        *(jnp.sum(x, dtype=jnp.int32) for x in (predicted & truth, predicted, truth)),
    )


def f_beta(counts: Counts, beta: float | Float[Array, ""]) -> Float[Array, ""]:
    """Compute ``(1 + beta^2) p r / (beta^2 p + r)``: recall counts beta times as much as precision.

    Args:
        counts: of one example or one label.
        beta: above 0.
    """
    correct, predicted, true = (jnp.asarray(x, jnp.result_type(float)) for x in counts)
    return _quotient((1 + beta**2) * correct, beta**2 * true + predicted)


def ranked(
    scores: Float[Array, " examples"], truth: Bool[Array, " examples"]
) -> tuple[Int[Array, " examples"], Bool[Array, " examples"]]:
    """Rank the examples of one label by falling score.

    Returns:
        The number of true ones among the first n, for each n; and whether the score falls after
        the nth, so that a threshold can lie there.
    """
    order = jnp.argsort(-scores)
    ordered = scores[order]
    is_threshold = jnp.append(ordered[1:] != ordered[:-1], True)
    return jnp.cumsum(truth[order], dtype=jnp.int32), is_threshold


def average_precision(curve: PrecisionRecall) -> Float[Array, ""]:
    """Add up, over the thresholds of one label, precision times the gain in recall.

    Nothing is interpolated.
    """
    # Recall never falls: the highest at an earlier threshold is that of the last one.
    reached = jax.lax.cummax(jnp.where(curve.is_threshold, curve.recall, 0.0))
    gain = curve.recall - jnp.append(jnp.zeros_like(reached[:1]), reached[:-1])
    return jnp.sum(curve.precision * gain, where=curve.is_threshold)


def threshold_candidates(scores: Float[Array, " n"]) -> Float[Array, " candidates"]:
    """List possible thresholds, highest first: all that decide differently, or evenly many of them.

    They lie half-way between neighbouring scores, so that scores computed again, in batches of
    another size, whose last bits may differ, are decided alike; the last one is below all scores,
    and is repeated where there are fewer candidates than places.

    Args:
        scores: at least one, in any order.
    """
    ordered = jnp.sort(scores)[::-1]
    differs = jnp.append(jnp.zeros(1, bool), ordered[1:] != ordered[:-1])
    number = jnp.cumsum(differs)  # of each score among the distinct ones
    last, places = number[-1], jnp.arange(CANDIDATES, dtype=number.dtype)
    spread = (2 * places * last + CANDIDATES - 1) // (2 * (CANDIDATES - 1))  # rounded
    chosen = jnp.where(last < CANDIDATES, jnp.minimum(places, last), spread)
    above, below = (
        ordered[jnp.minimum(jnp.searchsorted(number, n), len(ordered) - 1)]
        for n in (chosen, chosen + 1)
    )
    return jnp.where(chosen < last, (above + below) / 2, ordered[-1] - 1)


def above(scores: Scores, thresholds: Float[np.ndarray, " labels"] | float) -> Decisions:
    """Decide for the labels whose scores reach their threshold: one for all, or one for each."""
    return scores >= np.broadcast_to(np.asarray(thresholds, scores.dtype), scores.shape[1:])


def best_k(scores: Scores, k: int) -> Decisions:
    """Decide for the k labels of highest score of every example (see `top_k`)."""
    return on_host(jax.vmap(partial(top_k, k=k)), scores)


def counts_by_label(predicted: Decisions, truth: Truth) -> Counts:
    """Count over the examples, for each label."""
    return on_host(_counts_by_label, predicted, truth)


def summarize(predicted: Decisions, truth: Truth) -> dict[str, float]:
    """Compute all metrics of decisions.

    Returns:
        - `sample_precision`, `sample_recall`, `sample_f1`, `sample_f2`: of each image, averaged
          over images;
        - `class_precision`, `class_recall`: of each label, averaged over labels;
        - `overall_precision`, `overall_recall`: of all (image, label) pairs together;
        - `n_plus`: number of labels predicted rightly at least once;
        - `hamming_loss`: share of (image, label) pairs that are wrong.
    """
    by_example = on_host(_counts_by_example, predicted, truth)
    by_label = counts_by_label(predicted, truth)
    overall = Counts(*(x.sum(dtype=np.int64) for x in by_label))
    wrong = overall.predicted + overall.true - 2 * overall.correct
    means = {
        "sample_precision": precision(by_example),
        "sample_recall": recall(by_example),
        "sample_f1": on_host(_f_beta, by_example, 1.0),
        "sample_f2": on_host(_f_beta, by_example, 2.0),
        "class_precision": precision(by_label),
        "class_recall": recall(by_label),
        "overall_precision": precision(overall),
        "overall_recall": recall(overall),
        "hamming_loss": wrong / truth.size,
    }
    figures = {name: float(np.mean(values)) for name, values in means.items()}
    return {**figures, "n_plus": float(np.sum(by_label.correct > 0))}


def precision(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Divide what is right by what is predicted."""
    return _ratio(counts.correct, counts.predicted)


def recall(counts: Counts) -> Float[np.ndarray, "*batch"]:
    """Divide what is right by what is true."""
    return _ratio(counts.correct, counts.true)


def curves(scores: Scores, truth: Truth) -> PrecisionRecall:
    """Compute the curve of each label: arrays [labels, examples]."""
    correct, is_threshold = on_host(_ranked, scores, truth)
    # Divided in NumPy: XLA would multiply by reciprocals, which is not the same to the last bit.
    return PrecisionRecall(
        precision=_ratio(correct, np.arange(1, len(scores) + 1)),
        recall=_ratio(correct, correct[:, -1:]),
        is_threshold=is_threshold,
    )


def average_precisions(curves: PrecisionRecall) -> Float[np.ndarray, " labels"]:
    """Compute the average precision of each label from its curve."""
    return on_host(jax.vmap(average_precision), curves)


def choose_threshold(scores: Scores, truth: Truth, beta: float = 2.0) -> float:
    """Choose the one threshold of highest sample F (of equal ones the highest).

    It is to be chosen on validation data.
    """
    candidates = on_host(_candidates, scores.reshape(1, -1))[0]
    values = on_host(_f_of_thresholds, scores, truth, candidates, beta).mean(axis=1)
    return float(candidates[np.argmax(values)])


def choose_thresholds(
    scores: Scores, truth: Truth, beta: float = 2.0, sweeps: int = 3
) -> Float[np.ndarray, " labels"]:
    """Choose a threshold for each label by coordinate ascent on the sample F.

    The search starts at `choose_threshold`, so that on the same data the figure is never lower,
    and goes over the labels until nothing improves, or `sweeps` times. Thresholds are to be chosen
    on validation data.
    """
    thresholds = np.full(scores.shape[1], choose_threshold(scores, truth, beta))
    predicted = above(scores, thresholds)
    by_example = on_host(_counts_by_example, predicted, truth)
    best = float(on_host(_f_beta, by_example, beta).mean())
    candidates = on_host(_candidates, scores.T)
    for _ in range(sweeps):
        before = best
        for label, own_candidates in enumerate(candidates):
            column, holds = scores[:, label], truth[:, label]
            own = Counts(predicted[:, label] & holds, predicted[:, label], np.zeros(len(holds)))
            others = Counts(*(a - b.astype(a.dtype) for a, b in zip(by_example, own, strict=True)))
            values = on_host(_f_of_label, others, column, holds, own_candidates, beta).mean(axis=1)
            place = int(np.argmax(values))
            if values[place] > best:
                best, thresholds[label] = values[place], own_candidates[place]
                chosen = predicted[:, label] = column >= own_candidates[place]
                by_example = Counts(
                    others.correct + (chosen & holds), others.predicted + chosen, others.true
                )
        if best == before:
            break
    return thresholds


def constant(truth: Truth, k: int) -> Decisions:
    """Predict the k most frequent labels for every image, without looking at it: a floor."""
    frequency = truth.sum(axis=0).astype(np.float64)
    return np.broadcast_to(best_k(frequency[None], k), truth.shape)


def best_possible(truth: Truth, k: int) -> Decisions:
    """Predict as an oracle that must give exactly k labels: a ceiling for every fixed k.

    Of more true labels than k the rarest are given; of fewer, the most frequent others fill up.
    """
    frequency = truth.mean(axis=0)
    return best_k(np.where(truth, 2.0 - frequency, frequency), k)


def cooccurrence(truth: Truth) -> Int[np.ndarray, "labels labels"]:
    """Count the images in which each pair of labels occurs; the diagonal counts each label."""
    counts = truth.astype(np.int64)
    return counts.T @ counts


def confusions(predicted: Decisions, truth: Truth) -> Int[np.ndarray, "labels labels"]:
    """Count the images in which label i was missed and label k was predicted wrongly."""
    missed = (truth & ~predicted).astype(np.int64)
    invented = (predicted & ~truth).astype(np.int64)
    return missed.T @ invented


_counts_by_example = jax.jit(jax.vmap(match_counts))
_counts_by_label = jax.jit(jax.vmap(match_counts, in_axes=1))
_f_beta = jax.jit(jax.vmap(f_beta, in_axes=(0, None)))
_ranked = jax.jit(jax.vmap(ranked, in_axes=1))
_candidates = jax.jit(jax.vmap(threshold_candidates))


@jax.jit
def _f_of_thresholds(
    scores: Float[Array, "examples labels"],
    truth: Bool[Array, "examples labels"],
    candidates: Float[Array, " candidates"],
    beta: Float[Array, ""],
) -> Float[Array, "candidates examples"]:
    """F of each image for each threshold of all labels; one threshold at a time, to save memory."""
    return jax.lax.map(
        lambda threshold: _f_beta(_counts_by_example(scores >= threshold, truth), beta), candidates
    )


@jax.jit
def _f_of_label(
    others: Counts,
    scores: Float[Array, " examples"],
    truth: Bool[Array, " examples"],
    candidates: Float[Array, " candidates"],
    beta: Float[Array, ""],
) -> Float[Array, "candidates examples"]:
    """F of each image for each threshold of one label, the counts of the other labels given."""

    def one(threshold: Float[Array, ""]) -> Float[Array, " examples"]:
        chosen = scores >= threshold
        correct = others.correct + (chosen & truth).astype(others.correct.dtype)
        predicted = others.predicted + chosen.astype(others.predicted.dtype)
        return _f_beta(Counts(correct, predicted, others.true), beta)

    return jax.vmap(one)(candidates)


def _quotient(numerator: Array, denominator: Array) -> Array:
    """The quotient in JAX, with 0/0 = 0."""
    empty = denominator == 0
    return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))


def _ratio(numerator: np.ndarray | np.generic, denominator: np.ndarray | np.generic) -> np.ndarray:
    """The quotient in NumPy, with 0/0 = 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    denominator = np.broadcast_to(denominator, numerator.shape)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
