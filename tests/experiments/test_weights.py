"""The command `weights`: its list, runs made of weights, and weights made of runs."""

import contextlib
import io
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import published
from cnn_jax.models import weights as library
from experiments import classify, predict, weights
from tests.commands import leaves
from tests.mirror import Mirror, write_torch_file

pytestmark = pytest.mark.usefixtures("shared_programs")

HUB = "hf:timm/resnet18.tv_in1k"


def random_tensors(model):
    """Weights of a network by torchvision's names."""
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: rng.uniform(0.01, 0.1, x.shape).astype(np.float32), shapes)
    return library.to_tensors(model, drawn)


@pytest.fixture(scope="module")
def tensors():
    """Weights of ResNet-18 for ImageNet's classes."""
    return random_tensors(models.create("resnet18"))


@pytest.fixture(scope="module")
def files(tensors, tmp_path_factory):
    """The same in torch's format and as safetensors."""
    folder = tmp_path_factory.mktemp("files")
    write_torch_file(folder / "resnet18.pth", tensors)
    (folder / "resnet18.safetensors").write_bytes(save(tensors))
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A run made of torchvision's weights by name, from a mirror."""
    folder, printed = tmp_path_factory.mktemp("runs"), io.StringIO()
    digest = published._sha256(files / "resnet18.pth")
    file = f"resnet18-{digest[:8]}.pth"
    row = published.Published("torchvision:resnet18.V1", "resnet18", file, 70.0, 32, 36, "bsd")
    with (
        pytest.MonkeyPatch.context() as patch,
        Mirror().running() as mirror,
        contextlib.redirect_stdout(printed),
    ):
        mirror.files[f"/{file}"] = (files / "resnet18.pth").read_bytes()
        patch.setattr(published, "table", lambda: (row,))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv(published.ADDRESS_VARIABLE, mirror.address)
        weights.main(["to-run", "torchvision:resnet18", str(folder / "run")])
    assert f"SHA-256 {digest}, licence bsd" in printed.getvalue()
    return folder / "run"


def test_the_list_has_what_is_published(capsys):
    weights.main(["list", "resnet50", "tv"])
    lines = capsys.readouterr().out.splitlines()
    assert "hf:timm/resnet50.tv_in1k          76.16     224  bsd-3-clause" in lines
    assert all("resnet50" in line and "tv" in line for line in lines[1:])
    with pytest.raises(UserError, match="nonsense: no known weights"):
        weights.main(["list", "nonsense"])


def test_predictions_with_imagenets_names(run, tmp_path, capsys):
    Image.fromarray(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    predict.main([str(run), str(tmp_path / "a.png"), "--json"])
    (content,) = json.loads(capsys.readouterr().out)
    labels = [p["label"] for p in content["predictions"]]
    assert set(labels) <= set(published.imagenet_classes())


def test_there_and_back_are_the_same_bits(run, tensors, tmp_path, capsys):
    path = tmp_path / "back.safetensors"
    weights.main(["to-torch", str(run), str(path)])
    back = load_file(path)
    assert back.keys() == tensors.keys()
    for name, x in back.items():
        np.testing.assert_array_equal(x, tensors[name])
    printed = capsys.readouterr().out
    assert "model = torchvision.models.resnet18(num_classes=1000)" in printed
    assert "images of 32 pixels in 0..1, less (0.485, 0.456, 0.406)" in printed


def test_weights_by_name_equal_their_file(run, files, tmp_path):
    out = tmp_path / "run"
    weights.main(["to-run", str(files / "resnet18.pth"), str(out), "--model", "resnet18"])
    jax.tree.map(np.testing.assert_array_equal, leaves(out), leaves(run))
    config = json.loads((run / "config.json").read_text())
    assert (config["image_size"], config["resize"], config["model"]) == (32, 36, "resnet18")


@pytest.mark.slow
def test_weights_of_the_hub_equal_their_file(run, files, tmp_path):
    pytest.importorskip("huggingface_hub")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.weights", "to-run", HUB, str(out)]
    with Mirror().running() as mirror:
        place = "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
        mirror.files[place] = (files / "resnet18.safetensors").read_bytes()
        environment = {
            **os.environ, "HF_ENDPOINT": mirror.address, "HF_HOME": str(tmp_path / "hub")
        }  # fmt: skip
        environment["HF_HUB_DISABLE_XET"] = "1"
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"{HUB}: " in ended.stdout
    jax.tree.map(np.testing.assert_array_equal, leaves(out), leaves(run))


def test_weights_of_the_hub_lie_in_the_users_folder(run, files, tmp_path):
    place = tmp_path / "timm" / "resnet18.tv_in1k" / "model.safetensors"
    place.parent.mkdir(parents=True)
    place.symlink_to(files / "resnet18.safetensors")
    weights.main(["to-run", HUB, str(tmp_path / "run"), "--weights-dir", str(tmp_path)])
    jax.tree.map(np.testing.assert_array_equal, leaves(tmp_path / "run"), leaves(run))


def test_fine_tuning_starts_from_a_name(tmp_path, capsys):
    """A new head, lower rates towards the image, the first stage as it was."""
    start = random_tensors(models.create("resnet20", width=0.25))
    place = tmp_path / "someone" / "tiny" / "model.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(save(start))
    rng = np.random.default_rng(0)
    for name in ("train/a/0", "train/b/1", "val/a/2", "val/b/3"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    out = tmp_path / "tuned"
    classify.main(
        [
            *("--data", f"folder:{tmp_path / 'photos'}", "--model", "resnet20", "--width", "0.25"),
            *("--init-from", "hf:someone/tiny", "--weights-dir", str(tmp_path)),
            *("--init-head", "reinit", "--frozen-stages", "1", "--layer-decay", "0.5"),
            *("--image-size", "16", "--batch-size", "4", "--steps", "1", "--out", str(out)),
        ]
    )
    told = "".join(capsys.readouterr().err.split())
    assert f"hf:someone/tiny:{place}(SHA-256{published._sha256(place)},licenceunknown)" in told
    assert "notamongtheknownweights" in told
    tuned = library.to_tensors(
        models.create("resnet20", 2, width=0.25),
        {"params": leaves(out)["params"], "batch_stats": leaves(out)["model_state"]["batch_stats"]},
    )
    moved = {
        name: np.abs(tuned[name] - start[name]).max()
        for name in tuned
        if name.endswith(("weight", "bias")) and not name.startswith("fc")
    }
    frozen = ("conv1", "bn1", "layer1")
    assert {distance for n, distance in moved.items() if n.startswith(frozen)} == {0.0}
    assert all(distance > 0 for n, distance in moved.items() if not n.startswith(frozen))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to-run", "a.pth"], "give two arguments: weights to-run NAME"),
        (["to-run", "a.pth", "OUT"], "a.pth: say which architecture they are of with --model"),
        (["to-run", "a.pth", "RUN", "--model", "resnet18"], "is a run already"),
        (["to-torch", "RUN", "a.onnx"], r"a.onnx: must end in .safetensors or .pth"),
        (["to-torch", "a", "a.pth"], "a/config.json: cannot be read"),
        (["list", "--model", "resnet18"], "--model: only used with the action to-run"),
    ],
)
def test_mistakes_are_named(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        weights.main([str(run) if text == "RUN" else text for text in arguments])
