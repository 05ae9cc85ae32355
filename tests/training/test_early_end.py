"""A run whose figures are given in advance keeps the best state and ends, wherever it fails."""

import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

from cnn_jax.errors import UserError
from cnn_jax.metrics.summary import Summary
from cnn_jax.runs.log import RunLog
from cnn_jax.training import best as best_module
from cnn_jax.training import checkpoints, loop, prng
from cnn_jax.training.best import Best
from cnn_jax.training.state import create
from tests.checks import assert_same_bits
from tests.commands import leaves, rows
from tests.training.test_loop import ROWS, Batches, HeldOut

# By step: the best is that of step 4, and two others follow before a better one.
FIGURES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.9, 12: 0.1}


class Counting:
    """Its one parameter counts the steps, and its figure is that of `FIGURES` for the count."""

    def init(self, key):
        return {"count": jnp.zeros(())}, {}

    def loss(self, params, model_state, batch, keys, axis_name=None):
        examples = jnp.sum(batch["valid"])
        total = -params["count"] * examples.astype(jnp.float32)
        return total, (model_state, {"loss": total, "examples": examples})

    def predict(self, params, model_state, batch):
        return jnp.broadcast_to(params["count"], batch["label"].shape)

    def measure(self, predictions, batch):
        counts = jnp.sum(predictions, where=batch["valid"])
        return {"count": counts, "examples": jnp.sum(batch["valid"])}, {}

    def summarize(self, sums, rows=None):
        examples = float(sums["examples"])
        if "count" not in sums:
            return Summary({"loss": float(sums["loss"]) / examples})
        return Summary({"top1": FIGURES[round(float(sums["count"]) / examples)]})


def run(folder, *, resume=False, patience=2, total=12):
    task, optimizer = Counting(), optax.sgd(1.0)
    # Evaluations between checkpoints, and the other way round.
    plan = loop.Plan(total, ROWS, report_every=2, evaluate_every=2, checkpoint_every=3)
    state, earlier = create(*task.init(jax.random.key(1)), optimizer), {}
    if resume and checkpoints.steps(folder / "checkpoints"):
        state, _ = checkpoints.restore(folder / "checkpoints", state)
    step = int(state.step)
    with RunLog(folder, total_steps=total, resumed_step=step if resume else None) as log:
        if step:
            earlier = {row["step"]: row["top1"] for row in rows(folder) if row["split"] == "eval"}
        best = Best("top1", folder / "best", patience, earlier)
        training = loop.Training(task, optimizer, Batches(), HeldOut(), plan)
        outputs = loop.Outputs(log, folder / "checkpoints", best=best)
        return loop.train(state, training, outputs, prng.root(0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    state, ended = run(out)
    assert ended and int(state.step) == 8
    return out


def test_it_ends_when_the_patience_does_and_keeps_the_best(whole):
    assert [row["step"] for row in rows(whole) if row["split"] == "eval"] == [2, 4, 6, 8]
    assert checkpoints.steps(whole / "best") == (4,)
    assert leaves(whole, "best")["params"]["count"] == 4
    assert checkpoints.latest_step(whole / "checkpoints") == 8


def test_a_run_that_has_ended_ends_again_and_with_more_patience_goes_on(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    state, ended = run(out, resume=True)
    assert ended and int(state.step) == 8
    assert rows(out) == rows(whole)
    state, ended = run(out, resume=True, patience=3)
    assert ended and int(state.step) == 12
    assert checkpoints.steps(out / "best") == (10,)


@pytest.mark.parametrize("step", [4, 6, 8])
@pytest.mark.parametrize("place", ["best", "row", "result", "checkpoint"])
@pytest.mark.parametrize("after", [False, True])
def test_it_ends_alike_wherever_it_was_stopped(whole, tmp_path, monkeypatch, step, place, after):
    """Before or after what an evaluation leaves is written, one thing after the other."""
    owner, name, where = {
        "best": (best_module.checkpoints, "save", 1),
        "row": (RunLog, "report", 1),
        "result": (RunLog, "write_result", 1),
        "checkpoint": (loop.checkpoints, "write", 1),
    }[place]
    do = getattr(owner, name)

    def failing(*arguments, **settings):
        meant = arguments[where] == step and (place != "row" or arguments[2] == "eval")
        if meant and not after:
            raise UserError("the disk is full")
        do(*arguments, **settings)
        if meant:
            raise UserError("the disk is full")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        if place == "best" and step != 4:  # no better figure: nothing is saved there
            run(out)
        else:
            with pytest.raises(UserError, match="disk is full"):
                run(out)
    state, ended = run(out, resume=True)
    assert ended and int(state.step) == 8
    assert rows(out) == rows(whole)
    for folder in ("checkpoints", "best"):
        assert checkpoints.steps(out / folder) == checkpoints.steps(whole / folder)
        assert_same_bits(leaves(out, folder), leaves(whole, folder))
