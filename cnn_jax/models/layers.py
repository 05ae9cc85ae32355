"""The layers that every architecture is built from.

Parameters and batch statistics are float32; `dtype` is the type of a layer's computation.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32

from cnn_jax.conventions import BATCH_NORM_MOMENTUM
from cnn_jax.errors import UserError
from cnn_jax.ops.convolution import conv

Initializer = Callable[..., jax.Array]
# A layer's constructor with some of its arguments bound, or a block's class.
ModuleDef = Callable[..., Any]
# A classifier's output: the class scores (None without a head), and feature maps by name of stage.
Output = tuple[Float32[Array, "batch classes"] | None, dict[str, Any]]
# "imagenet" is the paper's entry to the network, "small" the one for images of about 32 pixels.
Stem = Literal["imagenet", "small"]
# Rules that turn the dotted path of one of our modules into another library's name for it: each
# (pattern, replacement) is applied in turn with `re.sub`.
NameRules = tuple[tuple[str, str], ...]

# He et al. 2015 ("Delving deep into rectifiers", section 2.2), fan-out: what torchvision's
# ResNets and VGGs start from.
he_normal_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform in +-1/sqrt(fan_in): the default of torch's layers.
uniform_fan_in: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def recomputed(block: ModuleDef, remat: bool) -> ModuleDef:
    """The block, or one of which the backward pass has only the input, and computes the rest again.

    Chen et al. 2016, "Training deep nets with sublinear memory cost", section 3. The parameters are
    the same; the class alone has another name.
    """
    if not remat:
        return block
    if isinstance(block, partial):
        return partial(nn.remat(block.func), *block.args, **block.keywords)
    return nn.remat(block)


class Conv(nn.Module):
    """Convolution of NHWC feature maps with explicit, symmetric padding.

    Attributes:
        features: number of output channels.
        kernel_size: rows and columns of the filter, or one number for both.
        strides: stride of the window.
        padding: zeros on every side, one number or (rows, columns); None keeps the size at
            stride 1.
        dilation: spacing of the filter's taps.
        groups: number of channel groups.
        use_bias: True adds a bias.
        dtype: type of the computation.
        kernel_init, bias_init: initialisers.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    strides: int | tuple[int, int] = 1
    padding: int | tuple[int, int] | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = he_normal_fan_out
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        kernel_size, strides = _pair(self.kernel_size), _pair(self.strides)
        if self.padding is None:
            padding = tuple(self.dilation * (k - 1) // 2 for k in kernel_size)
        else:
            padding = _pair(self.padding)
        shape = (*kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=strides,
            padding=[(p, p) for p in padding],
            dilation=_pair(self.dilation),
            groups=self.groups,
        )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y = y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)
        return y


# Linear layer on a whole map. Its kernel [height, width, channels, features] keeps the map's axes
# apart, so that weights of libraries that flatten maps in another order can be told apart too.
MapDense = partial(nn.DenseGeneral, axis=(-3, -2, -1))


class BatchNorm(nn.BatchNorm):
    """Batch normalisation (Ioffe & Szegedy 2015), statistics in float32.

    A momentum of 0.9 for the old statistics is torch's 0.1 for the new ones. The running variance
    is the batch's own, where torch keeps the unbiased n / (n - 1) of it. Call with
    `use_running_average=not train` and, to average the batch's statistics over mapped devices,
    `axis_name`.
    """

    momentum: float = BATCH_NORM_MOMENTUM

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        # flax mixes the input, which may be bfloat16, with its statistics.
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(*args, **kwargs)


def on_axis(module: nn.Module, axis_name: str | None) -> nn.Module:
    """Let a network average its batch statistics over a mapped axis.

    Args:
        module: a network outside of any other; its backbone, if any, is treated alike.
        axis_name: the axis, as of `jax.pmap`; None returns the module as it is.

    Returns:
        The network with `axis_name` set in every module that has such a field.
    """
    if axis_name is None:
        return module
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name == "axis_name":
            changes["axis_name"] = axis_name
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = on_axis(value, axis_name)
    return module.clone(**changes) if changes else module


def scaled(channels: int, width: float, divisor: int = 1) -> int:
    """Multiply `channels` by `width` and round to a positive multiple of `divisor`."""
    return max(divisor, round(channels * width / divisor) * divisor)


def check_image_size(
    images: Float[Array, "batch height width channels"], minimum_size: int, name: str
) -> None:
    """Raise UserError if `images` are too small for the network called `name`.

    Args:
        images: input of the network.
        minimum_size: rows and columns of the smallest image that leaves every map a cell.
        name: for the message.
    """
    height, width = images.shape[1:3]
    if min(height, width) < minimum_size:
        raise UserError(
            f"{name}: images of {height}x{width} pixels are too small; "
            f"the smallest legal size is {minimum_size}x{minimum_size}"
        )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
