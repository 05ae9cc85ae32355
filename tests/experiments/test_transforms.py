"""The steps of every task are the same program under `pmap` and under its twin, `shard_map`."""

import importlib
import re

import jax
import optax
import pytest

from cnn_jax.training import parallel, prng
from cnn_jax.training.averaging import MovingAverage
from cnn_jax.training.state import create
from experiments import options as flags
from experiments import presets
from tests.faults import kills


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    kills.write_data(folder)
    return folder


def build(name, data, out):
    """The run of one of the campaign's commands, which are as small as each task allows."""
    recipes = {
        "classify": presets.CLASSIFICATION,
        "annotate": presets.ANNOTATION,
        "detect": presets.DETECTION,
        "segment": presets.SEGMENTATION,
        "translate": presets.TRANSLATION,
    }
    _, _, module, *arguments = kills.targets()[name]
    arguments = [word.format(data=data, out=out) for word in arguments]
    verb = module.rpartition(".")[2]
    module = importlib.import_module(module)
    variant = "system" if verb == "detect" else None
    options = flags.parse(module.Options, [*arguments, "--out", str(out)], recipes[verb], variant)
    return module.build(options)


def programs(run, transform):
    """The compiled functions of a run's tasks, with their arguments."""
    key, optimizer, found = prng.root(0), optax.adam(1e-3), {}
    task = run.trained or run.task
    state = create(*task.init(prng.stream(key, "init")), optimizer, ema=True)
    _, batch = next(parallel.prefetch(run.training_set()[0].iterate(0)))
    step = parallel.compile_train_step(
        task, optimizer, average=MovingAverage(0.9), transform=transform
    )
    found["step"] = step, (state, batch, key)
    if jax.tree.leaves(state.model_state):
        statistics = parallel.compile_batch_statistics(task, transform=transform)
        found["statistics"] = statistics, (state, batch, key)
    evaluated = create(*run.task.init(prng.stream(key, "init")), optax.identity())
    _, batch = next(parallel.prefetch(run.evaluation_set.iterate()))
    evaluation = parallel.compile_evaluation_step(run.task, transform=transform)
    found["evaluation"] = evaluation, (evaluated, batch)
    return found


def lowered(function, arguments):
    """The program before XLA compiles it, without its name."""
    return re.sub(r"module @\w+", "module", function.lower(*arguments).as_text(), count=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", kills.COMMANDS)
def test_the_programs_of_every_task_are_the_same(name, data, tmp_path):
    run = build(name, data, tmp_path / "run")
    pmapped, sharded = (programs(run, transform) for transform in ("pmap", "shard"))
    assert pmapped.keys() >= {"step", "evaluation"}
    for step, (function, arguments) in pmapped.items():
        text = lowered(function, arguments)
        assert "all_reduce" in text, step
        assert text == lowered(*sharded[step]), step
