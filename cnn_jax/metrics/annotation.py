"""Annotation metrics: several labels an image, on the host, from the scores of a whole set.

Scores and labels of all examples are gathered first (`cnn_jax.metrics.tables`), so that every
figure is exact over the whole set, average precision and chosen thresholds among them. A decision
rule turns scores into predicted labels; the metrics judge these.

**0/0 counts as 0** everywhere: the precision of an image or label for which nothing is predicted,
the recall where nothing is true, F of nothing predicted and nothing true, the average precision of
a label that no image has. scikit-learn's `zero_division=0` is the same rule.

References:
    Gong et al., `Deep Convolutional Ranking for Multilabel Image Annotation
    <https://arxiv.org/abs/1312.4894>`_, 2013, section 4.2: per-class and overall figures, N+
"""

import numpy as np
from jaxtyping import Bool, Float, Int

Decisions = Bool[np.ndarray, "examples labels"]
Truth = Bool[np.ndarray, "examples labels"]
Scores = Float[np.ndarray, "examples labels"]

# At most so many thresholds are tried for a label.
CANDIDATES = 100


def top_k(scores: Scores, k: int) -> Decisions:
    """The k labels of highest score of every example; of equal scores the first labels."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    decisions = np.zeros(scores.shape, bool)
    np.put_along_axis(decisions, best, True, axis=1)
    return decisions


def above(scores: Scores, thresholds: Float[np.ndarray, " labels"] | float) -> Decisions:
    """The labels whose scores reach their threshold: one for all, or one for each."""
    return scores >= np.broadcast_to(np.asarray(thresholds, scores.dtype), scores.shape[1:])


def f_beta(precision: np.ndarray, recall: np.ndarray, beta: float) -> np.ndarray:
    """``(1 + beta^2) p r / (beta^2 p + r)``: recall counts beta times as much as precision."""
    return _ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def summarize(predicted: Decisions, truth: Truth) -> dict[str, float]:
    """All metrics of decisions.

    Returns:
        - `sample_precision`, `sample_recall`, `sample_f1`, `sample_f2`: of each image, averaged
          over images;
        - `class_precision`, `class_recall`: of each label, averaged over labels;
        - `overall_precision`, `overall_recall`: of all (image, label) pairs together;
        - `n_plus`: number of labels predicted rightly at least once;
        - `hamming_loss`: share of (image, label) pairs that are wrong.
    """
    hits = predicted & truth
    by_sample = [x.sum(axis=1) for x in (hits, predicted, truth)]
    by_class = [x.sum(axis=0) for x in (hits, predicted, truth)]
    correct, guessed, true = by_sample
    precision, recall = _ratio(correct, guessed), _ratio(correct, true)
    means = {
        "sample_precision": precision,
        "sample_recall": recall,
        "sample_f1": _sample_f(correct, guessed, true, 1.0),
        "sample_f2": _sample_f(correct, guessed, true, 2.0),
        "class_precision": _ratio(by_class[0], by_class[1]),
        "class_recall": _ratio(by_class[0], by_class[2]),
        "overall_precision": _ratio(hits.sum(), predicted.sum()),
        "overall_recall": _ratio(hits.sum(), truth.sum()),
        "hamming_loss": predicted != truth,
    }
    figures = {name: float(np.mean(values)) for name, values in means.items()}
    return {**figures, "n_plus": float(np.sum(by_class[0] > 0))}


def precision_recall(
    scores: Float[np.ndarray, " examples"], truth: Bool[np.ndarray, " examples"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Precision and recall of one label at each distinct score as its threshold, highest first."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # Equal scores are decided together.
    correct = np.cumsum(truth[order])[last]
    guessed = np.flatnonzero(last) + 1
    return correct / guessed, _ratio(correct, truth.sum())


def average_precision(
    scores: Float[np.ndarray, " examples"], truth: Bool[np.ndarray, " examples"]
) -> float:
    """Sum over thresholds of precision times the gain in recall, without interpolation."""
    precision, recall = precision_recall(scores, truth)
    return float(np.sum(precision * np.diff(recall, prepend=0.0)))


def mean_average_precision(scores: Scores, truth: Truth) -> float:
    """Mean over the labels of their average precision."""
    return float(np.mean([average_precision(s, t) for s, t in zip(scores.T, truth.T, strict=True)]))


def choose_threshold(scores: Scores, truth: Truth, beta: float = 2.0) -> float:
    """The one threshold of highest sample F (of equal ones the highest), for validation data."""
    candidates = _candidates(scores.ravel())
    values = [_mean_f(above(scores, float(c)), truth, beta) for c in candidates]
    return float(candidates[int(np.argmax(values))])


def choose_thresholds(
    scores: Scores, truth: Truth, beta: float = 2.0, sweeps: int = 3
) -> Float[np.ndarray, " labels"]:
    """A threshold for each label, for validation data: sample F climbed a label at a time.

    Starts at `choose_threshold`, so that on the same data the figure is never lower, and goes over
    the labels until nothing improves, or `sweeps` times.
    """
    thresholds = np.full(scores.shape[1], choose_threshold(scores, truth, beta))
    predicted = above(scores, thresholds)
    true = truth.sum(axis=1)
    best = _mean_f(predicted, truth, beta)
    for _ in range(sweeps):
        before = best
        for label in range(scores.shape[1]):
            others = np.delete(np.arange(scores.shape[1]), label)
            hits = (predicted & truth)[:, others].sum(axis=1)
            guesses = predicted[:, others].sum(axis=1)
            for candidate in _candidates(scores[:, label]):
                chosen = scores[:, label] >= candidate
                correct = hits + (chosen & truth[:, label])
                value = float(np.mean(_sample_f(correct, guesses + chosen, true, beta)))
                if value > best:
                    best, thresholds[label] = value, candidate
                    predicted[:, label] = chosen
        if best == before:
            break
    return thresholds


def constant(truth: Truth, k: int) -> Decisions:
    """What never looks at an image says: the k most frequent labels, for all. A floor."""
    frequency = truth.sum(axis=0).astype(np.float64)
    return np.broadcast_to(top_k(frequency[None], k), truth.shape)


def best_possible(truth: Truth, k: int) -> Decisions:
    """What an oracle says that must give exactly k labels: a ceiling for every fixed k.

    Of more true labels than k the rarest are given; of fewer, the most frequent others fill up.
    """
    frequency = truth.mean(axis=0)
    return top_k(np.where(truth, 2.0 - frequency, frequency), k)


def cooccurrence(truth: Truth) -> Int[np.ndarray, "labels labels"]:
    """In how many images each pair of labels occurs together; the diagonal counts each label."""
    counts = truth.astype(np.int64)
    return counts.T @ counts


def confusions(predicted: Decisions, truth: Truth) -> Int[np.ndarray, "labels labels"]:
    """How often label i was missed in an image where label k was predicted wrongly."""
    missed = (truth & ~predicted).astype(np.int64)
    invented = (predicted & ~truth).astype(np.int64)
    return missed.T @ invented


def _sample_f(
    correct: np.ndarray, guessed: np.ndarray, true: np.ndarray, beta: float
) -> np.ndarray:
    """F of each image, from counts."""
    return _ratio((1 + beta**2) * correct, beta**2 * true + guessed)


def _mean_f(predicted: Decisions, truth: Truth, beta: float) -> float:
    counts = ((predicted & truth).sum(axis=1), predicted.sum(axis=1), truth.sum(axis=1))
    return float(np.mean(_sample_f(*counts, beta)))


def _candidates(scores: np.ndarray) -> np.ndarray:
    """Possible thresholds, highest first: all that decide differently, or evenly many of them.

    Half-way between neighbouring scores, so that scores computed again, in batches of another
    size, whose last bits may differ, are decided alike; the last one is below all scores.
    """
    distinct = np.unique(scores)[::-1]
    between = np.append((distinct[1:] + distinct[:-1]) / 2, distinct[-1:] - 1)
    if len(between) <= CANDIDATES:
        return between
    return between[np.linspace(0, len(between) - 1, CANDIDATES).round().astype(int)]


def _ratio(numerator: np.ndarray | np.generic, denominator: np.ndarray | np.generic) -> np.ndarray:
    """The quotient, with 0/0 = 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
