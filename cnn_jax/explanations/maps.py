"""The maps inside a network: their names, and the outputs as a function of one of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Var, jaxpr_as_fun
from jaxtyping import Array, Float

from cnn_jax.errors import UserError, nearest

Images = Float[Array, "batch height width channels"]
Map = Float[Array, "batch rows columns features"]

Network = Callable[[Images], tuple[Any, Mapping[str, Any]]]
"""From normalised images to outputs and features by name.

Nothing that it does to one example depends on the others. Features that are no maps are passed
over.
"""


def map_shapes(network: Network, images: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the maps that a network's outputs follow from, in the order of their making.

    Args:
        network: the network.
        images: its input, or the shape of it.
    """
    program, (outputs, maps) = _traced(network, images)
    made = {variable: name for name, variable in maps.items()}
    order = [v for equation in program.jaxpr.eqns for v in equation.outvars if v in made]
    wanted = {v for v in jax.tree.leaves(outputs) if not isinstance(v, Literal)}
    # What the outputs follow from, from the last operation to the first.
    for equation in reversed(program.jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            wanted |= {v for v in equation.invars if not isinstance(v, Literal)}
    return {made[v]: v.aval.shape for v in order if v in wanted}


def coarsest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of the stage with the fewest cells; of several, the last.

    Stages are those of a backbone, `stage1`, `stage2`, ...; without any, all maps count.

    Args:
        shapes: those of `map_shapes`; there is at least one.
    """
    stages = {name: shape for name, shape in shapes.items() if name.startswith("stage")}
    cells = {name: shape[1] * shape[2] for name, shape in (stages or shapes).items()}
    return next(name for name in reversed(cells) if cells[name] == min(cells.values()))


def checked_stage(shapes: Mapping[str, tuple[int, ...]], stage: str | None) -> str:
    """The stage that is asked for, by default the `coarsest`.

    Raises:
        UserError: the network has no such map, or none at all.
    """
    if not shapes:
        raise UserError("this network gives no maps by name")
    if stage is None:
        return coarsest(shapes)
    if stage not in shapes:
        raise UserError(
            f"no map of this network{nearest(stage, shapes)}; one of {', '.join(shapes)}",
            "stage",
            stage,
        )
    return stage


def moved(network: Network, images: Images, stage: str, by: Map) -> tuple[Any, Map]:
    """Run a network, and add something to one of its maps before all that follows from it.

    With zeros it is the network itself, and its derivative by them is that by the map. The network
    is traced and cut in two behind the operation that makes the map. So this works for every map
    that a network returns, whatever made it.

    Args:
        network: the network.
        images: its input.
        stage: the name of the map.
        by: what is added to it.

    Returns:
        The outputs, and the map with what was added.

    Raises:
        KeyError: the network gives no such map.
    """

    program, (outputs, maps) = _traced(network, images)
    before, after = _cut(program, maps[stage])
    features, *others = before(images)
    moved_outputs, moved_maps = jax.tree.unflatten(
        jax.tree.structure((outputs, maps)), after(features + by, *others)
    )
    return moved_outputs, moved_maps[stage]


def _traced(network: Network, images: Any) -> tuple[ClosedJaxpr, tuple[Any, dict[str, Var]]]:
    """The program of a network, and its variables in place of outputs and maps."""

    def apply(images: Images) -> tuple[Any, dict[str, Map]]:
        outputs, features = network(images)
        return outputs, _maps(features)

    program, shapes = jax.make_jaxpr(apply, return_shape=True)(images)
    return program, jax.tree.unflatten(jax.tree.structure(shapes), program.jaxpr.outvars)


def _cut(program: ClosedJaxpr, made: Var) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The parts of a program up to the operation that makes a variable, and behind it.

    The first gives the variable and all else that the second takes.
    """
    jaxpr = program.jaxpr
    end = 1 + next(i for i, equation in enumerate(jaxpr.eqns) if made in equation.outvars)
    known = {*jaxpr.invars, *(v for equation in jaxpr.eqns[:end] for v in equation.outvars)}
    read = [atom for equation in jaxpr.eqns[end:] for atom in equation.invars] + jaxpr.outvars
    passed = {v: None for v in read if not isinstance(v, Literal) and v in known}
    between = [made, *(v for v in passed if v is not made)]
    before = jaxpr.replace(eqns=jaxpr.eqns[:end], outvars=between)
    after = jaxpr.replace(eqns=jaxpr.eqns[end:], invars=between)
    return tuple(jaxpr_as_fun(ClosedJaxpr(part, program.consts)) for part in (before, after))


def _maps(features: Mapping[str, Any]) -> dict[str, Map]:
    return {k: x for k, x in features.items() if isinstance(x, jax.Array) and jnp.ndim(x) == 4}
