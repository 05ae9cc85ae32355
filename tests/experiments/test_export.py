"""Exported programs give what `predict` computes, for any number of examples."""

import json
import re
import sys

import jax
import numpy as np
import pytest

from cnn_jax.conventions import END, PAD, SPECIAL
from cnn_jax.data.text.vocabulary import Vocabulary
from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, export, segment, states, translate
from tests.drawn_runs import predictor_of, write_run

pytestmark = pytest.mark.usefixtures("shared_programs")

pytest.importorskip("flatbuffers")

NAMES = ("circle", "square", "star")
SMALL = {"model": "resnet20", "width": 0.25, "image_size": 16}
REGIONS = SMALL | {
    **{"image_size": 32, "score_threshold": 0.0, "max_detections": 10},
    **{"proposals": "grid", "grid_scales": (0.5,), "max_proposals": 12},
}
CASES = {
    "classify": (classify, SMALL | {"resize": 18}, {}),
    "annotate": (annotate, SMALL | {"resize": 18}, {}),
    "segment": (
        segment,
        {"model": "resnet20", "width": 0.25, "image_shape": (16, 24)},
        {"evaluated_size": [16, 24]},
    ),
    "yolo": (
        detect,
        SMALL | {"image_size": 32, "score_threshold": 0.0, "boxes": "free", "grid": 8},
        {},
    ),
    "fast_rcnn": (detect, REGIONS | {"system": "fast_rcnn"}, {}),
    "rcnn": (detect, REGIONS | {"system": "rcnn", "crop_size": 16}, {}),
    "translate": (
        translate,
        {"embedding_size": 8, "hidden_size": 8, "max_length": 6, "beam": 3},
        {},
    ),
}
INPUTS = {
    "yolo": {"image", "size"},
    "fast_rcnn": {"image", "size", "proposals", "proposal_valid"},
    "rcnn": {"image", "size", "proposals", "proposal_valid"},
    "translate": {"source"},
}


@pytest.fixture(scope="module", params=CASES)
def run(request, tmp_path_factory):
    """An untrained run of each kind, with the network's values drawn at random."""
    return written(request.param, tmp_path_factory.mktemp("runs"))


def written(case, folder):
    module, values, recorded = CASES[case]
    if module is not translate:
        return write_run(folder / case, module, values, {"class_names": NAMES, **recorded})
    words = Vocabulary.build(["the cat saw a dog", "a dog saw the sea"], "word").as_json()
    text = json.dumps({"source": words, "target": words})
    return write_run(folder / case, module, values, recorded, {translate.VOCABULARY_FILE: text})


@pytest.fixture(scope="module")
def program(run):
    """The exported program, as another process would read it, and its description."""
    export.main([str(run), "--platforms", "cpu", "cuda", "tpu"])
    return read(run)


def read(run):
    content = (run / "exported" / "model.stablehlo").read_bytes()
    description = json.loads((run / "exported" / "model.json").read_text())
    return jax.export.deserialize(bytearray(content)), description


def examples(description, count):
    """Inputs of the described shapes, as random as each may be."""
    rng = np.random.default_rng(count)

    def made(name, shape):
        match name:
            case "size":
                return rng.uniform(20, 90, shape)
            case "proposals":
                return np.sort(rng.uniform(0, 32, (*shape[:2], 2, 2)), axis=2).reshape(shape)
            case "proposal_valid":
                return np.arange(shape[1]) < rng.integers(1, shape[1] + 1, (count, 1))
            case "source":
                lengths = rng.integers(1, shape[1], (count, 1))
                places, words = np.arange(shape[1]), rng.integers(len(SPECIAL), 10, shape)
                return np.where(places < lengths, words, np.where(places == lengths, END, PAD))
        return rng.integers(0, 256, shape)

    return {
        name: made(name, (count, *one["shape"][1:])).astype(one["dtype"])
        for name, one in description["inputs"].items()
    }


