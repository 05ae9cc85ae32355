"""Weights by name: where they are looked for, what is fetched, and what is refused."""

import hashlib

import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import published
from tests.mirror import Mirror

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = f"resnet18-{DIGEST[:8]}.pth"
NAME = "torchvision:resnet18"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of torchvision, whose table has one row, and an empty cache."""
    row = published.Published(f"{NAME}.V1", "resnet18", FILE, 69.758, 224, 256, "bsd-3-clause")
    monkeypatch.setattr(published, "table", lambda: (row,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Mirror().running() as mirror:
        monkeypatch.setenv(published.ADDRESS_VARIABLE, mirror.address)
        mirror.files[f"/{FILE}"] = CONTENT
        yield mirror


def test_a_file_is_fetched_once(mirror):
    found = published.fetch(NAME)
    assert found == (published.cache() / FILE, DIGEST, "bsd-3-clause")
    assert found.path.read_bytes() == CONTENT
    assert published.fetch(NAME) == published.fetch(f"{NAME}.V1") == found
    assert mirror.requests == [f"/{FILE}"]
    assert [path.name for path in published.cache().iterdir()] == [FILE]


def test_the_users_folder_comes_first(mirror, tmp_path):
    (tmp_path / FILE).write_bytes(CONTENT)
    lines = []
    path = published.located(NAME, "resnet18", str(tmp_path), lines.append)
    assert (path, mirror.requests) == (tmp_path / FILE, [])
    assert lines == [f"{NAME}: {path} (SHA-256 {DIGEST}, licence bsd-3-clause)"]


def test_a_path_is_no_name(mirror):
    assert str(published.located("a/b.pth", "resnet18", None, pytest.fail)) == "a/b.pth"


@pytest.mark.parametrize("where", ["fetched", "in the folder"])
def test_another_file_is_refused_and_not_kept(mirror, tmp_path, where):
    (tmp_path / "mine").mkdir()
    other = CONTENT[:-1]
    mirror.files[f"/{FILE}"] = other
    if where == "in the folder":
        (tmp_path / "mine" / FILE).write_bytes(other)
    digest = hashlib.sha256(other).hexdigest()
    with pytest.raises(UserError) as caught:
        published.fetch(NAME, tmp_path / "mine")
    assert f"its SHA-256 begins with {digest[:8]}, not {DIGEST[:8]}" in str(caught.value)
    assert not published.cache().exists() or not list(published.cache().iterdir())


@pytest.mark.parametrize("fault", ["absent", "cut", "no network"])
def test_what_cannot_be_fetched_is_named_with_its_file(mirror, fault, monkeypatch):
    if fault == "absent":
        mirror.files.clear()
    if fault == "no network":
        monkeypatch.setenv(published.ADDRESS_VARIABLE, "http://127.0.0.1:9")
    mirror.cut = fault == "cut"
    with pytest.raises(UserError) as caught:
        published.fetch(NAME)
    text = str(caught.value)
    assert text.startswith(f"{NAME}: not fetched (")
    assert text.endswith(f"put the file into a folder as {FILE}, and name the folder with "
                         "--weights-dir")  # fmt: skip
    reason = {"absent": "Not Found", "cut": "ended after 3500 of 7000", "no network": "refused"}
    assert reason[fault] in text
    assert not list(published.cache().iterdir())


def test_names_that_nobody_has():
    with pytest.raises(UserError, match=r"torchvision:resnet51: unknown weights, did you mean"):
        published.known("torchvision:resnet51")
    with pytest.raises(UserError, match="hf:resnet50: must be hf:OWNER/NAME"):
        published.known("hf:resnet50")
    assert published.known("hf:someone/something") is None
    text = "weights of resnet50, not of resnet18; give --model resnet50"
    with pytest.raises(UserError, match=text):
        published.located("hf:timm/resnet50.tv_in1k", "resnet18", None, pytest.fail)


def test_the_table():
    rows = published.table()
    assert len({row.name for row in rows}) == len(rows)
    assert {row.model for row in rows} <= set(models.names())
    assert all(50 < row.top1 < 90 and row.resize >= row.size for row in rows)
    newest = published.known("torchvision:resnet50")
    assert (newest.name, newest.top1, newest.file, newest.resize) == (
        "torchvision:resnet50.IMAGENET1K_V2", 80.858, "resnet50-11ad3fa6.pth", 232,
    )  # fmt: skip
    assert published.known("hf:timm/resnet50.tv_in1k").top1 == 76.156


def test_the_classes_of_imagenet():
    names = published.imagenet_classes()
    assert len(set(names)) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
