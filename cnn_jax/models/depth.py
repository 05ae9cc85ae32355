"""The depth of a network's parameters: what layer-wise learning rates and frozen stages go by.

Depth is read from the computation that is traced, not from names: a parameter is as deep as the
place where it is first used, and belongs to the stages that cannot be computed without it. So no
architecture has a table of its layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.extend.core import Literal
from jax.tree_util import keystr

from cnn_jax.errors import UserError


class Layer(NamedTuple):
    """A layer, or a block of layers, of a pretrained network.

    Attributes:
        modules: the paths of its modules among the network's parameters: a convolution, and the
            normalisation behind it.
        depth: 1 for the layer next to the input.
    """

    modules: tuple[str, ...]
    depth: int


def layers(model: nn.Module, images: jax.ShapeDtypeStruct) -> tuple[Layer, ...]:
    """The layers of a classifier or of the backbone of another network, from the input on.

    Layers whose size depends on the number of classes are left out, and so is all that a detector
    or a segmenter has behind its backbone: training starts them afresh.

    Args:
        model: the network.
        images: shape of a batch of one image.
    """
    traced = _trace(model, images)
    fresh = () if traced.prefix else tuple(name.replace(".", "/") for name in model.classifiers)
    first: dict[str, int] = {}
    wide: set[str] = set()
    for path, place in zip(traced.paths, traced.first_uses(), strict=True):
        if place is None or f"{path}/".startswith(tuple(f"{name}/" for name in fresh)):
            continue
        module = path.partition("/")[0]
        first[module] = min(place, first.get(module, place))
        if len(traced.shapes[path]) > 1:
            wide.add(module)
    found: list[list[str]] = []
    for module in sorted(first, key=first.__getitem__):
        # A normalisation belongs to the layer before it.
        if module in wide or not found:
            found.append([])
        found[-1].append(f"{traced.prefix}{module}")
    return tuple(Layer(tuple(modules), depth) for depth, modules in enumerate(found, start=1))


def first_stages(model: nn.Module, images: jax.ShapeDtypeStruct, count: int) -> tuple[str, ...]:
    """The paths of the parameters that the first stages of a network are computed from.

    Args:
        model: a classifier, or a network with a backbone.
        images: shape of a batch of one image.
        count: how many stages; what lies before the first one counts to it.

    Raises:
        UserError: the network has fewer stages, or none.
    """
    traced = _trace(model, images)
    stages = [name for name in traced.features if name.startswith("stage")]
    name = f"stage{count}"
    if name not in stages:
        raise UserError(f"must be 1 to {len(stages)}, the network's stages", "frozen_stages", count)
    used = traced.needed(traced.features[name])
    return tuple(
        f"{traced.prefix}{path}"
        for path, is_used in zip(traced.paths, used, strict=True)
        if is_used
    )


class _Trace(NamedTuple):
    """The forward pass of a backbone.

    Attributes:
        prefix: the beginning of the paths of its parameters in the whole network.
        paths: the parameters.
        shapes: by path.
        jaxpr: the computation; its first inputs are the parameters.
        features: the places of the features among its outputs, by name.
    """

    prefix: str
    paths: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    jaxpr: Any
    features: Mapping[str, int]

    def first_uses(self) -> list[int | None]:
        """The place of the first operation that reads each parameter; None where none does."""
        places: dict[Any, int] = {}
        for place, equation in enumerate(self.jaxpr.eqns):
            for variable in _variables(equation.invars):
                places.setdefault(variable, place)
        return [places.get(variable) for variable in self.jaxpr.invars[: len(self.paths)]]

    def needed(self, output: int) -> list[bool]:
        """Tell for each parameter whether an output is computed from it."""
        wanted = set(_variables([self.jaxpr.outvars[output]]))
        for equation in reversed(self.jaxpr.eqns):
            if wanted.intersection(equation.outvars):
                wanted.update(_variables(equation.invars))
        return [variable in wanted for variable in self.jaxpr.invars[: len(self.paths)]]


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _trace(model: nn.Module, images: jax.ShapeDtypeStruct) -> _Trace:
    """Trace a classifier, or the backbone of another network, as it is evaluated."""
    backbone = getattr(model, "backbone", None)
    prefix = "" if backbone is None else "backbone/"
    backbone = model if backbone is None else backbone
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = dict(jax.eval_shape(lambda key, x: backbone.init(key, x, train=False), key, images))
    params = variables.pop("params")
    jaxpr, outputs = jax.make_jaxpr(
        lambda params, rest, x: backbone.apply({"params": params, **rest}, x, train=False),
        return_shape=True,
    )(params, variables, images)
    leaves = [
        (keystr(path, simple=True, separator="/"), leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(params)
    ]
    _, features = jax.tree.unflatten(
        jax.tree.structure(outputs), range(len(jax.tree.leaves(outputs)))
    )
    places = {name: place for name, place in features.items() if isinstance(place, int)}
    return _Trace(prefix, [path for path, _ in leaves], dict(leaves), jaxpr.jaxpr, places)
