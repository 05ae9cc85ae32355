"""The cost of a model: parameters, arithmetic and memory.

Everything is read from abstract traces, which `cnn_jax.models.graph` reads too. Nothing is computed
or compiled.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from rich.console import Console
from rich.table import Table

from cnn_jax.models.backbones import Backbone

# Of more top-level modules than this, neighbours of one kind share a row.
MAX_ROWS = 24

# The kind given to a module that evaluation does not call, such as an auxiliary head.
TRAINING_ONLY = "(training)"

# A batch size by which activations are told from parameters: no parameter has such an axis.
_MANY = 9973


class Call(NamedTuple):
    """The first call of a module.

    Attributes:
        kind: the module's class.
        output: shape of the first output for one example, without the batch axis.
    """

    kind: type[nn.Module]
    output: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """The abstract forward pass of a network in evaluation.

    Attributes:
        forward: the network, called with its variables and inputs.
        variables: shapes of its variables, with those that only training uses.
        inputs: its arguments for a batch of one example.
        calls: the calls of its modules and of theirs, by path, in the order in which they end.
        backbones: names of the top-level modules that are backbones.
        jaxpr: the computation.
        output: shape of the first output for one example, without the batch axis.
    """

    forward: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]
    calls: Mapping[tuple[str, ...], Call]
    backbones: frozenset[str]
    jaxpr: Jaxpr
    output: tuple[int, ...]


def trace(model: nn.Module, *inputs: Any, variables: Any = None) -> Trace:
    """Trace the forward pass of a network.

    Args:
        model: called as `model.apply(variables, *inputs, train=False)`.
        inputs: arrays or `jax.ShapeDtypeStruct`s of a batch of one example.
        variables: the model's variables or their shapes; None derives them from the model.
    """
    if variables is None:
        key = jax.random.key(0)
        keys = {"params": key, "dropout": key}
        # Auxiliary heads have variables only in training.
        variables = jax.eval_shape(lambda *args: model.init(keys, *args, train=True), *inputs)
    calls: dict[tuple[str, ...], Call] = {}
    backbones: set[str] = set()

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if len(module.path) == 1 and isinstance(module, Backbone):
            backbones.add(module.path[0])
        output = call(*args, **kwargs)
        if len(module.path) in (1, 2) and context.method_name == "__call__":
            calls.setdefault(module.path, Call(type(module), example_shape(output)))
        return output

    def forward(variables: Any, *inputs: Any) -> Any:
        return model.apply(variables, *inputs, train=False)

    with nn.intercept_methods(record):
        program, outputs = jax.make_jaxpr(forward, return_shape=True)(variables, *inputs)
    return Trace(
        forward=forward,
        variables=variables,
        inputs=inputs,
        calls=calls,
        backbones=frozenset(backbones),
        jaxpr=program.jaxpr,
        output=example_shape(outputs),
    )


@dataclass(frozen=True)
class ModuleSummary:
    """One top-level module of a model.

    Attributes:
        name: the module's name in the parameters.
        kind: the name of its class, or `TRAINING_ONLY` if evaluation does not call it.
        parameters: number of trained numbers.
        multiply_adds: number of multiplications in its convolutions and matrix products for one
            example.
        output: shape of its first output for one example, without the batch axis.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int
    output: tuple[int, ...]


@dataclass(frozen=True)
class ModelSummary:
    """The cost of a model.

    Attributes:
        modules: the top-level modules in the order in which they are called.
        parameters: number of trained numbers.
        batch_statistics: number of running statistics.
        multiply_adds: number of multiplications in the forward pass of one example, including
            those that belong to no module. The number of FLOPs is twice this.
        parameter_bytes: memory of the parameters; the gradients need as much.
        optimizer_bytes: memory of the optimizer's state; None if no optimizer was given.
        activation_bytes: memory that one example's forward pass leaves to the backward pass. This
            is an estimate: the compiler may keep less by recomputing, or need more as work space.
        largest_bytes: memory of the largest array in one example's forward pass.
    """

    modules: tuple[ModuleSummary, ...]
    parameters: int
    batch_statistics: int
    multiply_adds: int
    parameter_bytes: int
    optimizer_bytes: int | None
    activation_bytes: int
    largest_bytes: int


