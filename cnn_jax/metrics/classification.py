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
