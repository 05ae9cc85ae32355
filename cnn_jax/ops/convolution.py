"""Convolution: one function that every model uses.

It is a primitive of JAX, with the gradients with respect to images and kernel as two more. A trace
shows each of them as one operation. What they become is decided when the trace is compiled, for
the platform that it is compiled for: on a CPU the fastest way known (`cnn_jax.ops.cpu`), elsewhere
the compiler's own convolution (`cnn_jax.ops.convolution_definition`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float

from cnn_jax.ops import convolution_definition as definition
from cnn_jax.ops.convolution_definition import Window
from cnn_jax.ops.cpu import choice


def conv(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels_per_group out_channels"],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Convolve (cross-correlate) a batch of NHWC images with a kernel.

    Equal to `jax.lax.conv_general_dilated` in values and in derivatives of every order and mode.

    Args:
        x: images or feature maps.
        kernel: filters, HWIO.
        strides: steps of the window over rows and columns.
        padding: numbers of zero rows before and after, and of zero columns.
        dilation: distances between the filter's taps, in rows and columns.
        groups: number of groups of channels that are convolved separately.
    """
    rows, columns = padding
    window = Window(
        image_size=x.shape[1:3],
        kernel_size=kernel.shape[:2],
        strides=tuple(strides),
        padding=(tuple(rows), tuple(columns)),
        dilation=tuple(dilation),
        groups=groups,
    )
    return _bind(conv_p, x, kernel, window)


def input_gradient(
    g: Float[Array, "batch out_height out_width out_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels_per_group out_channels"],
    *,
    window: Window,
) -> Float[Array, "batch height width in_channels"]:
    """Compute the gradient of `conv` with respect to its images from `g`, that of its output."""
    return _bind(input_gradient_p, g, kernel, window)


def _bind(primitive: Primitive, x: Array, kernel: Array, window: Window) -> Array:
    # Read here: `with jax.default_matmul_precision(...)` may have ended when this is compiled.
    precision = jax.config.jax_default_matmul_precision
    # Within `jax.shard_map` images differ between devices; the kernel is marked as if it did too.
    own = [jax.typeof(a).manual_axis_type.varying for a in (x, kernel)]
    x, kernel = (
        lax.pcast(a, tuple((own[0] | own[1]) - axes), to="varying")
        for a, axes in zip((x, kernel), own, strict=True)
    )
    return primitive.bind(x, kernel, window=window, precision=precision)


def _bilinear(
    name: str, defined: Callable[..., Array], on_cpu: Callable[..., Array], over_images: bool
) -> Primitive:
    """Make a primitive of two arrays.

    Args:
        name: the primitive's name in a trace.
        defined: the function of two arrays and the keyword `window` that gives its result.
        on_cpu: the same function, for a CPU.
        over_images: whether the first array and the result have images along their first axis.
    """
    primitive = Primitive(name)

    def at_precision(
        function: Callable[..., Array], a: Array, b: Array, window: Window, precision: str | None
    ) -> Array:
        with jax.default_matmul_precision(precision):
            return function(a, b, window=window)

    def abstract(*operands: Any, **params: Any) -> Any:
        return jax.make_jaxpr(partial(at_precision, defined, **params))(*operands).out_avals[0]

    def batch(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
        if over_images and axes[1] is None:
            a = jnp.moveaxis(operands[0], axes[0], 0)
            folded = a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
            out = primitive.bind(folded, operands[1], **params)
            return out.reshape(*a.shape[:2], *out.shape[1:]), 0
        return jax.vmap(partial(at_precision, defined, **params), axes)(*operands), 0

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("window", "precision")))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    for function, platform in ((defined, None), (on_cpu, "cpu")):
        lowering = mlir.lower_fun(partial(at_precision, function), multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform)
    return primitive


conv_p = _bilinear("conv", definition.convolution, choice.convolution, over_images=True)
input_gradient_p = _bilinear(
    "conv_input_gradient", definition.input_gradient, choice.input_gradient, over_images=True
)
kernel_gradient_p = _bilinear(
    "conv_kernel_gradient", definition.kernel_gradient, choice.kernel_gradient, over_images=False
)

# The transpose of each with respect to one array is another of the three.
ad.defbilinear(
    conv_p,
    lambda g, x, kernel, **params: input_gradient_p.bind(g, kernel, **params),
    lambda g, x, kernel, **params: kernel_gradient_p.bind(x, g, **params),
)
ad.defbilinear(
    input_gradient_p,
    lambda x, g, kernel, **params: conv_p.bind(x, kernel, **params),
    lambda x, g, kernel, **params: kernel_gradient_p.bind(x, g, **params),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda kernel, x, g, **params: input_gradient_p.bind(g, kernel, **params),
    lambda kernel, x, g, **params: conv_p.bind(x, kernel, **params),
)
