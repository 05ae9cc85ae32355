"""The state with the best evaluation is kept, and no other."""

import math

import jax.numpy as jnp
import optax

from cnn_jax.training import checkpoints, loop
from cnn_jax.training.state import create


def test_only_a_better_figure_replaces_the_state(tmp_path):
    best = loop.Best("bleu", tmp_path / "best")
    for step, bleu, kept in ((1, 0.5, 1), (2, 0.4, 1), (3, math.nan, 1), (4, 0.5, 1), (5, 0.6, 5)):
        state = create({"w": jnp.full(3, float(step))}, {}, optax.sgd(1.0))
        best.offer(step, state, {"bleu": bleu})
        assert checkpoints.steps(best.directory) == (kept,)
    like = create({"w": jnp.zeros(3)}, {}, optax.sgd(1.0))
    result, _ = checkpoints.restore(best.directory, like)
    assert result.params["w"].tolist() == [5.0] * 3
    # A resumed run knows what had been reached.
    again = loop.Best("bleu", tmp_path / "best", 0.6)
    again.offer(7, like, {"bleu": 0.55})
    assert checkpoints.steps(best.directory) == (5,)
