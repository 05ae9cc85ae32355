"""Pretrained weights: tensors with torchvision's or timm's names become our variables, and back.

A model gives four things (`cnn_jax.models.backbones`): `model.pretrained_names()` the rules from
our names to each library's; `model.classifiers` the modules whose size depends on the number of
classes; `model.optional_modules` those that it may lack and a file may hold; and `model.flattened`
the linear layers whose inputs torch flattens. Tensors are looked up by name, never by order.

Training tools wrap these names and files: `module.` (DataParallel), `_orig_mod.` (torch.compile),
`model.` (Lightning), a `state_dict` beside the optimizer's, a moving average `ema` or `model_ema`.
No list of them is kept: of all the places in a file and the beginnings of names there, the one that
most of the model's names fit is taken, and said.

Torch's tensors become ours by axis: convolutions OIHW -> HWIO, linear layers [out, in] ->
[in, out], and linear layers on a map [out, channels * height * width] -> [height, width, channels,
out].
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from cnn_jax.errors import UserError
from cnn_jax.models import torch_files
from cnn_jax.models.backbones import Pretrained
from cnn_jax.models.layers import NameRules
from cnn_jax.reading import require_file

Variables = Mapping[str, Any]
Groups = Mapping[str, Mapping[str, np.ndarray]]
"""Named tensors by their place in a file, the keys above them joined with dots."""

# Our names of a module's arrays, and torch's.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Torch's batch norm counts its updates; nothing here depends on the count.
_IGNORED = "num_batches_tracked"
# What moving averages of weights are called.
_AVERAGED = re.compile(r"(^|[._])(ema|swa)([._]|$)")
# A file holds its tensors below so many keys at most.
_DEPTH = 4


def load(
    path: str | Path,
    model: nn.Module,
    variables: Variables,
    head: Literal["keep", "reinit"] = "keep",
    notify: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Load the variables of `model` from a file of pretrained weights.

    Args:
        path: a .safetensors file, or a .pth, .pt, .bin or .ckpt file of torch.
        model: the network that the weights are for.
        variables: result of `model.init(..., train=True)`; only classifiers that are not loaded
            keep its values.
        head: "keep" loads the classifiers too, which needs the file's number of classes; "reinit"
            leaves them as they are in `variables`.
        notify: called with one line where the tensors lie below a key of the file, or their names
            begin with what is not the model's.

    Returns:
        Collections like `variables`, float32.

    Raises:
        UserError: the file cannot be read; several places in it fit equally; one of the model's
            tensors is missing, has another shape, or holds whole numbers or values that are not
            finite; or a tensor is not the model's.
    """
    return _assign(read(path), model, variables, head, str(path), notify)


def read(path: str | Path) -> Groups:
    """Read the named tensors of a .safetensors or torch file, by the keys they lie below.

    Raises:
        UserError: there is no such file, or its content does not fit its suffix.
    """
    path = Path(path)
    require_file(path)
    if path.suffix == ".safetensors":
        try:
            return {"": load_file(path)}
        except Exception as error:  # it raises a different type for each kind of damage
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: not a readable safetensors file ({reason})") from error
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _tensors_of(path)
    raise UserError(
        f"{path}: pretrained weights are read from .safetensors, .pth, .pt, .bin and .ckpt files"
    )


def _tensors_of(path: Path) -> Groups:
    groups = dict(_groups(torch_files.read(path)))
    if not groups:
        raise UserError(f"{path}: not a torch file of named tensors")
    return groups