@pytest.mark.parametrize("count", [1, 7])
def test_outputs_equal_those_of_predict(run, program, count):
    called, description = program
    batch = examples(description, count)
    outputs = called.call(batch)
    predictor = predictor_of(run)
    state, _ = states.restored(predictor.task, run / states.CHECKPOINTS)
    predicted = jax.jit(predictor.task.predict)(state.params, state.model_state, batch)
    expected = predictor.outputs(predictor.select(predicted))
    assert outputs.keys() == description["outputs"].keys() == expected.keys()
    for name, x in expected.items():
        assert outputs[name].dtype == x.dtype
        if count > 1 and (name == "words" or np.issubdtype(x.dtype, np.floating)):
            assert np.any(x != x[:1]), f"{name}: the same for all examples"
        # A box's side is small beside the image that it lies in.
        largest = max(1, np.abs(x).max())
        np.testing.assert_allclose(outputs[name], x, rtol=1e-5, atol=1e-5 * largest, err_msg=name)
    assert description["step"] == 5


def test_the_program_is_for_all_platforms(run, program):
    called, description = program
    assert called.platforms == tuple(description["platforms"]) == ("cpu", "cuda", "tpu")
    inputs = description["inputs"]
    assert all(one["shape"][0] == "batch" for one in inputs.values())
    assert set(inputs) == INPUTS.get(run.name, {"image"})


SAID = {
    "classify": "shorter side resized to 18 pixels.* squares of 16 pixels cut out: the one",
    "annotate": "shorter side resized to 18 pixels.* squares of 16 pixels cut out: the one",
    "segment": "whole image squashed to 16 x 24 pixels",
    "yolo": "whole squashed to 32 x 32 pixels.* size: height and width",
    "fast_rcnn": "32 x 32.* the first 12 of grid.*; proposal_valid:",
    "rcnn": "32 x 32.* the first 12 of grid.*; proposal_valid:",
    "translate": "vocabulary `source`, then 3, filled up with 0",
}


def test_the_description_says_how_inputs_are_made_and_what_outputs_mean(run, program):
    _, description = program
    assert re.search(SAID[run.name], description["preparation"])
    if run.name == "translate":
        vocabularies = [Vocabulary.from_json(description[side]) for side in ("source", "target")]
        stored = translate.read_vocabularies(run)
        assert [v.tokens for v in vocabularies] == [v.tokens for v in stored]
    else:
        assert description["class_names"] == list(NAMES)
    boxed = description["verb"] == "detect"
    assert description.get("score_threshold") == (0.0 if boxed else None)


def test_a_given_score_is_the_least_of_an_object(tmp_path):
    given = ["--platforms", "cpu", "--score-threshold", "0.25"]
    export.main([str(written("yolo", tmp_path)), *given])
    description = json.loads((tmp_path / "yolo/exported/model.json").read_text())
    assert description["score_threshold"] == 0.25
    with pytest.raises(UserError, match="--score-threshold: only used with a run of detect"):
        export.main([str(written("classify", tmp_path)), *given])


CONVERTED = ("classify", "annotate")
"""The runs that jax2onnx can convert."""


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_gives_the_same_outputs_or_the_run_is_refused(case, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    run = written(case, tmp_path)
    if case not in CONVERTED:
        with pytest.raises(UserError, match=r"--format onnx: .*; --format stablehlo"):
            export.main([str(run), "--format", "onnx"])
        assert not (run / "exported").exists()
        return
    export.main([str(run), "--format", "onnx"])
    description = json.loads((run / "exported" / "model.json").read_text())
    session = onnxruntime.InferenceSession(run / "exported" / "model.onnx")
    predictor = predictor_of(run)
    state, _ = states.restored(predictor.task, run / states.CHECKPOINTS)
    for count in (1, 7):
        batch = examples(description, count)
        predicted = jax.jit(predictor.task.predict)(state.params, state.model_state, batch)
        expected = predictor.outputs(predictor.select(predicted))
        for name, output in zip(expected, session.run(list(expected), batch), strict=True):
            assert output.dtype == expected[name].dtype
            np.testing.assert_allclose(output, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_what_onnx_needs_is_named(tmp_path, monkeypatch):
    run = written("classify", tmp_path)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match="--format onnx needs jax2onnx: pip install"):
        export.main([str(run), "--format", "onnx"])
    with pytest.raises(UserError, match="--platforms"):
        export.main([str(run), "--format", "onnx", "--platforms", "cpu"])
    assert not (run / "exported").exists()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="give a run's folder"):
        export.main([])
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        export.main([str(tmp_path)])
