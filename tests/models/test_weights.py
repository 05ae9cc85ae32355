"""Pretrained weights: what is read, what is refused, and how the message says it."""

import argparse
import json
import os

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models import published, weights


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
        (
            lambda t: t.update({"fc.bias": np.arange(10)}),
            "tensor fc.bias holds int64, not fractions",
        ),
        (
            lambda t: t.update({"fc.bias": np.full(10, np.nan, np.float32)}),
            "tensor fc.bias has values that are not finite",
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


@pytest.mark.parametrize("name", sorted({row.model for row in published.table()}))
def test_our_arrays_by_torchvisions_names(golden, name):
    """Names and shapes of all tensors of torchvision's network, and back the same bits."""
    model = models.create(name)
    spec = models.input_spec(name)
    shapes = shapes_of(model, spec.image_size)
    # Repeated numbers, which take no memory.
    flat = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    tensors = weights.to_tensors(model, flat)
    theirs = {n: s for n, s in golden.shapes(name).items() if "num_batches" not in n}
    assert {n: x.shape for n, x in tensors.items()} == theirs


@pytest.mark.parametrize("name", ["vgg11_bn", "googlenet", "inception_v3", "densenet121"])
def test_there_and_back_are_the_same_bits(name):
    model = models.create(name, 5, width=0.04)
    shapes = shapes_of(model, models.input_spec(name).image_size)
    leaves, tree = jax.tree.flatten(shapes)
    ours = jax.tree.unflatten(tree, [normal(x.shape, seed) for seed, x in enumerate(leaves)])
    tensors = weights.to_tensors(model, ours)
    assert all(x.flags["C_CONTIGUOUS"] for x in tensors.values())
    back = weights.assign(tensors, model, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, ours)


def test_a_network_that_no_other_library_has():
    model = models.create("unet", 3, kind="segmenter")
    with pytest.raises(UserError, match="no network of another library is like it"):
        weights.to_tensors(model, {})


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
        (tmp_path / "absent.safetensors", r"cannot be read \(No such file"),
        (tmp_path, "is a folder, not a file"),
        (broken, "not a readable safetensors file"),
        (empty, "not a readable safetensors file"),
        (text, "read from .safetensors, .pth, .pt, .bin and .ckpt files"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            weights.load(path, resnet20, {})
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_files_end_with_one_line(tmp_path, resnet20, tensors):
    path = tmp_path / "resnet20.safetensors"
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    rng = np.random.default_rng(0)

    def with_header(**change):
        written = json.dumps({**header, "conv1.weight": {**header["conv1.weight"], **change}})
        return len(written).to_bytes(8, "little") + written.encode() + whole[8 + length :]

    damaged = [
        whole[:-7],
        whole[: len(whole) // 3],
        b"\xff" * 8 + whole[8:],
        with_header(dtype="F8_E4M3"),
        with_header(dtype="nonsense"),
        with_header(shape=[10**12, 10**12]),
        with_header(shape=[-1]),
        with_header(data_offsets=[10**9, 2 * 10**9]),
        *(whole[:8] + rng.bytes(length) + whole[8 + length :] for _ in range(3)),
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            weights.load(path, resnet20, shapes_of(resnet20))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is a named pipe, not a file"):
        weights.load(tmp_path / "pipe.safetensors", resnet20, {})


def wrapped(tensors, keys, prefix, wrap=np.array):
    """The content of a file with the tensors below keys and their names after a prefix."""
    content = {f"{prefix}{name}": wrap(x) for name, x in tensors.items()}
    for key in reversed(keys):
        content = {key: content}
    return content


# What tools wrap weights in: the keys above them, the beginning of their names, and how it is told.
WRAPPINGS = [
    ((), "", None),
    (("state_dict",), "", "those of 'state_dict'"),
    (("model",), "module.", "those of 'model', 'module.*'"),
    ((), "module._orig_mod.", "those of 'module._orig_mod.*'"),
    ((), "_orig_mod.module.", "those of '_orig_mod.module.*'"),
    (("state_dict",), "model.", "those of 'state_dict', 'model.*'"),
    (("state_dict",), "net.backbone.", "those of 'state_dict', 'net.backbone.*'"),
    (("model_ema",), "module.", "those of 'model_ema', 'module.*'"),
    (("state_dict_ema",), "", "those of 'state_dict_ema'"),
    (("ema", "module"), "", "those of 'ema.module'"),
    (("params_ema",), "", "those of 'params_ema'"),
]


@pytest.mark.parametrize(("keys", "prefix", "told"), WRAPPINGS)
def test_wrapped_weights_are_recognised_by_what_fits(resnet20, tensors, keys, prefix, told):
    """An optimizer's tensors, arguments and counters lie beside them in a file of training."""
    content = wrapped(tensors, keys, prefix)
    if keys:
        content |= {
            "optimizer": {"state": {0: {"exp_avg": normal(3)}}, "weight": normal(3)},
            "hyper_parameters": {"lr": 0.1},
            "epoch": 3,
        }
    groups = dict(weights._groups(content))
    notices = []
    shapes = shapes_of(resnet20)
    loaded = weights._assign(groups, resnet20, shapes, "keep", "file.pth", notices.append)
    expected = weights.assign(tensors, resnet20, shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    assert notices == ([f"file.pth: the weights are {told}"] if told else [])


def test_a_file_of_arrays_has_beginnings_of_names_too(tmp_path, resnet20, tensors):
    path = tmp_path / "lightning.safetensors"
    content = {f"model.{name}": np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file({**content, "criterion.weight": normal(10)}, path)
    notices = []
    loaded = weights.load(path, resnet20, shapes_of(resnet20), notify=notices.append)
    expected = weights.assign(tensors, resnet20, shapes_of(resnet20))
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    (notice,) = notices
    assert notice == (
        f"{path}: the weights are those of 'model.*'; left out 1 others, such as criterion.weight"
    )


def test_of_two_places_the_moving_average_is_taken_or_none(resnet20, tensors):
    averaged = {name: x + 1 for name, x in tensors.items()}
    shapes, notices = shapes_of(resnet20), []

    def load(**groups):
        return weights._assign(groups, resnet20, shapes, "keep", "file.pth", notices.append)

    loaded = load(model=tensors, model_ema={f"module.{n}": x for n, x in averaged.items()})
    expected = weights.assign(averaged, resnet20, shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    assert notices == [
        "file.pth: the weights are those of 'model_ema', 'module.*' rather than those of 'model'"
    ]
    both = {**tensors, **{f"ema.{name}": x for name, x in averaged.items()}}
    loaded = weights.assign(both, resnet20, shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    # The average of a part only is not what fits most.
    part = {name: averaged[name] for name in list(averaged)[:5]}
    loaded = load(model=tensors, ema=part)
    plain = weights.assign(tensors, resnet20, shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded, plain)
    with pytest.raises(UserError, match=r"'student' and those of 'teacher' fit ResNet equally"):
        load(student=tensors, teacher=averaged)
    with pytest.raises(UserError, match="fit ResNet equally; keep one of them"):
        load(model=tensors, ema=averaged, model_ema=averaged)


def test_what_is_missing_or_too_much_in_a_wrapping_is_named(resnet20, tensors):
    content = wrapped(tensors, (), "module.")
    del content["module.fc.bias"]
    with pytest.raises(UserError, match=r"tensor fc.bias is missing in those of 'module.\*'$"):
        weights.assign(content, resnet20, shapes_of(resnet20))
    content = wrapped({**tensors, "extra": normal(1)}, (), "module.")
    with pytest.raises(UserError, match=r"extra is not the model's, of those of 'module.\*'$"):
        weights.assign(content, resnet20, shapes_of(resnet20))


@pytest.mark.parametrize(("keys", "prefix", "told"), WRAPPINGS)
def test_a_torch_file(tmp_path, resnet20, tensors, keys, prefix, told):
    torch = pytest.importorskip("torch")
    path = tmp_path / "resnet20.pth"
    content = wrapped(tensors, keys, prefix, lambda x: torch.from_numpy(np.array(x)))
    if keys:
        content |= {"epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, path)
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


@pytest.mark.parametrize("content", [Surprise(), "a string", {"conv1.weight": 1}, {"model": {}}])
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
