"""Exported programs give what `predict` computes, for any number of examples."""

import json

import jax
import numpy as np
import optax
import pytest

from cnn_jax.errors import UserError
from cnn_jax.runs.log import RunLog
from cnn_jax.training import checkpoints
from experiments import annotate, classify, detect, export, segment, states, translate
from experiments import options as flags
from experiments.predict import PREDICTORS

pytest.importorskip("flatbuffers")

NAMES = ("circle", "square", "star")
SMALL = {"model": "resnet20", "width": 0.25, "image_size": 16}
CASES = {
    "classify": (classify, SMALL | {"resize": 18}, {}),
    "annotate": (annotate, SMALL | {"resize": 18}, {}),
    "segment": (
        segment,
        {"model": "resnet20", "width": 0.25, "image_shape": (16, 24)},
        {"evaluated_size": [16, 24]},
    ),
    "detect": (
        detect,
        SMALL | {"image_size": 32, "score_threshold": 0.0, "boxes": "free", "grid": 8},
        {},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def run(request, tmp_path_factory):
    """An untrained run of each verb, with the network's values drawn at random."""
    module, values, recorded = CASES[request.param]
    out = tmp_path_factory.mktemp("runs") / request.param
    options = flags.replace(module.Options(), {**values, "out": str(out)})
    with RunLog(out, total_steps=0) as log:
        log.write_config(flags.described(options, {"class_names": NAMES, **recorded}))
    task = PREDICTORS[request.param](out, flags.PredictOptions(run=str(out))).task
    shapes = states.state_shapes(task, optax.identity())
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: np.asarray(rng.uniform(0.05, 0.5, x.shape), x.dtype), shapes
    ).replace(step=np.int32(5))
    checkpoints.save(out / states.CHECKPOINTS, 5, state, keep=1)
    return out


@pytest.fixture(scope="module")
def program(run):
    """The exported program, as another process would read it, and its description."""
    export.main([str(run), "--platforms", "cpu", "cuda", "tpu"])
    content = (run / "exported" / "model.stablehlo").read_bytes()
    description = json.loads((run / "exported" / "model.json").read_text())
    return jax.export.deserialize(bytearray(content)), description


def examples(description, count):
    rng = np.random.default_rng(count)
    made = {}
    for name, one in description["inputs"].items():
        shape, dtype = (count, *one["shape"][1:]), np.dtype(one["dtype"])
        made[name] = rng.integers(1, 255, shape).astype(dtype)
    return made


@pytest.mark.parametrize("count", [1, 7])
def test_outputs_equal_those_of_predict(run, program, count):
    called, description = program
    batch = examples(description, count)
    outputs = called.call(batch)
    verb = description["verb"]
    predictor = PREDICTORS[verb](run, flags.PredictOptions(run=str(run)))
    state, _ = states.restored(predictor.task, run / states.CHECKPOINTS)

    @jax.jit
    def predicted(batch):
        selected = predictor.select(predictor.task.predict(state.params, state.model_state, batch))
        return export._ANSWERS[verb](predictor, selected)

    expected = predicted(batch)
    assert outputs.keys() == description["outputs"].keys() == expected.keys()
    for name, x in expected.items():
        assert outputs[name].dtype == x.dtype
        np.testing.assert_allclose(outputs[name], x, rtol=1e-5, atol=1e-5, err_msg=name)
    assert description["step"] == 5
    assert description["class_names"] == list(NAMES)


def test_the_program_is_for_all_platforms(program):
    called, description = program
    assert called.platforms == tuple(description["platforms"]) == ("cpu", "cuda", "tpu")
    assert description["inputs"]["image"]["shape"][0] == "batch"
    boxed = description["verb"] == "detect"
    assert set(description["inputs"]) == ({"image", "size"} if boxed else {"image"})


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="give a run's folder"):
        export.main([])
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        export.main([str(tmp_path)])


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (detect, {"system": "fast_rcnn"}, "a run of fast_rcnn, which is not exported; yolo is"),
        (translate, {}, "verb 'translate' is none of annotate, classify, detect, segment"),
    ],
)
def test_other_runs_are_refused(tmp_path, module, values, message):
    with RunLog(tmp_path, total_steps=0) as log:
        options = flags.replace(module.Options(), values)
        log.write_config(flags.described(options, {"class_names": NAMES}))
    with pytest.raises(UserError, match=message):
        export.main([str(tmp_path)])
    assert not (tmp_path / "exported").exists()
