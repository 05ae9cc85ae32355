"""Pretrained weights: what is read, what is refused, and how the message says it."""

import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import weights


def shapes_of(model, side=32):
    """The shapes of a model's variables."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(
        lambda key, images: model.init({"params": key, "dropout": key}, images, train=True),
        key,
        images,
    )


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def resnet20():
    return models.create("resnet20", 10, width=0.25)


@pytest.fixture
def tensors():
    """A torch file for `resnet20`, written out: torchvision's names, no projections."""
    tensors = {"conv1.weight": normal((4, 3, 3, 3))}

    def norm(name, channels):
        for seed, leaf in enumerate(("weight", "bias", "running_mean", "running_var")):
            tensors[f"{name}.{leaf}"] = normal(channels, seed) ** 2
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    norm("bn1", 4)
    channels = 4
    for layer, layer_channels in (("layer1", 4), ("layer2", 8), ("layer3", 16)):
        for block in range(3):
            for index in (1, 2):
                shape = (layer_channels, channels, 3, 3)
                tensors[f"{layer}.{block}.conv{index}.weight"] = normal(shape, index)
                norm(f"{layer}.{block}.bn{index}", layer_channels)
                channels = layer_channels
    return {**tensors, "fc.weight": normal((10, 16)), "fc.bias": normal(10)}


