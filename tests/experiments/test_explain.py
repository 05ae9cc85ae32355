"""`explain` draws what the answers of every task with images rest on."""

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from experiments import annotate, classify, detect, explain, segment
from tests.drawn_runs import write_run

NAMES = ("circle", "square", "star")
SMALL = {"model": "resnet20", "width": 0.25, "image_size": 16}
CASES = {
    "classify": (classify, SMALL, {}),
    "classify_proxies": (classify, SMALL | {"loss": "proxy", "logit_scale": 4.0}, {}),
    "annotate": (annotate, SMALL, {}),
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
REGIONS = SMALL | {
    "image_size": 32,
    "score_threshold": 0.0,
    "proposals": "grid",
    "max_proposals": 40,
}
CASES["detect_fast_rcnn"] = (detect, REGIONS | {"system": "fast_rcnn"}, {})
CROPS = REGIONS | {"system": "rcnn", "crop_size": 16}
CASES["detect_rcnn"] = (detect, CROPS, {})
CASES["detect_rcnn_softmax"] = (detect, CROPS | {"classifier": "softmax", "width": 0.5}, {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def written(case):
        module, values, recorded = CASES[case]
        out = folder / case
        if out.exists():
            return out
        return write_run(out, module, values, {"class_names": NAMES, **recorded})

    return written


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_answers_of_every_task_are_explained(case, runs, photo, tmp_path, capsys):
    explain.main([str(runs(case)), str(photo), "--out", str(tmp_path), "--top", "2"])
    printed = capsys.readouterr().out
    named, *_ = printed.splitlines()
    answers = named.removeprefix(f"{photo}: ").partition(" -> ")[0].split("; ")
    assert 1 <= len(answers) <= 2 and all(a.split()[0] in NAMES for a in answers)
    # The photo and a picture for each answer, side by side.
    with Image.open(tmp_path / "photo.png") as picture:
        assert picture.width == 12 + (1 + len(answers)) * 332
    page = (tmp_path / "explained.html").read_text()
    assert page.count("<img") == 1 + len(answers) and "Grad-CAM" in page
    assert all(answer in page for answer in answers)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("detect")])
def test_an_object_is_explained_by_the_output_that_it_was_found_by(case, runs, photo):
    options = explain.Options(run=str(runs(case)), images=(str(photo),), top=20)
    explainer = explain.Explainer(options, "detect", [str(photo)])
    subject, variables = explainer.subject, explainer.variables
    (_, content, found), *_ = explainer.outcomes([str(photo)])
    view = subject.view(content)
    outputs = jax.device_get(subject.outputs(variables, view.images, view.given))
    questions = subject.questions(outputs, view, found, None)
    assert len(questions) == found["counted"].sum() > 3
    for question, score in zip(questions, found["scores"], strict=False):
        seen = subject.focused(view, question)
        own, _ = subject.network(variables, seen.given)(seen.images)
        asked = subject.asked(outputs, question)
        one = jax.tree.map(lambda x: x[0], own)
        np.testing.assert_allclose(subject.probability(one, asked), score, rtol=1e-3)


@pytest.mark.parametrize("case", ["classify", "classify_proxies", "annotate"])
def test_a_class_is_explained_by_the_output_that_predict_takes(case, runs, photo):
    options = explain.Options(run=str(runs(case)), images=(str(photo),))
    explainer = explain.Explainer(options, case.partition("_")[0], [str(photo)])
    subject, variables = explainer.subject, explainer.variables
    (_, content, found), *_ = explainer.outcomes([str(photo)])
    view = subject.view(content)
    outputs = subject.outputs(variables, view.images, view.given)
    asked = [subject.asked(outputs, explain.Question(label, "")) for label in range(len(NAMES))]
    explained = [subject.probability(outputs[0], label) for label in asked]
    given = found["probabilities"]
    predicted = [given[name] for name in NAMES] if "tags" in found else given
    np.testing.assert_allclose(explained, predicted, rtol=1e-5)


def test_evidence_of_r_cnn_lies_in_the_region_and_its_context(runs, photo):
    options = explain.Options(
        run=str(runs("detect_rcnn")), images=(str(photo),), method="occlusion"
    )
    explainer = explain.Explainer(options, "detect", [str(photo)])
    (_, content, found), *_ = explainer.outcomes([str(photo)])
    view = explainer.subject.view(content)
    assert view.place == (-1, -2, 23, 34)  # a sixteenth more of 20 x 30 pixels on each side
    outputs = explainer.subject.outputs(explainer.variables, view.images, view.given)
    questions = explainer.subject.questions(outputs, view, found, None)
    small = min(questions, key=lambda q: np.prod(np.subtract(q.box[2:], q.box[:2])))
    place = explainer.subject.focused(view, small).place
    (values,) = explainer.evidence(outputs, [small], view)
    assert values.shape == (20, 30) and values.any()
    outside = np.ones_like(values, bool)
    top, left = max(place[0], 0), max(place[1], 0)
    outside[top : place[0] + place[2], left : place[1] + place[3]] = False
    assert outside.any() and not values[outside].any()


def test_occlusion_explains_the_class_that_is_asked_for(runs, photo, tmp_path, capsys):
    for asked in ("star", "2"):
        arguments = ["--method", "occlusion", "--class", asked, "--patch", "8"]
        explain.main([str(runs("classify")), str(photo), *arguments, "--out", str(tmp_path)])
        assert ": star 0." in capsys.readouterr().out
    assert "square of 8 pixels" in (tmp_path / "explained.html").read_text()


def test_maps_and_filters_are_drawn(runs, photo, tmp_path, capsys):
    run = str(runs("classify"))
    arguments = ["--method", "features", "--stage", "stage2", "--out", str(tmp_path)]
    explain.main([run, str(photo), *arguments])
    assert "stage2: 8 x 8 x 8" in capsys.readouterr().out
    explain.main([run, "--method", "filters", "--out", str(tmp_path)])
    assert "the filters of stem_conv" in capsys.readouterr().out
    # Four filters of 3 x 3, two in a row, with a line of two pixels between them.
    with Image.open(tmp_path / "filters.png") as picture:
        width, height = picture.size
    assert width == height and (width - 2) % 6 == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--class", "sqare"], "--class sqare: no class of this run.*square"),
        (["--class", "3"], "--class 3: no class of this run.*below 3"),
        (["--stage", "stage9"], "stage stage9: no map of this network.*stage1, stage2, stage3"),
        (["--method", "filters"], "a run's folder alone"),
        (["--method", "occlusion", "--stage", "stage1"], "--stage: only used with --method"),
        (["--score-threshold", "0.5"], "--score-threshold: only used with a run of detect"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, message, runs, photo, tmp_path):
    with pytest.raises(UserError, match=message):
        explain.main([str(runs("classify")), str(photo), *arguments, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_objects_are_those_that_reach_a_given_score(runs, photo, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    explain.main([str(runs("detect_fast_rcnn")), str(photo), *out, "--top", "1"])
    assert " -> " in capsys.readouterr().out
    explain.main([str(runs("detect_fast_rcnn")), str(photo), *out, "--score-threshold", "1"])
    assert "no such answer" in capsys.readouterr().out


def test_what_is_missing_is_named(runs, photo, tmp_path):
    with pytest.raises(UserError, match="at least one image"):
        explain.main([str(runs("classify"))])
    with pytest.raises(UserError, match=r"config\.json"):
        explain.main([str(tmp_path), str(photo)])
