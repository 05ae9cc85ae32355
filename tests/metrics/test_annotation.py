"""Annotation metrics against scikit-learn, published floors, and their definitions."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from cnn_jax.metrics import annotation as metrics
from cnn_jax.metrics.host import on_host


def _random(seed, examples=80, labels=6):
    rng = np.random.default_rng(seed)
    truth = rng.random((examples, labels)) < np.linspace(0.05, 0.6, labels)
    truth[:3] = False  # Images without a label.
    truth[:, 0] = False if seed % 2 else truth[:, 0]  # A label without images.
    scores = np.round(rng.normal(size=truth.shape) + truth, 1)  # With equal scores.
    return scores.astype(np.float32), truth


@pytest.mark.parametrize("seed", range(4))
def test_decisions_are_judged_as_by_scikit_learn(seed):
    scores, truth = _random(seed)
    predicted = metrics.above(scores, 0.9)
    predicted[:, 5] &= seed < 2  # A label that is never predicted.
    figures = metrics.summarize(predicted, truth)
    for prefix, average in (("sample", "samples"), ("class", "macro"), ("overall", "micro")):
        expected = sklearn_metrics.precision_recall_fscore_support(
            truth, predicted, average=average, zero_division=0
        )
        assert figures[f"{prefix}_precision"] == pytest.approx(expected[0])
        assert figures[f"{prefix}_recall"] == pytest.approx(expected[1])
    for beta, key in ((1, "sample_f1"), (2, "sample_f2")):
        expected = sklearn_metrics.fbeta_score(
            truth, predicted, beta=beta, average="samples", zero_division=0
        )
        assert figures[key] == pytest.approx(expected)
    assert figures["hamming_loss"] == pytest.approx(sklearn_metrics.hamming_loss(truth, predicted))
    assert figures["n_plus"] == ((predicted & truth).sum(0) > 0).sum()


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learn_s(seed):
    scores, truth = _random(seed)
    occurring = truth.any(axis=0)
    expected = [
        sklearn_metrics.average_precision_score(truth[:, i], scores[:, i]) if occurring[i] else 0.0
        for i in range(truth.shape[1])
    ]
    curves = metrics.curves(scores, truth)
    np.testing.assert_allclose(metrics.average_precisions(curves), expected, rtol=1e-12)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth[:, 4], scores[:, 4])
    points = curves.is_threshold[4]
    np.testing.assert_allclose(curves.precision[4][points], precision[-2::-1])
    np.testing.assert_allclose(curves.recall[4][points], recall[-2::-1])


def test_the_worked_example_and_nothing_against_nothing():
    truth = np.array([[True, True, False, False]])
    predicted = np.array([[True, False, True, True]])
    figures = metrics.summarize(predicted, truth)
    assert figures["sample_f2"] == pytest.approx(5 / 11)
    assert figures["sample_f1"] == pytest.approx(0.4)
    nothing = np.zeros((1, 4), bool)
    assert set(metrics.summarize(nothing, nothing).values()) == {0.0}


def test_top_k_gives_exactly_k_and_the_first_of_equals():
    scores = np.array([[0.5, 0.5, 0.5], [0.0, 2.0, 1.0]])
    np.testing.assert_array_equal(metrics.best_k(scores, 2), [[1, 1, 0], [0, 1, 1]])
    assert metrics.best_k(scores, 9).all()


def test_candidates_part_all_scores_or_evenly_many_of_them():
    def candidates(scores):
        return on_host(metrics.threshold_candidates, np.array(scores, np.float32))

    few = candidates([1, 4, 2, 4])
    assert few[:3].tolist() == [3, 1.5, 0]
    assert (few[3:] == 0).all()
    many = candidates(np.arange(1000))
    places = np.linspace(0, 999, metrics.CANDIDATES).round()
    np.testing.assert_array_equal(many[:-1], 998.5 - places[:-1])
    assert many[-1] == -1


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_thresholds_are_the_best_there_are(beta):
    scores, truth = _random(3, examples=40, labels=3)

    def value(thresholds):
        return sklearn_metrics.fbeta_score(
            truth, scores >= thresholds, beta=beta, average="samples", zero_division=0
        )

    one = metrics.choose_threshold(scores, truth, beta)
    best = max(value(t) for t in np.unique(scores))
    assert value(np.float32(one)) == pytest.approx(best)
    several = metrics.choose_thresholds(scores, truth, beta).astype(np.float32)
    assert value(several) >= best
    # No single threshold's move improves on them.
    for label in range(3):
        for candidate in np.unique(scores[:, label]):
            moved = several.copy()
            moved[label] = candidate
            assert value(moved) <= value(several) + 1e-12


def test_co_occurrence_and_confusions():
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    predicted = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
    np.testing.assert_array_equal(metrics.cooccurrence(truth), [[2, 1, 0], [1, 1, 0], [0, 0, 1]])
    # Image 0: 1 missed, 2 invented; image 1: 0 missed, 2 invented.
    np.testing.assert_array_equal(
        metrics.confusions(predicted, truth), [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    )


def _miml_labels():
    root = os.environ.get("CNN_JAX_DATA")
    if root is None:
        pytest.skip("CNN_JAX_DATA is unset: the floors of the MIML scenes were not computed")
    with (Path(root) / "miml_scenes" / "labels.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    return np.array([[int(x) for x in row[1:]] for row in rows]) > 0


# Per-class recall and precision, overall recall and precision, N+ (all in %), sample F1, sample F2.
@pytest.mark.parametrize(
    ("predict", "k", "expected"),
    [
        (metrics.constant, 1, (20, 5.8, 23.46, 29.0, 20, 0.2493, 0.2360)),
        (metrics.constant, 2, (40, 11.4, 46.12, 28.5, 40, 0.3437, 0.4031)),
        (metrics.best_possible, 1, (None, 100, 80.91, 100, 100, 0.9226, 0.8972)),
        (metrics.best_possible, 2, (None, None, 99.39, 61.42, 100, 0.7413, 0.8693)),
    ],
)
def test_floors_and_ceilings_of_the_miml_scenes(predict, k, expected):
    """Computed independently; which labels an oracle drops or adds sways the open cells."""
    truth = _miml_labels()
    figures = metrics.summarize(predict(truth, k), truth)
    keys = ("class_recall", "class_precision", "overall_recall", "overall_precision")
    found = [100 * figures[key] for key in keys] + [100 * figures["n_plus"] / truth.shape[1]]
    for value, wanted in zip(found, expected[:5], strict=True):
        assert wanted is None or value == pytest.approx(wanted, abs=0.006)
    assert figures["sample_f1"] == pytest.approx(expected[5], abs=6e-5)
    assert figures["sample_f2"] == pytest.approx(expected[6], abs=6e-5)
