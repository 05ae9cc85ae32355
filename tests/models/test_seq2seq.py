"""RNNsearch: the lecture's worked example, a NumPy oracle, and what padding may not change."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.conventions import BEGIN, END, PAD
from cnn_jax.errors import UserError
from cnn_jax.models.seq2seq import Memory, Seq2Seq, advance
from cnn_jax.ops import recurrent

ENCODERS = ("tanh", "gru", "bigru")
ATTENTIONS = ("additive", "dot", "general", "none")
LEGAL = [p for p in itertools.product(ENCODERS, ATTENTIONS) if p != ("bigru", "dot")]


def small(**options):
    return Seq2Seq(**{"source_size": 11, "target_size": 9, "embedding_size": 5, "hidden_size": 6,
                      "attention_size": 7, "output_size": 4, **options})  # fmt: skip


def sentences(seed, *lengths, size, time):
    """Rows of random words, an END and padding."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((len(lengths), time), np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = rng.integers(4, size, length)
        row[length] = END
    return rows


SOURCE = jnp.asarray(sentences(0, 3, 5, 1, size=11, time=6))
TARGET = jnp.asarray(sentences(1, 4, 2, 3, size=9, time=5))


def initialized(model, scale=3.0):
    """Variables, enlarged so that gates and attention are far from even."""
    variables = jax.jit(model.init)(jax.random.key(0), SOURCE, TARGET)
    return jax.tree.map(lambda x: scale * x, variables)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_the_lecture_s_worked_example():
    """Three input vectors, the tanh recurrence, s_0 zeros or h_3, two steps of the decoder."""
    a, b, c = (np.array(v) for v in ([0.1, 0, 1], [1, 0.1, 0], [0.2, 0.3, 1]))
    rng = np.random.default_rng(0)
    u, w, w_a, u_a, cell, cell_r, cell_z = (
        rng.normal(size=shape).astype(np.float32)
        for shape in [(3, 3)] * 4 + [(3, 8)] * 3  # [s, E y, c] with words of 2 numbers
    )
    v, words = rng.normal(size=3).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)

    h_1 = np.tanh(u @ a)  # h_0 is zero
    h_2 = np.tanh(u @ b + w @ h_1)
    h_3 = np.tanh(u @ c + w @ h_2)
    inputs = jnp.asarray(np.stack([a, b, c]) @ u.T, jnp.float32)
    last, states = recurrent.run(
        lambda s, x: recurrent.tanh_cell(s, x, jnp.asarray(w.T)),
        jnp.zeros(3),
        inputs,
        jnp.ones(3, bool),
    )
    np.testing.assert_allclose(states, [h_1, h_2, h_3], rtol=1e-5)
    np.testing.assert_array_equal(last, states[-1])

    weights = {
        "query": w_a.T,
        "v": v,
        "gates": np.concatenate([cell_z[:, :3].T, cell_r[:, :3].T], 1),
        "candidate": cell[:, :3].T,
        "word": np.concatenate([m[:, 3:5].T for m in (cell_z, cell_r, cell)], 1),
        "context": np.concatenate([m[:, 5:].T for m in (cell_z, cell_r, cell)], 1),
        "bias": np.zeros(9, np.float32),
    }
    weights = jax.tree.map(jnp.asarray, weights)
    memory = Memory(states, states @ u_a.T, jnp.ones(3, bool), last)
    for s_0 in (np.zeros(3), h_3):
        s, ours = s_0, jnp.asarray(s_0, jnp.float32)
        for y in words:
            e = np.array([v @ np.tanh(w_a @ s + u_a @ h) for h in (h_1, h_2, h_3)])
            k = np.exp(e) / (np.exp(e[0]) + np.exp(e[1]) + np.exp(e[2]))
            context = k[0] * h_1 + k[1] * h_2 + k[2] * h_3
            r = sigmoid(cell_r @ np.concatenate([s, y, context]))
            z = sigmoid(cell_z @ np.concatenate([s, y, context]))
            candidate = np.tanh(cell @ np.concatenate([r * s, y, context]))
            s = (1 - z) * s + z * candidate
            ours, our_context, our_k = advance(weights, "additive", memory, ours, jnp.asarray(y))
            np.testing.assert_allclose(our_k, k, rtol=1e-5)
            np.testing.assert_allclose(our_context, context, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(ours, s, rtol=1e-4, atol=1e-6)


def oracle(params, source, target):
    """Bidirectional encoder, additive attention, paper's initial state: one unpadded sentence."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    encoder, d = p["encode"], p["decode"]
    x = encoder["embedding"][source]

    def gated(s, projected, gates, candidate_kernel):
        z_x, r_x, c_x = np.split(projected, 3)
        z_s, r_s = np.split(gates.T @ s, 2)
        z, r = sigmoid(z_x + z_s), sigmoid(r_x + r_s)
        return (1 - z) * s + z * np.tanh(c_x + candidate_kernel.T @ (r * s))

    def along(name, order):
        s, states = np.zeros(6), {}
        for j in order:
            projected = encoder[name]["kernel"].T @ x[j] + encoder[name]["bias"]
            s = gated(s, projected, encoder[f"{name}_gates"], encoder[f"{name}_candidate"])
            states[j] = s
        return np.array([states[j] for j in range(len(source))])

    forward, backward = along("forward", range(len(source))), None
    backward = along("backward", reversed(range(len(source))))
    h = np.concatenate([forward, backward], 1)
    s = np.tanh(d["initial"].T @ backward[0] + d["initial_bias"])
    all_logits, all_weights = [], []
    for word in [BEGIN, *target[:-1]]:
        y = d["embedding"][word]
        weights = softmax(
            np.array([d["v"] @ np.tanh(d["query"].T @ s + d["key"].T @ h_j) for h_j in h])
        )
        c = weights @ h
        projected = d["word"].T @ y + d["context"].T @ c + d["bias"]
        s = gated(s, projected, d["gates"], d["candidate"])
        pairs = d["output_state"].T @ s + d["output_word"].T @ y
        pairs = pairs + d["output_context"].T @ c + d["output_bias"]
        units = np.array([max(pairs[2 * i], pairs[2 * i + 1]) for i in range(4)])
        all_logits.append(d["softmax"].T @ units + d["softmax_bias"])
        all_weights.append(weights)
    return np.array(all_logits), np.array(all_weights)


def test_the_whole_network_is_the_equations():
    model = small()
    variables = initialized(model)
    logits, features = jax.jit(model.apply)(variables, SOURCE, TARGET)
    for row in range(3):
        source, target = SOURCE[row][SOURCE[row] != PAD], TARGET[row][TARGET[row] != PAD]
        expected, weights = oracle(variables["params"], source, target)
        np.testing.assert_allclose(logits[row, : len(target)], expected, rtol=1e-3, atol=1e-4)
        ours = features["attention_weights"][row, : len(target), : len(source)]
        np.testing.assert_allclose(ours, weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("encoder", "attention"), LEGAL)
def test_padding_changes_nothing(encoder, attention):
    initial_state = "zeros" if attention == "general" else "last"
    model = small(encoder=encoder, attention=attention, initial_state=initial_state)
    variables = initialized(model)
    apply = jax.jit(model.apply)
    logits, features = apply(variables, SOURCE, TARGET)
    longer_source = np.pad(SOURCE, ((0, 0), (0, 3)))
    longer_target = np.pad(TARGET, ((0, 0), (0, 2)))
    longer, longer_features = apply(variables, longer_source, longer_target)
    np.testing.assert_allclose(longer[:, :5], logits, rtol=1e-5, atol=1e-5)
    for name in ("annotations", "states"):
        np.testing.assert_allclose(
            longer_features[name][:, : features[name].shape[1]],
            features[name],
            rtol=1e-5,
            atol=1e-5,
        )
    weights = np.asarray(longer_features["attention_weights"])
    outside = np.broadcast_to((longer_source == PAD)[:, None], weights.shape)
    assert (weights[outside] == 0).all()
    assert (np.asarray(longer_features["annotations"])[longer_source == PAD] == 0).all()
    if attention != "none":
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


def test_the_order_of_the_batch_does_not_matter():
    model = small()
    variables, order = initialized(model), np.array([2, 0, 1])
    apply = jax.jit(model.apply)
    logits = apply(variables, SOURCE, TARGET)[0]
    np.testing.assert_array_equal(apply(variables, SOURCE[order], TARGET[order])[0], logits[order])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_steps_are_the_whole(encoder):
    """One sentence, word by word, gives what the batch gives at once."""
    model = small(encoder=encoder)
    variables = initialized(model)
    logits, features = jax.jit(model.apply)(variables, SOURCE, TARGET)
    memory, state = model.apply(variables, SOURCE[1], method="read")
    words = [BEGIN, *TARGET[1][:-1]]
    for i, word in enumerate(words):
        state, ours, weights = model.apply(
            variables, memory, state, jnp.asarray(word), method="step"
        )
        np.testing.assert_allclose(ours, logits[1, i], rtol=1e-4, atol=1e-5)
        expected = features["attention_weights"][1, i]
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


def test_scheduled_sampling_feeds_what_the_coins_say():
    model = small()
    variables = initialized(model)
    forced, _ = jax.jit(model.apply)(variables, SOURCE, TARGET)
    never, _ = jax.jit(model.apply)(variables, SOURCE, TARGET, jnp.zeros(TARGET.shape, bool))
    np.testing.assert_allclose(never, forced, rtol=1e-4, atol=1e-5)
    always, _ = jax.jit(model.apply)(variables, SOURCE, TARGET, jnp.ones(TARGET.shape, bool))
    # Fed its own guesses, the decoder does what teacher forcing with those guesses does.
    guesses = jnp.argmax(always, -1)
    again, _ = jax.jit(model.apply)(variables, SOURCE, guesses)
    np.testing.assert_allclose(again, always, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(always[:, 0], forced[:, 0], rtol=1e-4, atol=1e-5)


def test_dropout_acts_while_training_only():
    model = small(dropout_rate=0.5)
    variables = initialized(model)
    evaluated = jax.jit(model.apply)(variables, SOURCE, TARGET)[0]
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, SOURCE, TARGET)[0], evaluated)
    train = jax.jit(partial(model.apply, train=True))
    draws = [
        train(variables, SOURCE, TARGET, rngs={"dropout": jax.random.key(k)})[0] for k in range(2)
    ]
    assert not np.allclose(draws[0], draws[1])


def test_bfloat16_keeps_weights_and_logits_in_float32():
    model = small(dtype=jnp.bfloat16)
    variables = initialized(model, 1.0)
    logits, features = jax.jit(model.apply)(variables, SOURCE, TARGET)
    assert logits.dtype == features["attention_weights"].dtype == jnp.float32
    assert features["states"].dtype == jnp.bfloat16
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    expected = small().apply(variables, SOURCE, TARGET)[0]
    np.testing.assert_allclose(logits, expected, atol=0.1)


def test_the_paper_s_initialization():
    variables = small(initialization="paper", hidden_size=64).init(
        jax.random.key(0), SOURCE, TARGET
    )["params"]
    decoder = variables["decode"]
    assert (np.asarray(decoder["v"]) == 0).all()
    assert np.std(decoder["query"]) == pytest.approx(0.001, rel=0.15)
    assert np.std(decoder["softmax"]) == pytest.approx(0.01, rel=0.4)
    gates = np.asarray(decoder["gates"])
    np.testing.assert_allclose(gates[:, :64].T @ gates[:, :64], np.eye(64), atol=1e-5)
    np.testing.assert_allclose(gates[:, 64:].T @ gates[:, 64:], np.eye(64), atol=1e-5)


def test_dot_attention_wants_equal_lengths():
    with pytest.raises(UserError, match=r"attention dot: .*general"):
        small(attention="dot").init(jax.random.key(0), SOURCE, TARGET)
