"""Pretrained weights: files with torchvision's or timm's names become our variables.

A model gives three things (`cnn_jax.models.backbones`): `model.pretrained_names()` the rules from
our names to each library's; `model.classifiers` the modules whose size depends on the number of
classes; and `model.optional_modules` those that it may lack and a file may hold. Tensors are looked
up by name, never by order.

Torch's tensors become ours by axis: convolutions OIHW -> HWIO, linear layers [out, in] ->
[in, out], and linear layers on a map [out, channels * height * width] -> [height, width, channels,
out].
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cnn_jax.errors import UserError
from cnn_jax.models.layers import NameRules

Variables = Mapping[str, Any]

# Our names of a module's arrays, and torch's.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Torch's batch norm counts its updates; nothing here depends on the count.
_IGNORED = ".num_batches_tracked"


def load(
    path: str | Path,
    model: nn.Module,
    variables: Variables,
    head: Literal["keep", "reinit"] = "keep",
) -> dict[str, Any]:
    """Load the variables of `model` from a file of pretrained weights.

    Args:
        path: a .safetensors file, or a .pth, .pt or .bin file, which needs torch to be installed.
        model: the network that the weights are for.
        variables: result of `model.init(..., train=True)`; only classifiers that are not loaded
            keep its values.
        head: "keep" loads the classifiers too, which needs the file's number of classes; "reinit"
            leaves them as they are in `variables`.

    Returns:
        Collections like `variables`, float32.

    Raises:
        UserError: the file cannot be read; one of the model's tensors is missing or has another
            shape; or a tensor is not the model's.
    """
    return assign(read(path), model, variables, head, source=str(path))


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read the named tensors of a .safetensors or torch file.

    Raises:
        UserError: there is no such file, its content does not fit its suffix, or it needs torch,
            which is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of pretrained weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from error
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_torch(path)
    raise UserError(
        f"{path}: pretrained weights are read from .safetensors, .pth, .pt and .bin files"
    )


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading this file needs torch: pip install 'cnn_jax[torch]', "
            "or convert it to .safetensors"
        ) from error
    try:
        # weights_only: a pickle could run any code, tensors cannot.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a torch file of named tensors ({reason})") from error
    if isinstance(content, dict):
        # Training scripts keep the tensors beside the optimizer's state.
        content = content.get("state_dict", content.get("model", content))
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise UserError(f"{path}: not a torch file of named tensors")
    return {name: tensor.float().numpy() for name, tensor in content.items()}


def assign(
    tensors: Mapping[str, np.ndarray],
    model: nn.Module,
    variables: Variables,
    head: Literal["keep", "reinit"] = "keep",
    source: str = "pretrained weights",
) -> dict[str, Any]:
    """Set the variables of `model` to the values of named tensors, as `load` does.

    Args:
        tensors: tensors by torchvision's or timm's names.
        model, variables, head: as for `load`.
        source: origin of the tensors, for error messages.

    Returns:
        Collections like `variables`, float32.

    Raises:
        UserError: one of the model's tensors is missing or has another shape, or a tensor is not
            the model's.
    """
    tensors = {name: x for name, x in tensors.items() if not name.endswith(_IGNORED)}
    flat = flax.traverse_util.flatten_dict(dict(variables), sep=".")
    names, optional = _best_names(tensors, model, flat, source)
    fresh = {path for path in flat if head == "reinit" and _module_of(path) in model.classifiers}

    missing = [names[path] for path in flat if path not in fresh and names[path] not in tensors]
    if missing:
        raise UserError(f"{source}: {_listed(missing)} missing")
    known = set(names.values())
    extra = [name for name in tensors if name not in known and not name.startswith(optional)]
    if extra:
        raise UserError(f"{source}: {_listed(extra)} not the model's")

    loaded = {}
    for path, ours in flat.items():
        if path in fresh:
            loaded[path] = ours
            continue
        tensor, legal = tensors[names[path]], _torch_shapes(ours.shape)
        if tensor.shape not in legal:
            hint = ""
            if _module_of(path) in model.classifiers and tensor.shape[1:] == legal[0][1:]:
                hint = (
                    f": the file has {tensor.shape[0]} classes, the model {legal[0][0]}; "
                    'load with head="reinit" to start its classifier afresh'
                )
            raise UserError(
                f"{source}: tensor {names[path]} has shape {tensor.shape}, "
                f"the model's is {legal[0]}{hint}"
            )
        loaded[path] = jnp.asarray(_to_ours(tensor, ours.shape), jnp.float32)
    return flax.traverse_util.unflatten_dict(loaded, sep=".")


def tensor_name(path: str, rules: NameRules) -> str:
    """Another library's name of the array at the dotted `path` in our variables.

    Args:
        path: such as "params.stage1_block0.conv1.kernel".
        rules: that library's rules, from `model.pretrained_names()`.
    """
    leaf = path.rpartition(".")[2]
    return f"{_renamed(_module_of(path), rules)}.{_LEAVES[leaf]}"


def _best_names(
    tensors: Mapping[str, np.ndarray], model: nn.Module, flat: Mapping[str, Any], source: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The names of the library that fit most `tensors`: by our paths, and of optional modules."""
    if not hasattr(model, "pretrained_names"):
        raise UserError(f"{source}: {type(model).__name__} takes no weights of other libraries")
    libraries = model.pretrained_names()
    candidates = {
        library: {path: tensor_name(path, rules) for path in flat}
        for library, rules in libraries.items()
    }
    fits = {
        library: sum(name in tensors for name in names.values())
        for library, names in candidates.items()
    }
    best = max(fits, key=fits.get)
    if not fits[best]:
        raise UserError(
            f"{source}: no tensor has a name that {type(model).__name__} has in "
            f"{' or '.join(libraries)}"
        )
    optional = (_renamed(module, libraries[best]) for module in model.optional_modules)
    return candidates[best], tuple(f"{name}." for name in optional)


def _module_of(path: str) -> str:
    """The module's path in "collection.MODULE.leaf"."""
    return path.partition(".")[2].rpartition(".")[0]


def _renamed(module: str, rules: NameRules) -> str:
    for pattern, replacement in rules:
        module = re.sub(pattern, replacement, module)
    return module


def _torch_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The legal shapes of torch's tensor for our array of `shape`, the usual one first."""
    match shape:
        case (height, width, channels, features):
            return [
                (features, channels, height, width),
                (features, channels * height * width),
            ]
        case (channels, features):
            return [(features, channels), (features, channels, 1, 1)]
    return [shape]


def _to_ours(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring the axes of torch's `tensor` into the order of our array of `shape`."""
    tensor = tensor.reshape(_torch_shapes(shape)[0])
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _listed(names: list[str]) -> str:
    """`names` as the subject of a sentence: the first one and how many more there are."""
    if len(names) == 1:
        return f"tensor {names[0]} is"
    return f"tensor {names[0]} and {len(names) - 1} more are"
