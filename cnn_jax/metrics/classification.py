"""Classification metrics: functions of one example, the sums they reduce to, and the divisions.

The first group runs on the device. Its results add: over a batch, over devices, over batches and
processes. The second group divides the sums once, on the host, in float64, so that a figure is
exact over the whole set however the set was cut into batches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from cnn_jax.metrics.host import on_host

_CLASSES_AT_A_TIME = 16


def top_k_correct(
    logits: Float[Array, " classes"], label: Int[Array, ""], k: int
) -> Bool[Array, ""]:
    """Test whether the label is among the ``k`` classes of highest score.

    Of equal scores the lower class index ranks first, as in ``argmax`` and ``jax.lax.top_k``, so
    top-1 agrees with the confusion matrix of ``argmax`` and constant scores are right only for
    the first ``k`` classes. (scikit-learn ranks the higher index first.) An example with a nan
    score, or a label that is no class, is never correct.

    Args:
        logits: scores of one example.
        label: index of its true class.
        k: the number of guesses that count.
    """
    (num_classes,) = logits.shape
    classes = jnp.arange(num_classes)
    score = logits[label]
    ahead = (logits > score) | ((logits == score) & (classes < label))
    legal = (label >= 0) & (label < num_classes) & ~jnp.any(jnp.isnan(logits))
    return legal & (jnp.sum(ahead) < k)


def confusion_matrix(
    predictions: Int[Array, "*shape"],
    labels: Int[Array, "*shape"],
    valid: Bool[Array, "*shape"],
    num_classes: int,
) -> Int[Array, "{num_classes} {num_classes}"]:
    """Count the pairs of (true class, predicted class): rows are the truth.

    Takes one example, a batch, or the pixels of an image. Pairs that are not valid, or whose
    label or prediction is no class (255, the mark of ignored pixels), count nowhere.

    Args:
        predictions: predicted class indices.
        labels: true class indices.
        valid: marks the pairs that count.
        num_classes: number of classes.

    Returns:
        int32 counts, which add. Add those of many batches on the host in int64.
    """
    legal = (
        (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    )
    cell = labels.astype(jnp.int32) * num_classes + predictions.astype(jnp.int32)
    cell = jnp.where(valid & legal, cell, num_classes**2)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell.ravel()].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


class CalibrationBins(NamedTuple):
    """Sums over the examples whose confidence falls into each bin; add them leaf by leaf."""

    count: Num[Array | np.ndarray, "*batch bins"]
    confidence: Num[Array | np.ndarray, "*batch bins"]
    correct: Num[Array | np.ndarray, "*batch bins"]


def calibration_bins(
    probabilities: Float[Array, " classes"], label: Int[Array, ""], bins: int = 15
) -> CalibrationBins:
    """Compute one example's share of the calibration sums.

    The confidence is the highest probability. Bin ``m`` of ``M`` holds confidences in
    ``(m / M, (m + 1) / M]`` (section 2 of the reference).

    Args:
        probabilities: ``softmax`` of the logits of one example.
        label: index of its true class.
        bins: number of bins of equal width.

    Returns:
        Rows with one entry each that is not zero: int32 count and correct, float32 confidence.

    References:
        Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
        2017
    """
    confidence = jnp.max(probabilities)
    inner_edges = jnp.arange(1, bins) / bins
    member = jax.nn.one_hot(jnp.sum(confidence > inner_edges), bins, dtype=jnp.int32)
    return CalibrationBins(
        count=member,
        confidence=jnp.where(member == 1, confidence, 0.0),
        correct=jnp.where(jnp.argmax(probabilities) == label, member, 0),
    )


def area_under_roc(
    scores: Float[Array, " examples"], truth: Bool[Array, " examples"]
) -> Float[Array, ""]:
    """Compute the share of pairs of a true and a false example that the scores of one class order.

    Pairs of equal scores count half. It is nan where a score is, and where all examples are true,
    or all false.

    References:
        Hanley and McNeil, The Meaning and Use of the Area under a Receiver Operating Characteristic
        (ROC) Curve, Radiology, 1982
    """
    ordered = jnp.sort(scores)
    below, up_to = (
        jnp.searchsorted(ordered, scores, side=side, method="sort") for side in ("left", "right")
    )
    ranks = (below + up_to + 1).astype(scores.dtype) / 2  # the mean of those of equal scores
    true = jnp.sum(truth, dtype=ranks.dtype)
    pairs = true * (len(scores) - true)
    wins = jnp.sum(ranks, where=truth) - true * (true + 1) / 2
    known = (pairs > 0) & ~jnp.any(jnp.isnan(scores))
    return jnp.where(known, wins / jnp.maximum(pairs, 1), jnp.nan)


class ClassFigures(NamedTuple):
    """Figures of each class of a confusion matrix.

    They are nan for a class that is neither true nor predicted anywhere; else 0/0 counts as 0. So
    scikit-learn has them, which averages over the other classes.

    Attributes:
        precision, recall, f1: shares.
        support: the number of examples of each class.
    """

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]


def class_figures(confusion: Int[np.ndarray, "classes classes"]) -> ClassFigures:
    """Divide a confusion matrix: precision, recall, F1 and support of each class."""
    right = np.diagonal(confusion).astype(np.float64)
    guesses, support = confusion.sum(axis=0), confusion.sum(axis=1)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        unknown = np.where(guesses + support > 0, 0.0, np.nan)
        return np.divide(part, whole, out=unknown, where=whole > 0)

    return ClassFigures(
        precision=share(right, guesses),
        recall=share(right, support),
        f1=share(2 * right, guesses + support),
        support=support,
    )


def averages(
    values: Float[np.ndarray, " classes"], support: Int[np.ndarray, " classes"]
) -> tuple[float, float]:
    """Average over the classes whose value is known: each alike (macro), and by their support.

    Both are nan where no class has a value, or an example.
    """
    known = ~np.isnan(values)
    if not support[known].sum():
        return float("nan"), float("nan")
    return float(values[known].mean()), float(np.average(values[known], weights=support[known]))


def areas_under_roc(
    scores: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> Float[np.ndarray, " classes"]:
    """Compute :func:`area_under_roc` of every class against all others, on the host."""
    return on_host(_areas_under_roc, scores, labels)


@jax.jit
def _areas_under_roc(
    scores: Float[Array, "examples classes"], labels: Int[Array, " examples"]
) -> Float[Array, " classes"]:
    def one(column: tuple[Array, Array]) -> Array:
        values, label = column
        return area_under_roc(values.astype(jnp.result_type(float)), labels == label)

    # Some classes at a time: all of them would take several times the memory of the scores.
    columns = (scores.T, jnp.arange(scores.shape[1], dtype=labels.dtype))
    return jax.lax.map(one, columns, batch_size=_CLASSES_AT_A_TIME)


def per_class_accuracy(
    confusion: Int[np.ndarray, "classes classes"],
) -> Float[np.ndarray, " classes"]:
    """Compute the share of each class's examples that were predicted as it; nan without any."""
    examples = confusion.sum(axis=1)
    return np.divide(
        np.diagonal(confusion), examples, out=np.full(len(confusion), np.nan), where=examples > 0
    )


def mean_class_accuracy(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Average the accuracies of the classes that have examples (balanced accuracy); else nan."""
    accuracy = per_class_accuracy(confusion)
    present = accuracy[~np.isnan(accuracy)]
    return float(present.mean()) if len(present) else float("nan")


def expected_calibration_error(sums: CalibrationBins) -> float:
    """Average the gap between confidence and accuracy, weighted by the bins' counts.

    It is nan where there is no example.

    Args:
        sums: :func:`calibration_bins`, added over all examples.

    References:
        Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
        2017, equation 3
    """
    count, confidence, correct = (np.asarray(leaf, np.float64) for leaf in sums)
    if count.sum() == 0:
        return float("nan")
    return float(np.abs(correct - confidence).sum() / count.sum())