def summarize(traced: Trace, optimizer: optax.GradientTransformation | None = None) -> ModelSummary:
    """Count a model's parameters, arithmetic and memory.

    Args:
        traced: its forward pass.
        optimizer: the optimizer whose state is counted; None counts none.
    """
    costs, params = _multiply_adds_by_module(traced.jaxpr), traced.variables["params"]
    calls = {
        path[0]: (call.kind.__name__, call.output)
        for path, call in traced.calls.items()
        if len(path) == 1
    }
    for name in params:
        calls.setdefault(name, (TRAINING_ONLY, ()))
    modules = tuple(
        ModuleSummary(name, kind, count(params.get(name, ())), costs.get(name, 0), output)
        for name, (kind, output) in calls.items()
        if name in params or name in costs
    )
    state = None if optimizer is None else jax.eval_shape(optimizer.init, params)
    activations = _activations(traced.forward, traced.variables, traced.inputs)
    return ModelSummary(
        modules=modules,
        parameters=count(params),
        batch_statistics=count(traced.variables.get("batch_stats", ())),
        multiply_adds=sum(costs.values()),
        parameter_bytes=tree_bytes(params),
        optimizer_bytes=None if state is None else tree_bytes(state),
        activation_bytes=sum(activations),
        largest_bytes=max(activations, default=0),
    )


def print_summary(summary: ModelSummary, console: Console, title: str = "") -> None:
    """Print the totals, and on a terminal a table of the modules before them.

    Args:
        summary: the result of `summarize`.
        console: the console to print on.
        title: the model's name and input, such as `resnet18, 224x224x3`.
    """
    if console.is_terminal:
        console.print(_table(summary, title))
    elif title:
        console.print(title, highlight=False, markup=False)
    for line in totals(summary):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def totals(summary: ModelSummary) -> list[str]:
    """Format the totals of a summary as two lines of text."""
    arithmetic = [
        f"{summary.parameters:,} parameters",
        f"{with_prefix(summary.multiply_adds).strip()} multiply-adds "
        f"({with_prefix(2 * summary.multiply_adds)}FLOPs) an example",
    ]
    if summary.batch_statistics:
        arithmetic.insert(1, f"{summary.batch_statistics:,} batch statistics")
    memory = [f"parameters {with_prefix(summary.parameter_bytes)}B"]
    memory.append(f"gradients {with_prefix(summary.parameter_bytes)}B")
    if summary.optimizer_bytes is not None:
        memory.append(f"optimizer {with_prefix(summary.optimizer_bytes)}B")
    memory.append(f"activations about {with_prefix(summary.activation_bytes)}B an example")
    return [", ".join(arithmetic), "memory: " + ", ".join(memory)]


