"""The reference is built from the docstrings without a warning; the citation has the version."""

import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import pdoc
import pytest
import yaml

import cnn_jax
from tests import reference

ROOT = Path(__file__).parents[1]


class _Text(HTMLParser):
    """The text of a page, without its styles and scripts."""

    def __init__(self):
        super().__init__()
        self.parts, self.hidden = [], False

    def handle_starttag(self, tag, attrs):
        self.hidden = tag in ("style", "script")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def text(page):
    """What a reader sees of a page, in one line."""
    parser = _Text()
    parser.feed(page.read_text())
    return " ".join("".join(parser.parts).split())


@pytest.mark.slow
def test_the_reference_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "tests.reference", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    pages = {
        ".".join(page.relative_to(tmp_path).with_suffix("").parts)
        for page in tmp_path.glob("cnn_jax/**/*.html")
    }
    assert pages == {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in ROOT.glob("cnn_jax/*/**/*.py")
    } | {f"cnn_jax.{path.stem}" for path in ROOT.glob("cnn_jax/[!_]*.py")}
    loss = text(tmp_path / "cnn_jax" / "losses" / "yolo.html")
    assert "outputs: Float[Array, 'grid grid outputs']" in loss
    assert "outputs: the network's outputs for one image" in loss
    network = text(tmp_path / "cnn_jax" / "models" / "resnet.html")
    assert "stage_sizes" in network and "parent" not in network
    predict = (tmp_path / "experiments" / "predict.html").read_text()
    assert "<code>python -m" in predict


def test_a_name_that_does_not_exist_is_found():
    text = "See `cnn_jax.ops.boxes.iou`, `cnn_jax.ops.nothing` and `cnn_jax.errors.UserError.no`."
    module = pdoc.doc.Module(types.ModuleType("some", text))
    assert list(reference._missing([module])) == [
        "some: there is no `cnn_jax.ops.nothing`",
        "some: there is no `cnn_jax.errors.UserError.no`",
    ]


def test_the_citation_has_the_version_and_the_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cnn_jax.__version__
    assert f"## {cnn_jax.__version__} -" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == "Apache-2.0"
