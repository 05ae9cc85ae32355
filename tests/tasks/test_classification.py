"""The classification task: loss, mixing, auxiliary heads, crops and figures against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import Augmentation
from cnn_jax.tasks.classification import Classification
from tests.checks import assert_same_bits

CLASSES, SIDE, ROWS = 7, 4, 6
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
KEYS = {name: jax.random.key(i) for i, name in enumerate(("augment", "mix", "dropout"))}


class Linear(nn.Module):
    """Logits of the mean colour, and those of an auxiliary head while training."""

    auxiliary: bool = False
    auxiliary_weight: float = 0.3
    axis_name: str | None = None

    classifiers = ("head", "aux")

    @nn.compact
    def __call__(self, images, train):
        color = images.mean(axis=(1, 2))
        features = {"pre_logits": color}
        if self.auxiliary and train:
            features["auxiliary_logits"] = {"aux": nn.Dense(CLASSES, name="aux")(color)}
        return nn.Dense(CLASSES, name="head")(color), features


def task(auxiliary=False, **fields):
    return Classification(Linear(auxiliary), CLASSES, SIDE, MEAN, STD, **fields)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.array(rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)), jnp.uint8),
        "label": jnp.array(rng.integers(0, CLASSES, ROWS), jnp.int32),
        "valid": jnp.array([True] * (ROWS - 1) + [False]),
        "ordinal": jnp.arange(ROWS, dtype=jnp.int32),
        "size": jnp.full((ROWS, 2), SIDE, jnp.float32),
    }


def loss(of, params, given):
    total, (state, sums) = jax.jit(of.loss)(params, {}, given, KEYS)
    assert state == {}
    return float(total), {name: float(value) for name, value in sums.items()}


def log_softmax(logits):
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def logits_of(params, images, head="head"):
    """The network by hand: `images` in 0..1."""
    color = ((images - MEAN) / STD).mean(axis=(1, 2))
    return color @ np.float64(params[head]["kernel"]) + np.float64(params[head]["bias"])


def colors(given):
    return np.float64(given["image"]) / 255


def one_hot(given):
    return np.eye(CLASSES)[given["label"]]


def test_fresh_variables_follow_the_key():
    params, state = task().init(jax.random.key(3))
    assert state == {}
    assert {name: x.shape for name, x in params["head"].items()} == {
        "kernel": (3, CLASSES),
        "bias": (CLASSES,),
    }
    assert_same_bits(task().init(jax.random.key(3))[0], params)
    other, _ = task().init(jax.random.key(4))
    assert not np.array_equal(other["head"]["kernel"], params["head"]["kernel"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_the_loss_is_summed_over_valid_examples(name, smoothing):
    of, given = task(loss_name=name, label_smoothing=smoothing), batch()
    params, _ = of.init(jax.random.key(0))
    total, sums = loss(of, params, given)
    logits = logits_of(params, colors(given))
    targets = (1 - smoothing) * one_hot(given) + smoothing / CLASSES
    if name == "softmax":
        per_example = -(targets * log_softmax(logits)).sum(-1)
    else:
        both = targets * np.log1p(np.exp(-logits)) + (1 - targets) * np.log1p(np.exp(logits))
        per_example = both.mean(-1)
    assert total == pytest.approx(per_example[:-1].sum(), rel=1e-5)
    order = np.argsort(-logits, axis=-1)[:-1]
    label = np.asarray(given["label"])[:-1, None]
    assert sums == {
        "loss": total,
        "examples": ROWS - 1,
        "top1": (order[:, :1] == label).sum(),
        "top5": (order[:, :5] == label).sum(),
    }


def unit(vectors):
    vectors = np.float64(vectors)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def centered(given):
    features = (colors(given) - MEAN).mean(axis=(1, 2)) / STD
    return unit(features - features.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["proxy", "proxy_nca"])
def test_losses_of_proxies_compare_features_with_the_columns_of_the_last_layer(name):
    of, given = task(auxiliary=True, loss_name=name, logit_scale=5.0), batch()
    params, _ = of.init(jax.random.key(0))
    total, sums = loss(of, params, given)
    cosines = centered(given) @ unit(params["head"]["kernel"].T).T
    own = one_hot(given).astype(bool)
    chances = np.exp(5 * cosines)
    below = chances.sum(axis=1) - (chances[own] if name == "proxy_nca" else 0)
    auxiliary = -log_softmax(logits_of(params, colors(given), "aux"))[own]
    per_example = -np.log(chances[own] / below) + 0.3 * auxiliary
    assert total == pytest.approx(per_example[:-1].sum(), rel=1e-4)
    right = cosines.argmax(axis=1) == np.asarray(given["label"])
    assert sums["top1"] == right[:-1].sum()
    predicted = jax.jit(of.predict)(params, {}, given)
    np.testing.assert_allclose(predicted, log_softmax(5 * cosines), atol=1e-4)


def test_embeddings_are_the_directions_of_the_features():
    given, plain, proxies = batch(), task(), task(loss_name="proxy")
    params, _ = plain.init(jax.random.key(0))
    features = (colors(given) - MEAN).mean(axis=(1, 2)) / STD
    np.testing.assert_allclose(plain.embed(params, {}, given), unit(features), atol=1e-5)
    np.testing.assert_allclose(proxies.embed(params, {}, given), centered(given), atol=1e-4)
    crops = given | {"image": jnp.stack([given["image"], given["image"][::-1]], axis=1)}
    mean = unit(features + features[::-1])
    np.testing.assert_allclose(plain.embed(params, {}, crops), mean, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_class_weights_multiply_the_loss_of_training_alone(name):
    weights = (0.5, 1.0, 3.0, 0.25, 2.0, 1.5, 0.1)
    plain, weighted = task(loss_name=name), task(loss_name=name, class_weights=weights)
    given = batch()
    params, _ = plain.init(jax.random.key(0))
    one = [given | {"valid": jnp.arange(ROWS) == row} for row in range(ROWS - 1)]
    expected = sum(
        weights[int(given["label"][row])] * loss(plain, params, part)[0]
        for row, part in enumerate(one)
    )
    total, sums = loss(weighted, params, given)
    assert total == pytest.approx(expected, rel=1e-5)
    # What the sum is divided by stays the number of examples.
    assert sums["examples"] == ROWS - 1
    predictions = weighted.predict(params, {}, given)
    evaluated = [of.measure(predictions, given)[0]["loss"] for of in (plain, weighted)]
    assert evaluated[0] == evaluated[1]


def test_auxiliary_heads_count_at_their_weight_while_training_only():
    of, given = task(auxiliary=True), batch()
    params, _ = of.init(jax.random.key(0))
    total, _ = loss(of, params, given)
    parts = {
        head: -(one_hot(given) * log_softmax(logits_of(params, colors(given), head))).sum(-1)[:-1]
        for head in ("head", "aux")
    }
    assert total == pytest.approx(parts["head"].sum() + 0.3 * parts["aux"].sum(), rel=1e-5)
    without = {"head": params["head"]}
    assert_same_bits(of.predict(params, {}, given), task().predict(without, {}, given))


def test_mixup_blends_each_example_with_the_one_before_it():
    of, given = task(augmentation=Augmentation(mixup=0.4)), batch()
    given["valid"] = jnp.ones(ROWS, bool)
    params, _ = of.init(jax.random.key(0))
    total, _ = loss(of, params, given)

    def blended(share):
        def mixed(values):
            return share * values + (1 - share) * np.roll(values, 1, axis=0)

        log_probabilities = log_softmax(logits_of(params, mixed(colors(given))))
        return -(mixed(one_hot(given)) * log_probabilities).sum()

    # The share is one draw for the whole batch: some share explains the loss, and it is not 1.
    shares = np.linspace(0, 1, 2001)
    nearest = shares[np.argmin([abs(blended(share) - total) for share in shares])]
    assert blended(nearest) == pytest.approx(total, abs=0.01)
    assert 0.001 < nearest < 0.999
    assert total != pytest.approx(blended(1.0), abs=0.01)


def test_predictions_are_log_probabilities_of_images_as_they_are():
    of, given = task(augmentation=Augmentation(flip=True, rotate=30.0, mixup=0.4)), batch()
    params, _ = of.init(jax.random.key(0))
    expected = log_softmax(logits_of(params, colors(given)))
    np.testing.assert_allclose(jax.jit(of.predict)(params, {}, given), expected, rtol=1e-4)


def test_the_probabilities_of_ten_crops_are_averaged():
    of = task()
    params, _ = of.init(jax.random.key(0))
    crops = np.random.default_rng(1).integers(0, 256, (2, 10, SIDE, SIDE, 3)).astype(np.uint8)
    predictions = jax.jit(of.predict)(params, {}, {"image": jnp.array(crops)})
    probabilities = np.exp(
        log_softmax(logits_of(params, crops.reshape(20, *crops.shape[2:]) / 255))
    )
    expected = probabilities.reshape(2, 10, CLASSES).mean(axis=1)
    np.testing.assert_allclose(np.exp(predictions), expected, rtol=1e-4)


class Places(nn.Module):
    """Logits that depend on where every pixel lies, unlike those of the mean colour."""

    @nn.compact
    def __call__(self, images, train):
        flat = images.reshape(images.shape[0], -1)
        return nn.Dense(CLASSES, name="head")(jnp.tanh(flat)), {}


@pytest.mark.parametrize("kind", ["mirror", "shift"])
def test_predictions_average_the_logits_of_every_view(kind):
    """Each view is made by hand, and applied by itself."""
    of = Classification(Places(), CLASSES, SIDE, MEAN, STD, views=kind, logit_scale=0.5)
    given = batch()
    params, _ = of.init(jax.random.key(0))
    images = (colors(given) - MEAN) / STD
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [(0.25, padded[:, :SIDE, :SIDE]), (0.25, padded[:, 2:, 2:])]
    shown = [(1.0, images)] if kind == "mirror" else [(0.5, images), *moved]
    logits = 0.0
    for weight, view in shown:
        for mirrored in (view, view[:, :, ::-1]):
            one, _ = of.model.apply({"params": params}, jnp.float32(mirrored), train=False)
            logits = logits + weight / 2 * np.float64(one)
    predictions = jax.jit(of.predict)(params, {}, given)
    np.testing.assert_allclose(predictions, log_softmax(0.5 * logits), rtol=1e-4, atol=1e-5)


def test_the_loss_is_of_scaled_logits():
    of, given = task(logit_scale=1 / 9, label_smoothing=0.2), batch()
    params, _ = of.init(jax.random.key(0))
    total, _ = loss(of, params, given)
    targets = 0.8 * one_hot(given) + 0.2 / CLASSES
    per_example = -(targets * log_softmax(logits_of(params, colors(given)) / 9)).sum(-1)
    assert total == pytest.approx(per_example[:-1].sum(), rel=1e-5)


def test_figures_of_known_predictions():
    of = task()
    probabilities = np.full((ROWS, CLASSES), 0.04)
    # Right, right, second guess, last guess, right, and a row of padding.
    labels = np.array([0, 1, 2, 3, 0, 5])
    first = np.array([0, 1, 1, 0, 0, 5])
    probabilities[np.arange(ROWS), first] = 0.7
    probabilities[2, 2], probabilities[2, 0] = 0.06, 0.02
    probabilities[3, 3], probabilities[3, 1] = 0.02, 0.06
    given = {"label": jnp.array(labels, jnp.int32), "valid": jnp.arange(ROWS) < 5}
    predictions = jnp.array(
        np.log(probabilities / probabilities.sum(-1, keepdims=True)), jnp.float32
    )
    sums, rows = jax.tree.map(np.asarray, jax.jit(of.measure)(predictions, given))
    figures, details = of.summarize(sums, rows)
    assert figures["macro_recall"] == pytest.approx(figures["mean_class_accuracy"])
    assert details.labels.tolist() == np.asarray(given["label"]).tolist()
    # Of a set of many classes they are the largest array on the host: there is one.
    assert np.shares_memory(details.log_probabilities, rows["log_probabilities"])
    normalized = probabilities / probabilities.sum(-1, keepdims=True)
    assert figures["loss"] == pytest.approx(
        -np.log(normalized[np.arange(5), labels[:5]]).mean(), rel=1e-5
    )
    assert (figures["top1"], figures["top5"]) == pytest.approx((3 / 5, 4 / 5))
    # Classes 0 and 1 are always right, 2 and 3 never, the others do not occur.
    assert figures["mean_class_accuracy"] == pytest.approx(2 / 4)
    # All five predictions have the same confidence, and three of them are right.
    confidence = normalized.max(-1)[:5]
    assert figures["expected_calibration_error"] == pytest.approx(
        abs(confidence.mean() - 3 / 5), abs=1e-5
    )


def test_sums_of_two_batches_are_those_of_both():
    of = task()
    params, _ = of.init(jax.random.key(0))
    measured = [
        jax.tree.map(np.asarray, jax.jit(of.measure)(of.predict(params, {}, given), given)[0])
        for given in (batch(0), batch(1))
    ]
    figures = of.summarize(jax.tree.map(np.add, *measured)).metrics
    separate = [of.summarize(sums).metrics for sums in measured]
    for name in ("loss", "top1", "top5"):
        assert figures[name] == pytest.approx(np.mean([one[name] for one in separate]), rel=1e-5)


def test_few_classes_have_no_top5():
    of = Classification(Linear(), 5, SIDE, MEAN, STD)
    predictions = jnp.log(jnp.full((ROWS, 5), 0.2))
    given = {"label": jnp.zeros(ROWS, jnp.int32), "valid": jnp.ones(ROWS, bool)}
    assert "top5" not in of.measure(predictions, given)[0]