def _groups(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the named tensors of nested mappings, with the keys above them."""
    if not isinstance(content, Mapping):
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, np.ndarray)}
    if tensors:
        yield ".".join(keys), tensors
    if len(keys) < _DEPTH:
        for key, value in named.items():
            yield from _groups(value, (*keys, key))


def assign(
    tensors: Mapping[str, np.ndarray],
    model: nn.Module,
    variables: Variables,
    head: Literal["keep", "reinit"] = "keep",
    source: str = "pretrained weights",
    notify: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Set the variables of `model` to the values of named tensors, as `load` does.

    Args:
        tensors: tensors by torchvision's or timm's names.
        model, variables, head, notify: as for `load`.
        source: origin of the tensors, for error messages.

    Returns:
        Collections like `variables`, float32.

    Raises:
        UserError: one of the model's tensors is missing or has another shape, or a tensor is not
            the model's.
    """
    return _assign({"": tensors}, model, variables, head, source, notify)


def _assign(
    groups: Groups,
    model: nn.Module,
    variables: Variables,
    head: Literal["keep", "reinit"],
    source: str,
    notify: Callable[[str], None] | None,
) -> dict[str, Any]:
    flat = flax.traverse_util.flatten_dict(dict(variables), sep=".")
    place, also = _best_place(groups, model, flat, source)
    names, optional, prefix = place.names, place.optional, place.prefix
    group = {n: x for n, x in groups[place.group].items() if not n.endswith(_IGNORED)}
    tensors = {n.removeprefix(prefix): x for n, x in group.items() if n.startswith(prefix)}
    fresh = {path for path in flat if head == "reinit" and _module_of(path) in model.classifiers}

    missing = [names[path] for path in flat if path not in fresh and names[path] not in tensors]
    if missing:
        raise UserError(f"{source}: {_listed(missing)} missing{place.described(' in ')}")
    known = set(names.values())
    extra = [name for name in tensors if name not in known and not name.startswith(optional)]
    if extra:
        raise UserError(f"{source}: {_listed(extra)} not the model's{place.described(', of ')}")
    if notify is not None and place.described():
        others = [name for name in group if not name.startswith(prefix)]
        left = f"; left out {len(others)} others, such as {others[0]}" if others else ""
        fits = f" rather than {also}" if also else ""
        notify(f"{source}: the weights are {place.described()}{fits}{left}")

    loaded = {}
    for path, ours in flat.items():
        if path in fresh:
            loaded[path] = ours
            continue
        tensor, legal = tensors[names[path]], _torch_shapes(ours.shape)
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(f"{source}: tensor {names[path]} holds {tensor.dtype}, not fractions")
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
        values = np.asarray(tensor, np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{source}: tensor {names[path]} has values that are not finite")
        loaded[path] = jnp.asarray(_to_ours(values, ours.shape))
    return flax.traverse_util.unflatten_dict(loaded, sep=".")


def to_tensors(model: nn.Module, variables: Variables) -> dict[str, np.ndarray]:
    """Name the arrays of a network as torchvision does, and order their axes so.

    torch's batch normalisation also counts its updates. It does without the counts where a file
    has none.

    Args:
        model: the network.
        variables: its parameters and statistics.

    Returns:
        Tensors by the first library's names; `assign` makes the same variables of them.

    Raises:
        UserError: no other library has such a network.
    """
    if not isinstance(model, Pretrained):
        raise UserError(f"{type(model).__name__}: no network of another library is like it")
    rules = next(iter(model.pretrained_names().values()))
    tensors = {}
    for path, ours in flax.traverse_util.flatten_dict(dict(variables), sep=".").items():
        tensor = _to_torchs(np.asarray(ours), _module_of(path) in model.flattened)
        tensors[tensor_name(path, rules)] = np.ascontiguousarray(tensor)
    return tensors


def tensor_name(path: str, rules: NameRules) -> str:
    """Another library's name of the array at the dotted `path` in our variables.

    Args:
        path: such as "params.stage1_block0.conv1.kernel".
        rules: that library's rules, from `model.pretrained_names()`.
    """
    leaf = path.rpartition(".")[2]
    return f"{_renamed(_module_of(path), rules)}.{_LEAVES[leaf]}"


@dataclass(frozen=True)
class _Place:
    """A place in a file where the tensors of a model may be.

    Attributes:
        group: the keys above them.
        prefix: what their names begin with before the model's own.
        names: the library's names by our paths.
        optional: the beginnings of names that the file may have and the model lacks.
    """

    group: str
    prefix: str
    names: Mapping[str, str]
    optional: tuple[str, ...]

    def described(self, before: str = "") -> str:
        """The place in words, such as `those of 'state_dict', 'module.*'`; "" if it is plain."""
        parts = ([self.group] if self.group else []) + ([f"{self.prefix}*"] if self.prefix else [])
        return f"{before}those of {', '.join(map(repr, parts))}" if parts else ""

    @property
    def averaged(self) -> bool:
        return bool(_AVERAGED.search(f"{self.group}.{self.prefix}"))


def _best_place(
    groups: Groups, model: nn.Module, flat: Mapping[str, Any], source: str
) -> tuple[_Place, str]:
    """Find where most of the model's names are, in the library's names that fit best.

    Where weights and their moving average fit alike, it is the average, which is what a training
    with one evaluates. The second value is then the other place, else "".
    """
    libraries = model.pretrained_names() if isinstance(model, Pretrained) else {}
    if not libraries:
        raise UserError(f"{source}: {type(model).__name__} takes no weights of other libraries")
    places: dict[tuple[str, str], tuple[int, _Place]] = {}
    for rules in libraries.values():
        names = {path: tensor_name(path, rules) for path in flat}
        optional = tuple(f"{_renamed(module, rules)}." for module in model.optional_modules)
        known = set(names.values())
        for group, tensors in groups.items():
            for prefix, fits in _prefixes(tensors, known).items():
                best = places.get((group, prefix))
                if best is None or fits > best[0]:
                    places[group, prefix] = fits, _Place(group, prefix, names, optional)
    if not places:
        raise UserError(
            f"{source}: no tensor has a name that {type(model).__name__} has in "
            f"{' or '.join(libraries)}"
        )
    most = max(fits for fits, _ in places.values())
    tied = [place for fits, place in places.values() if fits == most]
    if len(tied) == 1:
        return tied[0], ""
    averaged = [place for place in tied if place.averaged]
    words = [place.described() or "those without a key above them" for place in tied]
    if len(averaged) != 1 or len(tied) > 2:
        raise UserError(
            f"{source}: {' and '.join(words)} fit {type(model).__name__} equally; keep one of them"
        )
    return averaged[0], next(w for p, w in zip(tied, words, strict=True) if p is not averaged[0])


def _prefixes(names: Iterable[str], known: Collection[str]) -> Counter[str]:
    """Count the names that are known ones after a beginning, by that beginning."""
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while True:
            if name[start:] in known:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


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


def _to_torchs(ours: np.ndarray, flattened: bool) -> np.ndarray:
    """Bring the axes of our array into torch's order; the inverse of `_to_ours`."""
    if ours.ndim == 4:
        tensor = ours.transpose(3, 2, 0, 1)
        return tensor.reshape(len(tensor), -1) if flattened else tensor
    return ours.T


def _listed(names: list[str]) -> str:
    """`names` as the subject of a sentence: the first one and how many more there are."""
    if len(names) == 1:
        return f"tensor {names[0]} is"
    return f"tensor {names[0]} and {len(names) - 1} more are"