def test_arrays_of_a_file(tmp_path, resnet20, tensors):
    path = tmp_path / "resnet20.safetensors"
    # A transposed view is not contiguous, and safetensors would save it as it lies in memory.
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    shapes = shapes_of(resnet20)
    variables = weights.load(path, resnet20, shapes)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    parameters, statistics = variables["params"], variables["batch_stats"]
    np.testing.assert_array_equal(
        parameters["stage2_block0"]["conv1"]["kernel"][1, 2, 3, 5],
        tensors["layer2.0.conv1.weight"][5, 3, 1, 2],
    )
    np.testing.assert_array_equal(parameters["head"]["kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(parameters["stem_norm"]["scale"], tensors["bn1.weight"])
    np.testing.assert_array_equal(
        statistics["stage3_block2"]["norm2"]["var"], tensors["layer3.2.bn2.running_var"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer2.1.conv2.weight"), "tensor layer2.1.conv2.weight is missing"),
        (
            lambda t: [t.pop("bn1.bias"), t.pop("bn1.weight")],
            "tensor bn1.* and 1 more are missing",
        ),
        (lambda t: t.update({"extra.weight": normal(3)}), "tensor extra.weight is not the model's"),
        (
            lambda t: t.update({"conv1.weight": normal((4, 1, 3, 3))}),
            r"tensor conv1.weight has shape \(4, 1, 3, 3\), the model's is \(4, 3, 3, 3\)$",
        ),
        (
            lambda t: t.update({"fc.weight": normal((7, 16)), "fc.bias": normal(7)}),
            'fc.* the file has 7 classes, the model 10; load with head="reinit"',
        ),
        (lambda t: t.clear(), "no tensor has a name that ResNet has in torchvision or timm"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(resnet20, tensors, change, message):
    change(tensors)
    with pytest.raises(UserError, match=message) as caught:
        weights.assign(tensors, resnet20, shapes_of(resnet20), source="file.pth")
    assert str(caught.value).startswith("file.pth: ")


@pytest.mark.parametrize("classes", [7, 10])
def test_head_reinit_keeps_the_models_own_classifier(resnet20, tensors, classes):
    """Also where the number of classes agrees: the classes may be others."""
    tensors.update({"fc.weight": normal((classes, 16)), "fc.bias": normal(classes)})
    variables = jax.jit(resnet20.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    loaded = weights.assign(tensors, resnet20, variables, head="reinit")
    jax.tree.map(
        np.testing.assert_array_equal, loaded["params"]["head"], variables["params"]["head"]
    )
    np.testing.assert_array_equal(loaded["params"]["stem_norm"]["bias"], tensors["bn1.bias"])


def test_names_of_timms_vgg(golden):
    """Timm keeps the hidden linear layers as convolutions, under names of its own."""
    model = models.create("vgg11_bn", 10, width=0.02)
    shapes = shapes_of(model)
    rules = model.pretrained_names()["torchvision"]
    flat = flax.traverse_util.flatten_dict(shapes, sep=".")
    names = [weights.tensor_name(path, rules) for path in flat]
    assert set(names) == {n for n in golden.shapes("vgg11_bn") if "num_batches" not in n}

    def torch_shape(shape):
        return (*shape[:-3:-1], *shape[:-2]) if len(shape) == 4 else shape[::-1]

    tensors = {
        name: normal(torch_shape(x.shape), seed)
        for seed, (name, x) in enumerate(zip(names, flat.values(), strict=True))
    }
    hidden = tensors["classifier.0.weight"]
    torchvision = {**tensors, "classifier.0.weight": hidden.reshape(len(hidden), -1)}

    timm_names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
    timm_names["classifier.6"] = "head.fc"
    timm = {}
    for name, x in tensors.items():
        module, _, leaf = name.rpartition(".")
        if name == "classifier.3.weight":
            x = x[:, :, None, None]
        timm[f"{timm_names.get(module, module)}.{leaf}"] = x

    jax.tree.map(
        np.testing.assert_array_equal,
        weights.assign(torchvision, model, shapes),
        weights.assign(timm, model, shapes),
    )


def test_a_file_may_have_auxiliary_heads_that_the_model_has_not(golden):
    model = models.create("googlenet", auxiliary=False)
    tensors = golden.tensors("googlenet")
    loaded = weights.assign(tensors, model, shapes_of(model, 64))
    assert not any("aux" in module for module in loaded["params"])
    with_heads = models.create("googlenet")
    for name in [name for name in tensors if name.startswith("aux")]:
        del tensors[name]
    with pytest.raises(UserError, match=r"tensor aux\d.* and \d+ more are missing"):
        weights.assign(tensors, with_heads, shapes_of(with_heads, 64))


def test_a_file_that_cannot_be_read_is_named(tmp_path, resnet20):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a file of tensors")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    text = tmp_path / "weights.txt"
    text.touch()
    for path, message in (
        (tmp_path / "absent.safetensors", "no such file"),
        (broken, "not a readable safetensors file"),
        (empty, "not a readable safetensors file"),
        (text, "read from .safetensors, .pth, .pt and .bin files"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            weights.load(path, resnet20, {})
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_torch_file_without_torch(tmp_path, resnet20, monkeypatch):
    path = tmp_path / "resnet20.pth"
    path.touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs torch: pip install 'cnn_jax\[torch\]'"):
        weights.load(path, resnet20, {})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_torch_file(tmp_path, resnet20, tensors, wrapper):
    torch = pytest.importorskip("torch")
    path = tmp_path / "resnet20.pth"
    content = {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, path)
    shapes = shapes_of(resnet20)
    jax.tree.map(
        np.testing.assert_array_equal,
        weights.load(path, resnet20, shapes),
        weights.assign(tensors, resnet20, shapes),
    )


class Surprise:
    """Unpickled, it would run code."""

    def __reduce__(self):
        return (open, ("surprise", "w"))


@pytest.mark.parametrize("content", [Surprise(), "a string", {"conv1.weight": 1}])
def test_a_torch_file_of_something_else(tmp_path, resnet20, content, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "resnet20.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match="not a torch file of named tensors") as caught:
        weights.load(path, resnet20, {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "surprise").exists()


def test_torch_files_that_are_cut_off(tmp_path, resnet20):
    pytest.importorskip("torch")
    path = tmp_path / "resnet20.pth"
    for content in (b"", b"PK\x03\x04 the beginning of an archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a torch file of named tensors"):
            weights.load(path, resnet20, {})
