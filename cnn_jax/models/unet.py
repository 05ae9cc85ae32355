"""U-Net (Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical segmentation").

- `unet`: the paper's network. Its convolutions are not padded: 572 pixels give 388.
- `unet_same`: with padded convolutions, each followed by batch norm. The output is as large as the
  input.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.errors import UserError
from cnn_jax.models.fields import Factor, Rate
from cnn_jax.models.layers import BatchNorm, Conv, scaled
from cnn_jax.models.segnet import PixelOutput
from cnn_jax.ops.pooling import max_pool
from cnn_jax.ops.upsampling import bilinear, transposed_conv

# A normal distribution of variance 2 / fan-in: the paper's initialisation (section 3).
he_normal = nn.initializers.he_normal()


class UpConv(nn.Module):
    """A transposed convolution of 2x2 cells that doubles a map: the paper's up-convolution.

    Attributes:
        features: number of output channels.
        dtype: type of the computation.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        shape = (2, 2, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        y = transposed_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)


class UNet(nn.Module):
    """A contracting and an expanding path, with a skip connection between them at each level.

    Features: `stage1` to `stage5` (before their pooling) and `decoder4` to `decoder1`.

    Attributes:
        padding: padding of the 3x3 convolutions; "valid" has none, and the contracting path's maps
            are cropped about their centre to the size of the expanding path's.
        batch_norm: True puts batch norm in place of each 3x3 convolution's bias.
        num_classes: number of classes.
        upsampling: way in which the decoder enlarges maps. "transposed" is the paper's
            up-convolution to half the channels; "bilinear" has no parameters, and the convolution
            before it makes half the channels instead.
        width: multiplier of the number of channels. The paper's network has 64 to 1024.
        dropout_rate: share of units that dropout sets to zero while training. It follows the two
            deepest levels of the contracting path.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    padding: Literal["valid", "same"]
    batch_norm: bool
    num_classes: int
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    width: Factor = 1.0
    dropout_rate: Rate = 0.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    levels = 5
    classifiers = ("head",)

    @property
    def margin(self) -> int:
        """Pixels on every side of the input that the output lacks."""
        return 92 if self.padding == "valid" else 0

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image."""
        return self.legal_size(1)

    def legal_size(self, size: int) -> int:
        """The rows (or columns) of the smallest legal input with an output of at least `size`.

        A map must be even wherever it is pooled. Legal are multiples of 16, and without padding
        16k + 12 from 188 on.
        """
        if self.padding == "same":
            return -(-size // 16) * 16
        wanted = max(size + 2 * self.margin, 188)
        return -(-(wanted - 12) // 16) * 16 + 12

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> PixelOutput:
        self._check(images.shape[1], images.shape[2])
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = partial(
            Conv,
            padding=0 if self.padding == "valid" else 1,
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            kernel_init=he_normal,
        )
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)

        def double(x: Array, middle: int, channels: int, name: str) -> Array:
            for index, size in enumerate((middle, channels), start=1):
                x = conv(size, name=f"conv{name}_{index}")(x)
                if self.batch_norm:
                    x = norm(name=f"norm{name}_{index}")(x)
                x = nn.relu(x)
            return x

        widths = [scaled(64 * 2**level, self.width) for level in range(self.levels)]
        halve = 2 if self.upsampling == "bilinear" else 1
        features = {}
        x = images
        for level, channels in enumerate(widths, start=1):
            deepest = level == self.levels
            out = channels // halve if deepest else channels
            x = double(x, out, out, f"{level}")
            if level >= self.levels - 1:
                x = dropout()(x)
            features[f"stage{level}"] = x
            if not deepest:
                x = max_pool(x, (2, 2), (2, 2))
        for level in range(self.levels - 1, 0, -1):
            channels = widths[level - 1]
            if self.upsampling == "bilinear":
                x = bilinear(x)
            else:
                x = UpConv(channels, self.dtype, name=f"up{level}")(x)
            x = jnp.concatenate([center_crop(features[f"stage{level}"], x.shape[1:3]), x], axis=-1)
            out = channels // halve if level > 1 else channels
            middle = x.shape[-1] // 2 if self.upsampling == "bilinear" else channels
            x = features[f"decoder{level}"] = double(x, middle, out, f"{level}_decoder")
        head = Conv(self.num_classes, 1, kernel_init=he_normal, name="head")
        return head(x.astype(jnp.float32)), features

    def _check(self, *sizes: int) -> None:
        """Raise UserError for sizes that would be odd at some pooling."""
        for size in sizes:
            legal = self.legal_size(size - 2 * self.margin)
            if size != legal:
                rule = "16k + 12, from 188 on" if self.padding == "valid" else "multiples of 16"
                raise UserError(
                    f"U-Net: {size} rows or columns are not legal; legal are {rule}, such as "
                    f"{legal}"
                )


def center_crop(
    x: Float[Array, "batch height width channels"], size: tuple[int, int]
) -> Float[Array, "batch new_height new_width channels"]:
    """The middle `size` rows and columns of a map."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[1:3], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


unet = partial(UNet, padding="valid", batch_norm=False, dropout_rate=0.5)
unet_same = partial(UNet, padding="same", batch_norm=True)