def _table(summary: ModelSummary, title: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    table.add_column("module")
    table.add_column("kind")
    for heading in ("output", "parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
    for row in _folded(summary.modules):
        output = "x".join(str(size) for size in row.output)
        table.add_row(
            row.name, row.kind, output, f"{row.parameters:,}", with_prefix(row.multiply_adds)
        )
    return table


def _folded(modules: tuple[ModuleSummary, ...]) -> list[ModuleSummary]:
    """Merge neighbours whose names differ only in the last number, if there are many modules."""
    if len(modules) <= MAX_ROWS:
        return list(modules)
    groups: list[list[ModuleSummary]] = []
    for module in modules:
        stem = (module.name.rstrip("0123456789"), module.kind)
        if groups and stem == (groups[-1][0].name.rstrip("0123456789"), module.kind):
            groups[-1].append(module)
        else:
            groups.append([module])
    return [
        group[0]
        if len(group) == 1
        else ModuleSummary(
            name=f"{group[0].name} … {group[-1].name}",
            kind=f"{len(group)} x {group[0].kind}",
            parameters=sum(module.parameters for module in group),
            multiply_adds=sum(module.multiply_adds for module in group),
            output=group[-1].output,
        )
        for group in groups
    ]


def _multiply_adds_by_module(jaxpr: Jaxpr) -> dict[str, int]:
    """Count multiply-adds by top-level module.

    Those that belong to no module are counted under the model's own name.
    """
    costs: dict[str, int] = {}
    for equation in jaxpr.eqns:
        cost = equation_multiply_adds(equation)
        if cost:
            model, *scope = scope_of(equation)
            name = scope[0] if scope else model
            costs[name] = costs.get(name, 0) + cost
    return costs


def scope_of(equation: JaxprEqn) -> list[str]:
    """The names of the model and of the modules within it that an equation belongs to.

    flax gives the scope of every equation, such as `ResNet/stage1_block0/conv1`; a method other
    than `__call__` stands in it once more, as `FastRCNN/FastRCNN._pooled/backbone`.
    """
    names = [part.partition(".")[0] for part in str(equation.source_info.name_stack).split("/")]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def equation_multiply_adds(equation: JaxprEqn) -> int:
    """Count the multiplications of one equation, including those of the functions it calls."""
    params = equation.params
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            return equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        case "conv":  # `cnn_jax.ops.convolution.conv_p`
            kernel = equation.invars[1].aval
            return equation.outvars[0].aval.size * kernel.size // kernel.shape[3]
        case "conv_input_gradient":  # a transposed convolution
            cells, kernel = (operand.aval for operand in equation.invars)
            return cells.size * kernel.size // kernel.shape[3]
        case "conv_general_dilated":
            kernel = equation.invars[1].aval
            out_channels = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            # The dilated input of a transposed convolution consists mostly of zeros.
            dilution = math.prod(params["lhs_dilation"])
            return equation.outvars[0].aval.size * kernel.size // out_channels // dilution
        case "cond":  # Only one branch runs; the costliest is counted.
            return max(sum(map(equation_multiply_adds, b.jaxpr.eqns)) for b in params["branches"])
        case _:
            times = params["length"] if equation.primitive.name == "scan" else 1
            inner = sum(
                equation_multiply_adds(e) for called in _called(params) for e in called.eqns
            )
            return times * inner


def _called(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Iterate over the functions in an equation's parameters (of jit, scan, custom_jvp_call, …)."""
    for value in params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _activations(forward: Any, variables: Any, inputs: tuple[Any, ...]) -> list[int]:
    """List the bytes of each array that the forward pass keeps to differentiate by parameters."""

    def pull_back(variables: Any, inputs: tuple[Any, ...]) -> Any:
        def of_params(params: Any) -> Any:
            return forward({**variables, "params": params}, *inputs)

        return jax.vjp(of_params, variables["params"])[1]

    many = [jax.ShapeDtypeStruct((_MANY, *x.shape[1:]), x.dtype) for x in inputs]
    residuals = jax.eval_shape(pull_back, variables, tuple(many))
    # The pullback is a tree whose leaves are the arrays that it keeps: activations, and parameters,
    # which are counted elsewhere. Any axis may be the batch: recurrent states have time first.
    return [tree_bytes(x) // _MANY for x in jax.tree.leaves(residuals) if _MANY in x.shape]


def example_shape(tree: Any) -> tuple[int, ...]:
    """The shape of the first array of a tree, without the batch axis."""
    return next((tuple(x.shape[1:]) for x in jax.tree.leaves(tree)), ())


def count(tree: Any) -> int:
    """Return the number of numbers in the arrays of a tree, or in their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: Any) -> int:
    """Return the bytes of the arrays of a tree, or of their shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def with_prefix(number: int) -> str:
    """Format a number with four digits and a decimal prefix, such as `1.814 G`."""
    for prefix, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.4g} {prefix}"
    return f"{number} "
