"""Runs that were never trained: a folder with a config and a state of drawn values."""

import jax
import numpy as np
import optax

from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints
from experiments import options as flags
from experiments import states
from experiments.predict import PREDICTORS, verb_of


def write_run(out, module, values, recorded, files=None):
    """Write a run of a command.

    Args:
        out: its folder.
        module: the command's.
        values: of its flags.
        recorded: what `config.json` holds besides.
        files: further texts by file name.
    """
    options = flags.replace(module.Options(), {**values, "out": str(out)})
    with RunLog(out, total_steps=0) as log:
        log.write_config(flags.described(options, recorded))
    for name, text in (files or {}).items():
        (out / name).write_text(text)
    rng = np.random.default_rng(0)
    shapes = states.state_shapes(predictor_of(out).task, optax.identity())
    state = jax.tree_util.tree_map_with_path(lambda path, x: _drawn(rng, path, x), shapes)
    checkpoints.save(out / states.CHECKPOINTS, 5, state.replace(step=np.int32(5)), keep=1)
    return out


def predictor_of(run):
    """The part of a run's task in its predictions."""
    return PREDICTORS[verb_of(run)](run, flags.PredictOptions(run=str(run)))


def _drawn(rng, path, x):
    """Values that keep a layer's outputs about as large as its inputs."""
    if any(name in jax.tree_util.keystr(path[-1:]) for name in ("var", "scale")):
        return np.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
    return np.asarray(rng.normal(0, 1 / np.sqrt(max(1, np.prod(x.shape[:-1]))), x.shape), x.dtype)
