"""The training step against plain arithmetic, and over devices against itself on one."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.metrics.summary import Summary
from cnn_jax.models.layers import on_axis
from cnn_jax.training import parallel, prng
from cnn_jax.training.averaging import Lookahead, MovingAverage, growing
from cnn_jax.training.state import create
from cnn_jax.training.step import evaluation_step, train_step

FEATURES, CLASSES, EXAMPLES = 6, 3, 16


class Network(nn.Module):
    """Dense layers with batch norm between them, and dropout where asked for."""

    axis_name: str | None = None
    norm: bool = True
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(x))
        return nn.Dense(CLASSES)(x)


class Regression:
    """Half squared error to one-hot targets: a task as small as the contract allows."""

    def __init__(self, bound=True, **network):
        self.network, self.bound = Network(**network), bound

    def init(self, key):
        variables = dict(self.network.init(key, jnp.zeros((1, FEATURES))))
        return variables.pop("params"), variables

    def loss(self, params, model_state, batch, keys, axis_name=None):
        network = on_axis(self.network, axis_name if self.bound else None)
        outputs, model_state = network.apply(
            {"params": params, **model_state},
            batch["x"],
            train=True,
            rngs={"dropout": keys["dropout"]},
            mutable=list(model_state),
        )
        error = outputs - jax.nn.one_hot(batch["label"], CLASSES)
        total = jnp.sum(0.5 * jnp.sum(error**2, -1), where=batch["valid"])
        return total, (model_state, {"loss": total, "examples": jnp.sum(batch["valid"])})

    def predict(self, params, model_state, batch):
        return self.network.apply({"params": params, **model_state}, batch["x"])

    def measure(self, predictions, batch):
        correct = (jnp.argmax(predictions, -1) == batch["label"]) & batch["valid"]
        return {"correct": jnp.sum(correct), "examples": jnp.sum(batch["valid"])}, {}

    def summarize(self, sums, rows=None):
        return Summary({"accuracy": float(sums["correct"]) / float(sums["examples"])})


def make_batch(seed=0, valid=None):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32),
        "label": rng.integers(0, CLASSES, EXAMPLES).astype(np.int32),
        "valid": np.ones(EXAMPLES, bool) if valid is None else valid,
    }


def start(task, optimizer=None, **options):
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
    return create(*task.init(jax.random.key(0)), optimizer, **options), optimizer


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_the_update_is_that_of_the_mean_loss():
    task = Regression(norm=False)
    state, _ = start(task)
    batch = make_batch()
    new, sums = train_step(state, batch, prng.root(0), task=task, optimizer=optax.sgd(0.1))

    def mean_loss(params):
        error = task.predict(params, {}, batch) - jax.nn.one_hot(batch["label"], CLASSES)
        return jnp.mean(0.5 * jnp.sum(error**2, -1))

    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, state.params, jax.grad(mean_loss)(state.params)
    )
    assert_close(new.params, expected, rtol=1e-5, atol=1e-7)
    assert int(new.step) == 1
    np.testing.assert_allclose(
        float(sums["loss"]) / int(sums["examples"]), mean_loss(state.params), rtol=1e-6
    )


def test_rows_that_are_not_valid_count_for_nothing():
    task = Regression(norm=False)
    state, optimizer = start(task)
    valid = np.arange(EXAMPLES) < 5
    whole = make_batch(valid=valid)
    part = {name: column[:5] for name, column in make_batch().items()}
    step = partial(train_step, key=prng.root(0), task=task, optimizer=optimizer)
    masked, masked_sums = step(state, whole)
    alone, alone_sums = step(state, part)
    assert_close(masked.params, alone.params, rtol=1e-5, atol=1e-7)
    assert_close(masked_sums, alone_sums, rtol=1e-5)


def test_a_batch_without_a_valid_row_changes_no_parameter():
    task = Regression(norm=False)
    state, _ = start(task)
    batch = make_batch(valid=np.zeros(EXAMPLES, bool))
    new, _ = train_step(state, batch, prng.root(0), task=task, optimizer=optax.sgd(0.1))
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_whole_batch_s_update(parts):
    task = Regression(norm=False)
    state, optimizer = start(task)
    # Parts of unequal numbers of valid rows: a mean of the parts' means would differ.
    batch = make_batch(valid=np.arange(EXAMPLES) < 7)
    step = partial(train_step, key=prng.root(0), task=task, optimizer=optimizer)
    whole, whole_sums = step(state, batch)
    summed, summed_sums = step(state, batch, accumulate=parts)
    assert_close(summed.params, whole.params, rtol=1e-5, atol=1e-7)
    assert_close(summed_sums, whole_sums, rtol=1e-5)


def test_accumulation_updates_batch_statistics_part_by_part():
    task = Regression()
    state, optimizer = start(task)
    batch = make_batch()
    step = partial(train_step, task=task, optimizer=optimizer)
    whole, _ = step(state, batch, prng.root(0), accumulate=2)
    by_hand = state
    for rows in (slice(0, 8), slice(8, 16)):
        part = {name: column[rows] for name, column in batch.items()}
        after, _ = step(by_hand.replace(params=state.params), part, prng.root(0))
        by_hand = after
    assert_close(whole.model_state, by_hand.model_state, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", [False, True])
def test_four_devices_equal_one(norm):
    assert jax.local_device_count() == 4
    task = Regression(norm=norm)
    state, optimizer = start(task)
    several, _ = start(task)
    step = parallel.compile_train_step(task, optimizer)
    key = prng.root(0)
    for seed in range(3):
        batch = make_batch(seed, valid=np.arange(EXAMPLES) < 13 if seed == 2 else None)
        state, sums = train_step(state, batch, key, task=task, optimizer=optimizer)
        several, several_sums = step(several, parallel.split(batch), key)
        assert_close(several_sums, sums, rtol=1e-4)
    assert_close(several.params, state.params, rtol=1e-4, atol=1e-6)
    assert_close(several.model_state, state.model_state, rtol=1e-4, atol=1e-6)


def test_replicas_drift_only_in_a_network_that_ignores_the_axis():
    """The check itself must be able to fail: without the axis name the statistics drift."""
    for bound in (True, False):
        task = Regression(bound)
        state, optimizer = start(task)
        step = parallel.compile_train_step(task, optimizer)
        for seed in range(2):
            state, _ = step(state, parallel.split(make_batch(seed)), prng.root(0))
        assert parallel.replicas_agree(state) is bound


def test_dropout_differs_by_device_and_step_and_repeats_exactly():
    task = Regression(norm=False, dropout_rate=0.5)
    step = parallel.compile_train_step(task, optax.sgd(0.0))
    same = {name: np.repeat(column[:1], EXAMPLES, 0) for name, column in make_batch().items()}

    def losses(steps, seed=0):
        state, _ = start(task, optax.sgd(0.0))
        sums = []
        for _ in range(steps):
            state, new = step(state, parallel.split(same), prng.root(seed))
            sums.append(float(new["loss"]))
        return sums

    first = losses(3)
    assert first == losses(3)
    assert len(set(first)) == 3
    assert first != losses(3, seed=1)
    keys = jax.pmap(lambda _: prng.step_keys(prng.root(0), jnp.int32(0), "d"), "d")(jnp.zeros(4))
    dropout = {bytes(np.asarray(jax.random.key_data(k))) for k in keys["dropout"]}
    assert len(dropout) == 4
    for shared in ("augment", "mix"):
        assert len({bytes(np.asarray(jax.random.key_data(k))) for k in keys[shared]}) == 1


def test_look_ahead_sets_training_back_to_its_average():
    """Against plain NumPy: four gradient steps between, the average's weight grows as a cube."""
    task, average = Regression(), Lookahead(2, growing(4, decay=0.8, power=3.0))
    state, optimizer = start(task, ema=True)
    free = state
    slow = jax.tree.map(np.asarray, (state.params, state.model_state))
    for step in range(1, 5):
        settings = {"task": task, "optimizer": optimizer}
        batch = make_batch(step)
        free, _ = train_step(state, batch, prng.root(0), **settings)
        state, _ = train_step(state, batch, prng.root(0), **settings, average=average)
        fast = jax.tree.map(np.asarray, (free.params, free.model_state))
        if step % 2 == 0:
            weight = 0.8 * (step / 4) ** 3
            slow = jax.tree.map(lambda a, b, w=weight: w * a + (1 - w) * b, slow, fast)
            fast = slow
        assert_close((state.params, state.model_state), fast, rtol=1e-5, atol=1e-7)
        assert_close(state.ema, slow, rtol=1e-5, atol=1e-7)
    assert not np.array_equal(jax.tree.leaves(free.params)[0], jax.tree.leaves(state.params)[0])


