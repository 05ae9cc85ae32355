"""ONNX programs of trained runs, through jax2onnx, for `experiments.export`."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.ops import convolution_definition as definition

Arrays = Mapping[str, Any]
Program = Callable[[Arrays], dict[str, jax.Array]]

TOLERANCE = 1e-5
"""The largest difference of an output in ONNX Runtime, relative to the output's largest value."""


def converted(program: Program, inputs: Arrays, batch: Arrays) -> bytes:
    """The program as an ONNX model that gives the same outputs in ONNX Runtime.

    Args:
        program: from arrays by name to arrays by name, with the weights in it.
        inputs: the shapes and types of its inputs; the first axis is symbolic.
        batch: a batch to compare the outputs on.

    Raises:
        UserError: a library is missing, lacks an operation of the program, or computes something
            else.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'cnn_jax[onnx]'") from None
    _register_convolution()
    expected = jax.device_get(_on_cpu(program, batch))

    def of_values(*values: jax.Array) -> tuple[jax.Array, ...]:
        outputs = program(dict(zip(inputs, values, strict=True)))
        return tuple(outputs[name] for name in expected)

    with _quiet():
        try:
            model = jax2onnx.to_onnx(
                of_values,
                inputs=list(inputs.values()),
                input_names=list(inputs),
                output_names=list(expected),
            )
            content = model.SerializeToString()
            options = onnxruntime.SessionOptions()
            # Its warnings are about shapes that it works out itself.
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(content, options)
            outputs = session.run(list(expected), dict(batch))
        except Exception as error:  # Each of the libraries raises many kinds.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"--format onnx: jax2onnx {version('jax2onnx')} cannot convert this run "
                f"({reason}); --format stablehlo can"
            ) from error
    for (name, x), output in zip(expected.items(), outputs, strict=True):
        largest = max(1.0, float(np.max(np.abs(x))))
        if not np.allclose(output, x, rtol=TOLERANCE, atol=TOLERANCE * largest):
            raise UserError(
                f"--format onnx: {name} of the program converted by jax2onnx "
                f"{version('jax2onnx')} is not that of the run; --format stablehlo is"
            )
    return content


def _on_cpu(program: Program, batch: Arrays) -> dict[str, jax.Array]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(program)(dict(batch))


def _register_convolution() -> None:
    """Let jax2onnx convert this project's primitive as the compiler's own convolution."""
    from jax2onnx.plugins import plugin_system

    @plugin_system.register_primitive(
        jaxpr_primitive="conv", component="conv", context="", since="", testcases=[]
    )
    class _Convolution(plugin_system.PrimitiveLeafPlugin):
        def lower(self, ctx: Any, eqn: Any) -> None:
            defined = partial(definition.convolution, window=eqn.params["window"])
            (own,) = jax.make_jaxpr(defined)(*(x.aval for x in eqn.invars)).eqns
            plugin = plugin_system.PLUGIN_REGISTRY[own.primitive.name]
            plugin.lower(ctx, eqn.replace(primitive=own.primitive, params=own.params))


@contextlib.contextmanager
def _quiet() -> Any:
    """Leave out the converter's warnings: what it computes is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
