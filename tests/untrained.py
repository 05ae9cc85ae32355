"""Runs without a training, with the network's values drawn at random."""

import json

import jax
import numpy as np
import optax

from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints
from experiments import options as flags
from experiments import states
from experiments.predict import PREDICTORS


def write_run(module, values, recorded, out, files=None):
    """Write a run of a verb's module with these flags, and what else its `config.json` records."""
    options = flags.replace(module.Options(), {**values, "out": str(out)})
    with RunLog(out, total_steps=0) as log:
        log.write_config(flags.described(options, recorded))
    for name, text in (files or {}).items():
        (out / name).write_text(text)
    task = predictor_of(out).task
    rng = np.random.default_rng(0)
    shapes = states.state_shapes(task, optax.identity())
    state = jax.tree_util.tree_map_with_path(lambda path, x: drawn(rng, path, x), shapes)
    checkpoints.save(out / states.CHECKPOINTS, 5, state.replace(step=np.int32(5)), keep=1)
    return out


def predictor_of(run):
    verb = json.loads((run / "config.json").read_text())["verb"]
    return PREDICTORS[verb](run, flags.PredictOptions(run=str(run)))


def drawn(rng, path, x):
    """Values that keep a layer's outputs about as large as its inputs."""
    if any(name in jax.tree_util.keystr(path[-1:]) for name in ("var", "scale")):
        return np.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
    return np.asarray(rng.normal(0, 1 / np.sqrt(max(1, np.prod(x.shape[:-1]))), x.shape), x.dtype)
