"""The translation task: what padding, order and devices may not change, and what it learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.conventions import END, PAD, UNKNOWN
from cnn_jax.data.text import buckets
from cnn_jax.data.text.pairs import Pairs
from cnn_jax.data.text.vocabulary import Vocabulary
from cnn_jax.models.seq2seq import Seq2Seq
from cnn_jax.tasks.translation import HeldOut, Translation, looked_at
from cnn_jax.training import parallel, prng
from cnn_jax.training.state import create
from cnn_jax.training.step import train_step

MAXIMUM = 7
VOCABULARY = Vocabulary.build(["abcde"], "char")
SOURCES = ["ab", "cde", "a", "bdc", "eda", "cc", "badce", "d"]
PAIRS = Pairs(SOURCES, [s[::-1] for s in SOURCES], "made")


def task(**options):
    model = Seq2Seq(
        len(VOCABULARY),
        len(VOCABULARY),
        embedding_size=6,
        hidden_size=8,
        dropout_rate=options.pop("dropout_rate", 0.0),
    )
    held_out = HeldOut(PAIRS, VOCABULARY, VOCABULARY, replace_unknown=False)
    return Translation(model, MAXIMUM, held_out, **options)


def all_rows(rows=8, wider=0):
    """One batch of all pairs."""
    data = buckets.encode(PAIRS, VOCABULARY, VOCABULARY, MAXIMUM, cut=True)
    shape = (6 + wider, 6 + wider)
    (batch,) = buckets.EvaluationBuckets(data, [shape], batch_size=rows, maximum=MAXIMUM).iterate()
    return batch | {"ordinal": np.arange(rows, dtype=np.int32)}


KEYS = prng.step_keys(prng.root(0), jnp.zeros((), jnp.int32))


def on_device(batch):
    return {name: jnp.asarray(column) for name, column in batch.items()}


@pytest.fixture(scope="module")
def params():
    fresh, state = task().init(jax.random.key(0))
    assert state == {}
    return jax.tree.map(lambda x: 2 * x, fresh)


def loss_and_gradient(of, params, batch):
    function = jax.jit(jax.value_and_grad(of.loss, has_aux=True))
    (total, (_, sums)), gradient = function(params, {}, on_device(batch), KEYS)
    return total, sums, gradient


@pytest.fixture(scope="module")
def whole(params):
    return loss_and_gradient(task(), params, all_rows())


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5), a, b)


def test_padding_of_words_and_rows_changes_neither_loss_nor_gradient(params, whole):
    assert_close(loss_and_gradient(task(), params, all_rows(wider=3)), whole)
    assert_close(loss_and_gradient(task(), params, all_rows(rows=12)), whole)


def test_the_order_of_the_batch_changes_nothing(params, whole):
    order = np.random.default_rng(0).permutation(8)
    shuffled = {name: column[order] for name, column in all_rows().items()}
    assert_close(loss_and_gradient(task(), params, shuffled), whole)


def test_the_loss_is_the_sum_over_words_and_its_count_is_as_asked(params, whole):
    total, sums, _ = whole
    words = sum(len(s) + 1 for s in SOURCES)
    assert (sums["examples"], sums["tokens"]) == (words, words)
    assert float(total) == pytest.approx(-float(sums["log_probability"]), rel=1e-5)
    same, by_sentence, _ = loss_and_gradient(task(loss_per="sentence"), params, all_rows())
    assert (by_sentence["examples"], by_sentence["tokens"]) == (8, words)
    assert float(same) == pytest.approx(float(total), rel=1e-6)
    summary, _ = task().summarize(sums)
    assert summary["loss"] == pytest.approx(float(total) / words, rel=1e-6)
    assert summary["perplexity"] == pytest.approx(np.exp(float(total) / words), rel=1e-5)
    assert "bleu" not in summary


def test_scheduled_sampling_depends_on_the_example_and_rises(params, whole):
    sampled = task(sampling=1.0)
    batch = all_rows()
    assert abs(loss_and_gradient(sampled, params, batch)[0] - whole[0]) > 1e-3
    ramped = task(sampling=1.0, sampling_ramp=10**9)
    unramped = float(loss_and_gradient(ramped, params, batch)[0])
    assert unramped == pytest.approx(float(whole[0]), rel=1e-4)
    half = task(sampling=0.5)
    order = np.arange(8)[::-1].copy()
    reversed_batch = {name: column[order] for name, column in batch.items()}
    assert_close(
        loss_and_gradient(half, params, reversed_batch), loss_and_gradient(half, params, batch)
    )


def test_translations_are_collected_in_the_order_of_the_set(params):
    """However the set is cut into batches, every translation is a row of its own."""
    data = buckets.encode(PAIRS, VOCABULARY, VOCABULARY, MAXIMUM, cut=True)
    of = task()

    def evaluate(batches):
        step = jax.jit(lambda b: of.measure(of.predict(params, {}, b), b))
        sums, rows = [], {}
        for batch in batches:
            measured, columns = step(on_device(batch))
            sums.append(measured)
            for place in np.flatnonzero(batch["valid"]):
                row = {name: np.asarray(column[place]) for name, column in columns.items()}
                rows[int(batch["index"][place])] = row
        in_order = [rows[index] for index in range(len(PAIRS))]
        return jax.tree.map(lambda *x: np.sum(x, axis=0), *sums), jax.tree.map(
            lambda *x: np.stack(x), *in_order
        )

    one, rows = evaluate([all_rows()])
    many, many_rows = evaluate(
        buckets.EvaluationBuckets(data, [(3, 3), (6, 6)], batch_size=3, maximum=MAXIMUM).iterate()
    )
    assert_close(one, many)
    jax.tree.map(np.testing.assert_array_equal, rows, many_rows)
    assert one["examples"] == 8
    figures, hypotheses = of.summarize(one, rows)
    assert len(hypotheses) == 8
    exact = sum(h == r for h, r in zip(hypotheses, PAIRS.targets, strict=True))
    assert figures["exact_match"] == exact / 8
    scores = of.held_out.text_metrics.scores(hypotheses, PAIRS.targets)
    assert figures.items() >= scores.items()
    assert figures.keys() >= {"perplexity", "token_accuracy"}
    assert "bleu" not in of.summarize(one).metrics


def test_a_beam_of_one_is_greedy_and_wider_ones_are_no_less_probable(params):
    batch = on_device(all_rows())

    def found(beam, penalty=0.0):
        of = task(beam=beam, length_penalty=penalty)
        return jax.jit(partial(of.predict, params, {}))(batch)

    greedy = found(1)
    wide = found(4)
    assert (np.asarray(greedy["words"]) != PAD).any()
    for words in (greedy["words"], wide["words"]):
        assert not np.isin(words, [2]).any()  # BEGIN is never said.
    weights = np.asarray(greedy["attention_weights"])
    said = np.asarray(greedy["words"]) != PAD
    np.testing.assert_allclose(weights.sum(-1)[said], 1.0, rtol=1e-5)
    assert (weights[~said] == 0).all()
    outside = np.broadcast_to((np.asarray(batch["source"]) == PAD)[:, None], weights.shape)
    assert (weights[outside] == 0).all()


def test_unknown_words_are_written_as_what_they_looked_at():
    held_out = HeldOut(PAIRS, VOCABULARY, VOCABULARY, replace_unknown=True)
    words, aligned = np.array([4, UNKNOWN, END, 0]), np.array([0, 2, 3, 0])
    assert held_out.write(1, words, aligned) == "ae"
    assert looked_at(VOCABULARY, "cde", [0, 3, 9]) == ["c", "</s>", "</s>"]


@pytest.mark.parametrize("loss_per", ["token", "sentence"])
def test_devices_and_accumulation_give_one_device_s_step(params, loss_per):
    of, optimizer = task(loss_per=loss_per, sampling=0.5), optax.sgd(0.1)

    def after(devices_step, batch):
        state = create(jax.tree.map(jnp.copy, params), {}, optimizer)
        return devices_step(state, batch, prng.root(0))

    batch = all_rows()
    single = jax.jit(partial(train_step, task=of, optimizer=optimizer))
    expected, sums = after(single, on_device(batch))
    step = parallel.compile_train_step(of, optimizer, accumulate=2)
    got, got_sums = after(step, parallel.split(batch))
    assert_close(got.params, expected.params)
    assert got_sums["examples"] == sums["examples"]


def test_it_learns_to_write_backwards():
    rng = np.random.default_rng(0)
    sources = ["".join(rng.choice(list("abcde"), rng.integers(1, 6))) for _ in range(400)]
    data = buckets.encode(
        Pairs(sources, [s[::-1] for s in sources], "made"),
        VOCABULARY,
        VOCABULARY,
        MAXIMUM,
        cut=True,
    )
    of = Translation(Seq2Seq(len(VOCABULARY), len(VOCABULARY), 16, 32), MAXIMUM)
    stream = buckets.TrainingBuckets(data, [(MAXIMUM, MAXIMUM)], batch_size=32, seed=0)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    state = create(*of.init(jax.random.key(0)), optimizer)
    step = jax.jit(partial(train_step, task=of, optimizer=optimizer))
    for number in range(150):
        state, sums = step(state, on_device(stream[number]), prng.root(0))
    assert of.summarize(sums).metrics["token_accuracy"] > 0.95
    decoded = jax.jit(partial(of.predict, state.params, {}))(on_device(stream[0]))
    sums, _ = of.measure(decoded, on_device(stream[0]))
    assert int(sums["exact_match"]) >= 0.8 * int(sums["examples"])
