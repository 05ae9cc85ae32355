"""The annotation task: its sums over batches and devices, its rules, its losses."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import losses
from cnn_jax.losses import ranking as ranking_losses
from cnn_jax.metrics import annotation as metrics
from cnn_jax.tasks.annotation import Annotation, Decision, Thresholds

LABELS, EXAMPLES = 4, 10


class Linear(nn.Module):
    """Scores of the mean colour."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(LABELS)(images.mean(axis=(1, 2))), {}


def task(**fields):
    return Annotation(Linear(), LABELS, 8, (0.5,) * 3, (0.25,) * 3, **fields)


def examples(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(EXAMPLES, LABELS)).astype(np.float32), rng.random(
        (EXAMPLES, LABELS)
    ) < 0.4


def batch(scores, truth, rows):
    """Some rows of the set, padded to four."""
    filled = np.zeros(4, np.int32)
    filled[: len(rows)] = rows
    valid = np.arange(4) < len(rows)
    return jnp.array(scores[filled]), {
        "index": jnp.array(filled),
        "valid": jnp.array(valid),
        "labels": jnp.array(truth[filled] & valid[:, None]),
    }


@pytest.mark.parametrize("loss", ["sigmoid", "softmax", "ranking", "warp"])
def test_an_evaluation_is_of_the_valid_examples(loss):
    scores, truth = examples()
    annotator = task(loss_name=loss)
    measure = jax.jit(annotator.measure)
    parts = [batch(scores, truth, list(r)) for r in (range(0, 4), range(4, 8), range(8, 10))]
    measured = [jax.tree.map(np.asarray, measure(*part)) for part in parts]
    sums = jax.tree.map(lambda *x: np.sum(x, axis=0), *[sums for sums, _ in measured])
    assert sums["examples"] == EXAMPLES
    valid = np.concatenate([part["valid"] for _, part in parts])
    rows = jax.tree.map(lambda *x: np.concatenate(x)[valid], *[rows for _, rows in measured])
    np.testing.assert_array_equal(rows["scores"], scores)
    np.testing.assert_array_equal(rows["labels"], truth)
    figures, details = annotator.summarize(sums, rows)
    precisions = metrics.average_precisions(metrics.curves(scores, truth))
    np.testing.assert_array_equal(details.average_precisions, precisions)
    assert figures["map"] == precisions.mean()
    assert figures.items() >= metrics.summarize(details.predicted, truth).items()
    one = {
        "sigmoid": lambda s, t: jnp.mean(losses.sigmoid_cross_entropy(s, t)),
        "softmax": ranking_losses.label_softmax,
        "ranking": ranking_losses.pairwise_ranking,
        "warp": ranking_losses.warp,
    }[loss]
    expected = np.mean(
        [one(jnp.array(s), jnp.array(t, jnp.float32)) for s, t in zip(scores, truth, strict=True)]
    )
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)
    # Steps of training have sums alone.
    assert annotator.summarize(sums).metrics == {"loss": figures["loss"]}


def test_rules():
    scores, _ = examples(2)
    annotator = partial(task, loss_name="sigmoid")
    given = annotator(decision=Decision("topk", k=2)).decide(scores, None)
    assert (given.sum(axis=1) == 2).all()
    given = annotator(decision=Decision("threshold", threshold=0.7)).decide(scores, None)
    np.testing.assert_array_equal(given, 1 / (1 + np.exp(-scores.astype(np.float64))) >= 0.7)
    softmax = task(loss_name="softmax", decision=Decision("threshold", threshold=0.3))
    np.testing.assert_array_equal(
        softmax.decide(scores, None), np.exp(scores.astype(np.float64)) >= 0.3
    )
    assert softmax.probability(np.float32([softmax.score(0.3)])) == pytest.approx(0.3)
    thresholds = Thresholds(0.1, (0.5, -0.5, 9.0, 0.0))
    given = annotator(decision=Decision("tuned")).decide(scores, thresholds)
    np.testing.assert_array_equal(given, scores >= np.float32(0.1))
    given = annotator(decision=Decision("per-label")).decide(scores, thresholds)
    np.testing.assert_array_equal(given, scores >= np.float32([0.5, -0.5, 9.0, 0.0]))


@pytest.mark.parametrize("rule", ["topk", "threshold", "tuned", "per-label"])
def test_the_device_decides_as_the_host_does(rule):
    scores, _ = examples(2)
    scores[0] = 0.0  # labels of equal scores
    annotator = task(loss_name="sigmoid", decision=Decision(rule, k=2))
    thresholds = Thresholds(0.1, (0.5, -0.5, 9.0, 0.0))
    given = jax.jit(lambda x: annotator.decided(x, thresholds))(scores)
    np.testing.assert_array_equal(given, annotator.decide(scores, thresholds))
    assert 0 < given.sum() < given.size


def test_given_thresholds_are_used_and_not_chosen_anew():
    scores, truth = examples(3)
    sums, rows = {"loss": 1.0, "examples": EXAMPLES}, {"scores": scores, "labels": truth}
    annotator = task(decision=Decision("per-label"))
    tuned = annotator.summarize(sums, rows)
    given = Thresholds(99.0, (99.0,) * LABELS)
    nothing = dataclasses.replace(annotator, thresholds=given).summarize(sums, rows)
    assert nothing.metrics["sample_f2"] == 0
    assert nothing.details.thresholds == given
    assert tuned.details.thresholds == annotator.choose(scores, truth)
    one = dataclasses.replace(annotator, decision=Decision("tuned")).summarize(sums, rows)
    assert tuned.metrics["sample_f2"] >= one.metrics["sample_f2"]
    assert tuned.metrics["map"] == nothing.metrics["map"]


def test_the_scores_of_softmax_are_log_probabilities_and_crops_are_averaged():
    annotator = task(loss_name="softmax")
    params, state = annotator.init(jax.random.key(0))
    images = jax.random.randint(jax.random.key(1), (2, 3, 8, 8, 3), 0, 256).astype(jnp.uint8)
    by_crop = [annotator.predict(params, state, {"image": images[:, i]}) for i in range(3)]
    np.testing.assert_allclose(np.exp(by_crop[0]).sum(axis=-1), 1, rtol=1e-5)
    together = annotator.predict(params, state, {"image": images})
    np.testing.assert_allclose(together, np.mean(by_crop, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"loss_name": "warp", "warp_ranks": "sampled"},
        {"loss_name": "sigmoid", "positive_weights": (3.0,)},
    ],
)
def test_the_training_loss_depends_on_nothing_but_its_arguments(fields):
    annotator = task(**fields)
    params, state = annotator.init(jax.random.key(0))
    _, truth = examples(4)
    image = jax.random.randint(jax.random.key(2), (EXAMPLES, 8, 8, 3), 0, 256).astype(jnp.uint8)
    order = np.arange(EXAMPLES)[::-1].copy()

    def loss(rows):
        one = {
            "image": image[rows],
            "size": jnp.full((EXAMPLES, 2), 8.0),
            "labels": jnp.array(truth[rows]),
            "ordinal": jnp.array(rows, jnp.int32),
            "valid": jnp.ones(EXAMPLES, bool),
        }
        keys = {name: jax.random.key(7) for name in ("augment", "mix", "dropout")}
        return jax.jit(annotator.loss)(params, state, one, keys)[0]

    # An example's loss goes with its place in the stream, not with its row.
    np.testing.assert_allclose(loss(order), loss(np.arange(EXAMPLES)), rtol=1e-6)
    assert np.isfinite(loss(order))