def test_the_moving_average_follows_its_definition():
    task = Regression()
    state, optimizer = start(task, ema=True)
    params, statistics = jax.tree.map(np.asarray, (state.params, state.model_state))
    for seed in range(2):
        state, _ = train_step(
            state,
            make_batch(seed),
            prng.root(0),
            task=task,
            optimizer=optimizer,
            average=MovingAverage(0.9),
        )
        params, statistics = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * np.asarray(new),
            (params, statistics),
            (state.params, state.model_state),
        )
    assert_close(state.ema, (params, statistics), rtol=1e-5, atol=1e-7)
    sums, rows, predictions = evaluation_step(state, make_batch(), task=task)
    assert rows == {}
    np.testing.assert_allclose(
        predictions, task.predict(params, statistics, make_batch()), rtol=1e-4, atol=1e-6
    )
    assert int(sums["examples"]) == EXAMPLES


def test_evaluation_over_devices_equals_a_loop_and_keeps_the_order():
    task = Regression()
    state, _ = start(task)
    batch = make_batch(valid=np.arange(EXAMPLES) < 11)
    sums, _, predictions = parallel.compile_evaluation_step(task)(state, parallel.split(batch))
    merged = parallel.merge(predictions)
    one_by_one = [
        np.asarray(task.predict(state.params, state.model_state, {"x": batch["x"][i : i + 1]}))[0]
        for i in range(EXAMPLES)
    ]
    np.testing.assert_allclose(merged, one_by_one, rtol=1e-5, atol=1e-6)
    correct = sum(int(np.argmax(one_by_one[i]) == batch["label"][i]) for i in range(11))
    assert int(sums["correct"]) == correct
    assert int(sums["examples"]) == 11


def test_batch_sizes_that_devices_do_not_divide_are_refused():
    from cnn_jax.errors import UserError

    parallel.check_batch_size(16)
    parallel.check_batch_size(16, accumulate=2)
    with pytest.raises(UserError, match=r"--batch-size 10: not divisible by 4 devices; 8 would"):
        parallel.check_batch_size(10)
    with pytest.raises(UserError, match="4 devices x 3 parts; 12 would"):
        parallel.check_batch_size(16, accumulate=3)
