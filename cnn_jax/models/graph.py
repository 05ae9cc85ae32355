"""The graph of a network: its modules, what they cost, and which reads what of which.

Everything is read from the abstract trace of `cnn_jax.models.summary`.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from cnn_jax.models.layers import BatchNorm
from cnn_jax.models.summary import (
    TRAINING_ONLY,
    Trace,
    count,
    equation_multiply_adds,
    example_shape,
    scope_of,
)

INPUT = -1
"""The number of the network's input in an edge."""

Edge = tuple[int, int]


@dataclass(frozen=True)
class Unit:
    """One module of a network: a top-level one, or one of its backbone.

    Attributes:
        name: the path of its parameters, such as `backbone/stage1_block0`.
        kind: the name of its class, or `TRAINING_ONLY` if evaluation does not call it.
        output: shape of its output for one example, without the batch axis.
        parameters: number of trained numbers.
        multiply_adds: number of multiplications in its convolutions and matrix products.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Block:
    """Units that follow one another, at one resolution and with names that only end otherwise.

    Attributes:
        units: the units, in the order of their calls.
        level: how often maps are halved up to their output, less how often they are doubled.
    """

    units: tuple[Unit, ...]
    level: int


@dataclass(frozen=True)
class Graph:
    """A network.

    Attributes:
        input, output: shapes of one example's input and first output, without the batch axis.
        blocks: the blocks, in the order of their calls.
        edges: pairs (from, to) of numbers of blocks; `to` reads what `from` gives, perhaps after
            operations of no module, such as pooling. `INPUT` is the input.
        parameters, multiply_adds: of the whole network, those of no module included.
    """

    input: tuple[int, ...]
    output: tuple[int, ...]
    blocks: tuple[Block, ...]
    edges: tuple[Edge, ...]
    parameters: int
    multiply_adds: int


def graph(traced: Trace) -> Graph:
    """Find the graph of a network in its forward pass."""
    variables, jaxpr = traced.variables, traced.jaxpr
    calls = {
        path: call
        for path, call in traced.calls.items()
        if len(path) == (2 if path[0] in traced.backbones else 1)
    }
    costs = [(_scope(e, calls), equation_multiply_adds(e)) for e in jaxpr.eqns]
    units: dict[tuple[str, ...], Unit] = {}
    for path, (kind, output) in calls.items():
        parameters = count(_at(variables["params"], path))
        cost = sum(c for scope, c in costs if scope == path)
        if parameters or cost:
            units[path] = Unit("/".join(path), kind.__name__, output, parameters, cost)
    edges = _edges(jaxpr, len(jax.tree.leaves(variables)), units)
    size = example_shape(traced.inputs)
    blocks, edges = _blocks(*_with_norms(list(units.values()), edges), size)
    unused = [name for name in variables["params"] if name not in {path[0] for path in calls}]
    for name in unused:
        only = Unit(name, TRAINING_ONLY, (), count(variables["params"][name]), 0)
        blocks.append(Block((only,), 0))
    return Graph(
        input=size,
        output=traced.output,
        blocks=tuple(blocks),
        edges=tuple(sorted(edges)),
        parameters=count(variables["params"]),
        multiply_adds=sum(cost for _, cost in costs),
    )


def _at(params: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        params = params.get(name, {})
    return params


def _scope(equation: JaxprEqn, paths: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The path of the unit that an equation belongs to; None for no unit's."""
    _, *scope = scope_of(equation)
    return next((p for p in (tuple(scope[:1]), tuple(scope[:2])) if p in paths), None)


def _edges(jaxpr: Jaxpr, variables: int, units: dict[tuple[str, ...], Unit]) -> set[Edge]:
    """The pairs of units of which the second reads what the first gives."""
    numbers = {path: number for number, path in enumerate(units)}
    origins: dict[Any, frozenset[int]] = {v: frozenset([INPUT]) for v in jaxpr.invars[variables:]}
    edges: set[Edge] = set()
    for equation in jaxpr.eqns:
        read = [origins.get(v, frozenset()) for v in equation.invars if not isinstance(v, Literal)]
        origin = frozenset().union(*read)
        number = numbers.get(_scope(equation, units))
        if number is not None:
            edges |= {(other, number) for other in origin if other != number}
            origin = frozenset([number])
        origins.update(dict.fromkeys(equation.outvars, origin))
    return edges


def _with_norms(units: list[Unit], edges: set[Edge]) -> tuple[list[Unit], set[Edge]]:
    """The units with each normalisation joined to the one before it, if it reads only that."""
    kept: list[Unit] = []
    place: dict[int, int] = {INPUT: INPUT}
    for number, unit in enumerate(units):
        read = {start for start, end in edges if end == number}
        if unit.kind == BatchNorm.__name__ and kept and {place[r] for r in read} == {len(kept) - 1}:
            last = kept[-1]
            kept[-1] = replace(
                last,
                kind=f"{last.kind} + {unit.kind}",
                output=unit.output,
                parameters=last.parameters + unit.parameters,
            )
        else:
            kept.append(unit)
        place[number] = len(kept) - 1
    return kept, _renumbered(edges, place)


def _blocks(
    units: list[Unit], edges: set[Edge], size: tuple[int, ...]
) -> tuple[list[Block], set[Edge]]:
    """The blocks of units, and the edges between them."""
    groups: list[list[Unit]] = []
    place: dict[int, int] = {INPUT: INPUT}
    keys: list[tuple[str, int]] = []
    level, before = 0, size
    for number, unit in enumerate(units):
        if len(unit.output) == len(size) == 3:  # what is no map stays at the level of the last one
            level += round(math.log2(before[0] / unit.output[0]))
            before = unit.output
        key = (re.sub(r"_[a-z]*\d*$|\d+[a-z]?$", "", unit.name), level)
        if not keys or key != keys[-1]:
            keys.append(key)
            groups.append([])
        groups[-1].append(unit)
        place[number] = len(groups) - 1
    blocks = [Block(tuple(g), level) for g, (_, level) in zip(groups, keys, strict=True)]
    return blocks, _renumbered(edges, place)


def _renumbered(edges: set[Edge], place: dict[int, int]) -> set[Edge]:
    renumbered = {(place[start], place[end]) for start, end in edges}
    return {(start, end) for start, end in renumbered if start != end}
