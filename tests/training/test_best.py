"""The state with the best evaluation is kept, and a run without a better one ends."""

import json
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.errors import UserError
from cnn_jax.training import checkpoints
from cnn_jax.training.best import Best
from cnn_jax.training.state import create


def state(step):
    return create({"w": jnp.full(3, float(step))}, {}, optax.sgd(1.0))


@pytest.mark.parametrize(
    ("metric", "figures", "kept"),
    [
        ("bleu", (0.5, 0.4, math.nan, 0.5, 0.6), (1, 1, 1, 1, 5)),
        ("loss", (0.5, 0.6, math.inf, 0.5, 0.4), (1, 1, 1, 1, 5)),
        ("top1", (math.nan, 0.0, 0.0), (None, 2, 2)),
    ],
)
def test_only_a_better_figure_replaces_the_state(tmp_path, metric, figures, kept):
    best = Best(metric, tmp_path / "best")
    for step, (figure, expected) in enumerate(zip(figures, kept, strict=True), start=1):
        best.offer(step, state(step), {metric: figure})
        assert best.step == expected
        assert checkpoints.steps(best.directory) == ((expected,) if expected else ())
        assert not best.exhausted
    result, _ = checkpoints.restore(best.directory, state(0))
    assert result.params["w"].tolist() == [float(kept[-1])] * 3


def test_patience_counts_evaluations_without_a_better_figure(tmp_path):
    best = Best("loss", tmp_path / "best", patience=2)
    counts = []
    for step, loss in ((10, 2.0), (20, 3.0), (30, 1.0), (40, 1.0), (50, math.nan)):
        best.offer(step, state(step), {"loss": loss})
        counts.append((best.without_improvement, best.exhausted))
    assert counts == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    assert str(best) == "best loss 1 at step 30"
    never = Best("loss", tmp_path / "none", patience=1, values={10: None})
    assert never.exhausted and str(never) == "no finite loss"


def test_a_resumed_run_decides_by_the_figures_of_its_rows(tmp_path):
    best = Best("bleu", tmp_path / "best", 3)
    for step, bleu in ((1, 0.5), (2, 0.6), (3, 0.4)):
        best.offer(step, state(step), {"bleu": float(np.float32(bleu))})
    # Killed between the row and the result, it evaluates the last step again.
    rows = json.loads(json.dumps([[step, value] for step, value in best.values.items()]))
    again = Best("bleu", tmp_path / "best", 3, dict(rows))
    assert again.values == best.values
    again.offer(3, state(3), {"bleu": float(np.float32(0.4))})
    assert (again.without_improvement, again.step) == (1, 2)
    again.offer(4, state(4), {"bleu": float(np.float32(0.6))})
    assert again.step == 2 and checkpoints.steps(again.directory) == (2,)
    again.offer(5, state(5), {"bleu": 0.55})
    assert again.exhausted


def test_a_figure_that_is_not_measured_is_named(tmp_path):
    with pytest.raises(UserError, match="--best top5: not measured here; there are loss, top1"):
        Best("top5", tmp_path).offer(1, state(1), {"loss": 1.0, "top1": 0.5})
