"""`explain` draws what the answers of every task with images rest on."""

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
    ],
)
def test_mistakes_are_told_in_a_line(arguments, message, runs, photo, tmp_path):
    with pytest.raises(UserError, match=message):
        explain.main([str(runs("classify")), str(photo), *arguments, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(runs, photo, tmp_path):
    with pytest.raises(UserError, match="at least one image"):
        explain.main([str(runs("classify"))])
    with pytest.raises(UserError, match=r"config\.json"):
        explain.main([str(tmp_path), str(photo)])
