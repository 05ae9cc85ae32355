"""Whole runs of a task so small that they take seconds: interrupted, resumed, gone wrong."""

import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.errors import DivergenceError, UserError
from cnn_jax.metrics.summary import Summary
from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints, loop, parallel, prng
from cnn_jax.training.evaluation import _in_set_order, evaluate
from cnn_jax.training.state import create
from tests.checks import assert_same_bits
from tests.commands import rows

FEATURES, CLASSES, ROWS, STEPS = 5, 3, 8, 8


class Linear:
    """Softmax regression with dropout on its inputs, so that keys matter too."""

    def __init__(self):
        self.traces = 0

    def init(self, key):
        return {"kernel": 0.1 * jax.random.normal(key, (FEATURES, CLASSES))}, {}

    def loss(self, params, model_state, batch, keys, axis_name=None):
        self.traces += 1
        kept = jax.random.bernoulli(keys["dropout"], 0.8, batch["x"].shape)
        logits = jnp.where(kept, batch["x"], 0.0) @ params["kernel"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        total = jnp.sum(losses, where=batch["valid"])
        return total, (model_state, {"loss": total, "examples": jnp.sum(batch["valid"])})

    def predict(self, params, model_state, batch):
        return batch["x"] @ params["kernel"]

    def measure(self, predictions, batch):
        self.traces += 1
        correct = (jnp.argmax(predictions, -1) == batch["label"]) & batch["valid"]
        return {"correct": jnp.sum(correct), "examples": jnp.sum(batch["valid"])}, {}

    def summarize(self, sums, rows=None):
        names = [name for name in ("loss", "correct") if name in sums]
        return Summary({name: float(sums[name]) / float(sums["examples"]) for name in names})


def make_batch(step, rows=ROWS, valid=None):
    rng = np.random.default_rng(step)
    return {
        "x": rng.normal(size=(rows, FEATURES)).astype(np.float32),
        "label": rng.integers(0, CLASSES, rows).astype(np.int32),
        "valid": np.ones(rows, bool) if valid is None else valid,
    }


class Batches:
    """Batch k from seed k; `before[k]` happens first."""

    def __init__(self, before=None):
        self.before = before or {}

    def iterate(self, start_step):
        step = start_step
        while True:
            if step in self.before:
                yield self.before[step]() or make_batch(step)
            else:
                yield make_batch(step)
            step += 1


class HeldOut:
    """19 examples in batches of eight: the last one has five rows of padding."""

    def iterate(self):
        for number in range(3):
            yield make_batch(1000 + number, valid=np.arange(ROWS) + 8 * number < 19)


def run(
    folder,
    batches,
    *,
    resume=False,
    task=None,
    report=None,
    held_out=None,
    on_device=False,
    profile=None,
    **plan,
):
    task, optimizer = task or Linear(), optax.adam(0.05)
    plan = loop.Plan(
        **{"total_steps": STEPS, "batch_size": ROWS, "report_every": 2, "evaluate_every": 4}
        | {"checkpoint_every": 2}
        | plan
    )
    state = create(*task.init(jax.random.key(1)), optimizer)
    if resume:
        state, _ = checkpoints.restore(folder / "checkpoints", state)
    with RunLog(
        folder, total_steps=plan.total_steps, resumed_step=int(state.step) if resume else None
    ) as log:
        training = loop.Training(
            task, optimizer, batches, held_out or HeldOut(), plan, on_device=on_device
        )
        outputs = loop.Outputs(log, folder / "checkpoints", report, profile=profile)
        state, ended = loop.train(state, training, outputs, prng.root(0))
        assert ended == (int(state.step) == STEPS)
        return state


def fail():
    raise UserError("photo.jpg: truncated")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_repeats_to_the_last_bit(tmp_path):
    first, second = (run(tmp_path / name, Batches()) for name in "ab")
    assert_same_bits(first, second)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_unreadable_data_ends_the_run_without_losing_a_step(tmp_path):
    whole = run(tmp_path / "whole", Batches())
    broken = tmp_path / "broken"
    # Batches are asked for two ahead: batch 7 fails while step 5 is under way.
    with pytest.raises(UserError, match=r"photo\.jpg: truncated"):
        run(broken, Batches({7: fail}))
    assert checkpoints.latest_step(broken / "checkpoints") == 5
    resumed = run(broken, Batches(), resume=True)
    assert_same_bits(resumed, whole)
    # Step 5 is no step of reports: the sums of its interval are kept with the state.
    assert rows(broken) == rows(tmp_path / "whole")
    assert checkpoints.steps(broken / "checkpoints") == (4, 6, 8)


class Failing:
    """A report that fails once, at a step's evaluation."""

    def __init__(self, step, error=None, action=None):
        self.step, self.error, self.action = step, error, action

    def select(self, batch, predictions):
        pass

    def write(self, step, evaluation):
        if step == self.step:
            if self.action is not None:
                self.action()
            if self.error is not None:
                raise self.error


@pytest.mark.parametrize("checkpoint_every", [2, 0])
@pytest.mark.parametrize("error", [UserError("page: the disk is full"), ZeroDivisionError()])
def test_what_fails_after_a_step_costs_no_step(tmp_path, checkpoint_every, error):
    every = {"checkpoint_every": checkpoint_every}
    whole = run(tmp_path / "whole", Batches(), **every)
    broken = tmp_path / "broken"
    with pytest.raises(type(error)):
        run(broken, Batches(), report=Failing(4, error), **every)
    assert checkpoints.latest_step(broken / "checkpoints") == 4
    assert_same_bits(run(broken, Batches(), resume=True, **every), whole)
    assert rows(broken) == rows(tmp_path / "whole")
    result = json.loads((broken / "result.json").read_text())
    assert result["correct"] == rows(tmp_path / "whole")[-1]["correct"]
    kept = checkpoints.steps(tmp_path / "whole" / "checkpoints")
    assert checkpoints.steps(broken / "checkpoints") == kept


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("half", [False, True])
def test_a_row_that_could_not_be_written_is_written_by_the_resumed_run(
    tmp_path, monkeypatch, split, half
):
    run(tmp_path / "whole", Batches(), checkpoint_every=0)
    report = RunLog.report

    def full(log, step, kind, metrics):
        if (step, kind) == (4, split):
            with (log.directory / "metrics.jsonl").open("a") as file:
                file.write('{"step": 4, "spl' if half else "")
            raise UserError("metrics.jsonl: the disk is full")
        report(log, step, kind, metrics)

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk is full"):
        patch.setattr(RunLog, "report", full)
        run(broken, Batches(), checkpoint_every=0)
    assert checkpoints.steps(broken / "checkpoints") == (4,)
    run(broken, Batches(), resume=True, checkpoint_every=0)
    assert rows(broken) == rows(tmp_path / "whole")


def test_a_failed_save_after_a_failure_does_not_hide_it(tmp_path):
    def full_disk():
        (tmp_path / "checkpoints").rmdir()
        (tmp_path / "checkpoints").write_text("in the way")

    (tmp_path / "checkpoints").mkdir()
    failing = Failing(4, UserError("page: the disk is full"), full_disk)
    with pytest.raises(UserError, match="page: the disk is full"):
        run(tmp_path, Batches(), report=failing, checkpoint_every=0)


@pytest.mark.parametrize("moment", ["before", "during"])
def test_an_evaluation_that_a_stop_prevents_or_ends_is_made_up_for(tmp_path, moment):
    """SIGTERM while step 4 is under way, and between the batches of its evaluation."""
    whole = run(tmp_path / "whole", Batches())
    stopped = tmp_path / "stopped"

    class Stopping(HeldOut):
        count = 0

        def iterate(self):
            for batch in super().iterate():
                yield batch
                Stopping.count += 1
                if moment == "during" and Stopping.count == 1:
                    terminate()

    batches = Batches({5: terminate} if moment == "before" else {})
    half = run(stopped, batches, held_out=Stopping(), checkpoint_every=3)
    assert int(half.step) == 4
    assert [row["step"] for row in rows(stopped) if row["split"] == "eval"] == []
    assert_same_bits(run(stopped, Batches(), resume=True), whole)
    assert rows(stopped) == rows(tmp_path / "whole")


def test_a_plan_is_refused_before_the_first_step():
    for name, value in (("keep", 0), ("keep", -1), ("checkpoint_every", -1), ("report_every", -2)):
        with pytest.raises(UserError, match=rf"{name} {value}: must be [01] or more"):
            loop.Plan(total_steps=4, batch_size=2, **{name: value})


def test_sigterm_saves_and_ends_and_a_resumed_run_equals_an_uninterrupted_one(tmp_path, capsys):
    whole = run(tmp_path / "whole", Batches())
    stopped = tmp_path / "stopped"
    handler = signal.getsignal(signal.SIGTERM)
    half = run(stopped, Batches({5: terminate}))
    assert 0 < int(half.step) < STEPS
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoints.latest_step(stopped / "checkpoints") == int(half.step)
    assert "--resume continues" in capsys.readouterr().err
    assert_same_bits(run(stopped, Batches(), resume=True), whole)
    assert rows(stopped) == rows(tmp_path / "whole")
    kept = checkpoints.steps(tmp_path / "whole" / "checkpoints")
    assert checkpoints.steps(stopped / "checkpoints") == kept


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned():
        return {**make_batch(4), "x": np.full((ROWS, FEATURES), np.nan, np.float32)}

    with pytest.raises(DivergenceError, match="not finite by step 6"):
        run(tmp_path, Batches({4: poisoned}))
    # Step 4 was saved before its batch; steps 5 and 6 never.
    assert checkpoints.latest_step(tmp_path / "checkpoints") == 4


def test_an_evaluation_counts_every_example_once(tmp_path):
    seen = []

    class Report:
        def select(self, batch, predictions):
            assert len(predictions) == len(batch["valid"])

        def write(self, step, evaluation):
            seen.append((step, evaluation))

    state = run(tmp_path, Batches(), report=Report())
    assert [step for step, _ in seen] == [4, 8]
    kernel = np.asarray(state.params["kernel"])
    correct = total = 0
    for batch in HeldOut().iterate():
        for x, label, valid in zip(batch["x"], batch["label"], batch["valid"], strict=True):
            total += bool(valid)
            correct += bool(valid) and int(np.argmax(x @ kernel)) == label
    assert total == 19
    assert int(seen[-1][1].sums["examples"]) == 19
    assert seen[-1][1].metrics["correct"] == pytest.approx(correct / 19)


def test_watchers_see_every_example_in_order_with_its_prediction():
    task, seen = Linear(), []
    state = create(*task.init(jax.random.key(1)), optax.sgd(0.1))
    evaluate(
        task,
        parallel.compile_evaluation_step(task),
        parallel.replicate(state),
        HeldOut(),
        watch=lambda batch, predictions: seen.append((batch, predictions)),
    )
    for batch, predictions in seen:
        expected = batch["x"] @ np.asarray(state.params["kernel"])
        np.testing.assert_allclose(predictions, expected, rtol=1e-5, atol=1e-6)
    assert len(seen) == 3


class Collecting(Linear):
    """Gives every example's number and inputs as a row, and all of them as details."""

    def measure(self, predictions, batch):
        sums, _ = super().measure(predictions, batch)
        return sums, {"x": batch["x"], "pair": {"logits": predictions, "label": batch["label"]}}

    def summarize(self, sums, rows=None):
        return Summary(super().summarize(sums).metrics, rows)


class Shuffled:
    """The examples of `HeldOut`, numbered, in batches of another order and size."""

    def __init__(self, order, size):
        parts = list(HeldOut().iterate())
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.examples = {name: column[whole["valid"]] for name, column in whole.items()}
        self.order, self.size = order, size

    def iterate(self):
        for first in range(0, len(self.order), self.size):
            rows = self.order[first : first + self.size]
            filled = np.concatenate([rows, np.zeros(self.size - len(rows), int)])
            batch = {name: column[filled] for name, column in self.examples.items()}
            valid = np.arange(self.size) < len(rows)
            yield batch | {"valid": valid, "index": filled.astype(np.int32)}


@pytest.mark.parametrize("size", [4, 8])
def test_rows_come_whole_and_in_the_order_of_the_set(size):
    task = Collecting()
    state = create(*task.init(jax.random.key(1)), optax.sgd(0.1))
    batches = Shuffled(np.random.default_rng(0).permutation(19), size)
    evaluation = evaluate(
        task, parallel.compile_evaluation_step(task), parallel.replicate(state), batches
    )
    rows = evaluation.details
    np.testing.assert_array_equal(rows["x"], batches.examples["x"])
    np.testing.assert_array_equal(rows["pair"]["label"], batches.examples["label"])
    expected = batches.examples["x"] @ np.asarray(state.params["kernel"])
    np.testing.assert_allclose(rows["pair"]["logits"], expected, rtol=1e-5, atol=1e-6)
    assert evaluation.sums["examples"] == 19
    assert task.traces == 1


def test_a_device_that_waits_for_data_is_reported(tmp_path):
    slow = {step: lambda: time.sleep(0.05) for step in range(STEPS + 2)}
    run(tmp_path / "slow", Batches(slow))
    lines = (tmp_path / "slow" / "metrics.jsonl").read_text().splitlines()
    waits = [row["time_data"] for row in map(json.loads, lines) if row["split"] == "train"]
    # Two steps, of which each waited for a batch that was begun a little earlier.
    assert waits[-1] > 0.05
    busy = [row["device_busy"] for row in map(json.loads, lines) if row["split"] == "train"]
    assert all(0 <= share <= 0.9 for share in busy)


class Slow(Failing):
    """Pictures that are not ready before training has gone on."""

    def __init__(self, step, error=None):
        super().__init__(step, error)
        self.reached = threading.Event()

    def write(self, step, evaluation):
        if step == self.step:
            assert self.reached.wait(30), "training waited for the pictures"
        super().write(step, evaluation)


def test_steps_go_on_while_an_evaluation_is_finished_and_rows_keep_their_order(tmp_path):
    whole = run(tmp_path / "whole", Batches(), checkpoint_every=4)
    slow = Slow(4)
    # Batch 8 is asked for when step 6 is done: after a row of training that has to wait.
    batches = Batches({8: slow.reached.set})
    assert_same_bits(run(tmp_path / "slow", batches, report=slow, checkpoint_every=4), whole)
    assert rows(tmp_path / "slow") == rows(tmp_path / "whole")


def test_pictures_that_fail_late_lead_back_to_their_evaluation(tmp_path):
    whole = run(tmp_path / "whole", Batches(), evaluate_every=2)
    broken = tmp_path / "broken"
    failing = Slow(4, UserError("page: the disk is full"))
    with pytest.raises(UserError, match="disk is full"):
        run(broken, Batches({7: failing.reached.set}), report=failing, evaluate_every=2)
    assert checkpoints.latest_step(broken / "checkpoints") == 4
    assert_same_bits(run(broken, Batches(), resume=True, evaluate_every=2), whole)
    assert rows(broken) == rows(tmp_path / "whole")


def test_nothing_is_compiled_twice(tmp_path):
    task = Linear()
    run(tmp_path, Batches(), task=task)
    assert task.traces == 2  # The training step once, the evaluation step once.


def test_an_empty_evaluation_set_is_refused(tmp_path):
    class Empty:
        def iterate(self):
            yield make_batch(0, valid=np.zeros(ROWS, bool))

    task = Linear()
    state = create(*task.init(jax.random.key(1)), optax.sgd(0.1))
    with pytest.raises(UserError, match="no example"):
        evaluate(task, parallel.compile_evaluation_step(task), state, Empty())


def test_rows_of_a_set_are_in_its_order_and_kept_once():
    x = np.random.default_rng(0).normal(size=(7, 3))
    parts = [np.array(part) for part in ([3, 1], [0, 6, 5], [2, 4])]
    batches = [{"index": part, "row": {"x": x[part], "even": part % 2 == 0}} for part in parts]
    rows = _in_set_order(batches)
    np.testing.assert_array_equal(rows["row"]["x"], x)
    np.testing.assert_array_equal(rows["row"]["even"], np.arange(7) % 2 == 0)
    assert not batches and _in_set_order([]) == {}


class Whole(Batches):
    """The same batches, with all examples at once."""

    keeps = True
    reading = ""

    def total_bytes(self):
        return sum(column.nbytes for column in self.everything().values())

    def everything(self):
        each = [make_batch(step) for step in range(STEPS)]
        return {name: np.concatenate([one[name] for one in each]) for name in ("x", "label")}

    def places(self, step):
        rows = np.arange(step * ROWS, (step + 1) * ROWS, dtype=np.int32)
        return {"row": rows, "valid": np.ones(ROWS, bool)}


@pytest.mark.optimized
@pytest.mark.parametrize("every", [0, 3])
def test_examples_on_the_device_give_the_same_bits_wherever_a_run_resumes(tmp_path, every):
    """Between reports at 2, 4, ... and checkpoints, one program makes any number of steps."""
    settings = {"checkpoint_every": every, "report_every": 5}
    whole = run(tmp_path / "whole", Batches(), **settings)
    task = Linear()
    device = run(tmp_path / "device", Whole(), on_device=True, task=task, **settings)
    assert_same_bits(device, whole)
    assert rows(tmp_path / "device") == rows(tmp_path / "whole")
    assert task.traces <= 3  # once for the shapes of its sums
    stopped = tmp_path / "stopped"
    run(stopped, Batches({4: terminate}), **settings)
    resumed = run(stopped, Whole(), on_device=True, resume=True, **settings)
    assert_same_bits(resumed, whole)
    assert rows(stopped) == rows(tmp_path / "whole")
