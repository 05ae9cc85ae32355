"""An encoder that is any registered backbone, and a decoder with any of six ways of upsampling.

The decoder is the U-Net's with two 3x3 convolutions a level, as widely used with pretrained
encoders. Its way of upsampling and its skip connections, which Badrinarayanan et al. 2017 (table 1)
compare, are options.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.models import backbones
from cnn_jax.models.backbones import by_resolution, checked_stage, up_to
from cnn_jax.models.fields import Count, Factor
from cnn_jax.models.layers import BatchNorm, Conv, NameRules, check_image_size, scaled
from cnn_jax.models.segnet import PixelOutput
from cnn_jax.ops import upsampling
from cnn_jax.ops.pooling import max_pool_with_indices, max_unpool

Upsampling = Literal["nearest", "bilinear", "cubic", "gaussian", "transposed", "unpool"]
Size = tuple[int, int]

_FILTERS = {
    "nearest": upsampling.nearest,
    "cubic": upsampling.cubic,
    "gaussian": upsampling.gaussian,
}

# Channels of the coarsest level's decoder; each finer one has half, but not below the second.
MOST_CHANNELS, FEWEST_CHANNELS = 256, 16

# The modules that a classifier's file of weights does not hold. No backbone has more levels.
DECODER_MODULES = (
    "head",
    *(
        name.format(level)
        for level in range(1, 9)
        for name in ("up{}", "up{}.projection", "conv{}_1", "norm{}_1", "conv{}_2", "norm{}_2")
    ),
)


class Upsample(nn.Module):
    """Enlargement of a map to the size of a finer one.

    The map is enlarged by a whole factor. If the sizes are no multiples of each other, it is then
    cropped at its end, or its last rows and columns are repeated.

    Attributes:
        method: "nearest", "bilinear", "cubic" and "gaussian" have no parameters. "transposed" is a
            transposed convolution that starts as bilinear interpolation. "unpool" is a 1x1
            convolution to the finer map's channels, whose values go where the finer map's own max
            pooling finds its maxima.
        dtype: type of the computation.
    """

    method: Upsampling
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        size: Size,
        finer: Float[Array, "batch new_height new_width finer_channels"] | None = None,
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Enlarge `x` to `size`; "unpool" without a `finer` map is bilinear."""
        factor = max(1, *(round(new / old) for new, old in zip(size, x.shape[1:3], strict=True)))
        if factor == 1:
            return fitted(x, size)
        if self.method == "unpool" and finer is not None:
            x = Conv(finer.shape[-1], 1, dtype=self.dtype, name="projection")(x)
            _, indices = max_pool_with_indices(finer, (factor,) * 2, (factor,) * 2, ceil_mode=True)
            return max_unpool(fitted(x, indices.shape[1:3]), indices, size, (factor,) * 2)
        if self.method == "transposed":
            taps = len(upsampling.bilinear_filter(factor))
            shape = (taps, taps, x.shape[-1], x.shape[-1])
            kernel = self.param("kernel", upsampling.bilinear_init, shape, jnp.float32)
            padding = upsampling.bilinear_padding(factor)
            kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
            return fitted(upsampling.transposed_conv(x, kernel, factor, padding), size)
        return fitted(_FILTERS.get(self.method, upsampling.bilinear)(x, factor), size)


class EncoderDecoder(nn.Module):
    """A decoder that joins a backbone's maps from the coarsest to the finest.

    Features: the backbone's, and `decoder1`, `decoder2`, ... from the coarsest on.

    Attributes:
        backbone: a classifier without its head.
        backbone_name: name of its architecture, for messages.
        num_classes: number of classes.
        upsampling: way in which the decoder enlarges maps. `Upsample` describes each.
        skip_connections: False builds a decoder that receives no map of the encoder but the
            coarsest, and from "unpool" the places of the maxima (Badrinarayanan et al. 2017).
        stage: name of the map of the backbone at which the encoder ends, by default its last one.
        output_stride: stride in pixels of the map at which the decoder ends. It ends at the first
            map of at most this stride, and logits are enlarged from there by bilinear
            interpolation: less work, and coarser borders.
        width: multiplier of the number of channels.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    backbone: nn.Module
    backbone_name: str
    num_classes: int
    upsampling: Upsampling = "bilinear"
    skip_connections: bool = True
    stage: str | None = None
    output_stride: Count = 1
    width: Factor = 1.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    # Pixels on every side of the input that the output lacks.
    margin = 0
    classifiers = DECODER_MODULES

    @classmethod
    def on_backbone(
        cls, backbone: nn.Module, backbone_name: str, stage: str | None = None, **fields: Any
    ) -> "EncoderDecoder":
        """Create the network on a backbone that ends at a stage.

        Args:
            backbone: a classifier without its head.
            backbone_name: name of its architecture, for messages.
            stage: name of its last map; None takes them all.
            **fields: the other fields.

        Raises:
            UserError: the backbone has no such map.
        """
        if stage is not None:
            backbone = backbone.truncated(checked_stage(backbone, backbone_name, stage))
        return cls(backbone, backbone_name, stage=stage, **fields)

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image."""
        return self.backbone.minimum_size

    def legal_size(self, size: int) -> int:
        """The rows (or columns) of the smallest legal input with an output of at least `size`."""
        return max(size, self.minimum_size)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> PixelOutput:
        check_image_size(images, self.minimum_size, self.backbone_name)
        _, features = self.backbone(images, train=train)
        if self.stage is not None:
            features = up_to(features, self.stage)
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = partial(Conv, use_bias=False, dtype=self.dtype)

        x, *finer = reversed(by_resolution(features))
        # At the image's own size there is nothing to join.
        levels: list[Any] = [*finer]
        if (levels[-1] if levels else x).shape[1:3] != images.shape[1:3]:
            levels.append(None)
        for level, skipped in enumerate(levels, start=1):
            if x.shape[1] * self.output_stride >= images.shape[1]:
                break
            size = images.shape[1:3] if skipped is None else skipped.shape[1:3]
            x = Upsample(self.upsampling, self.dtype, name=f"up{level}")(x, size, skipped)
            if skipped is not None and self.skip_connections:
                x = jnp.concatenate([x, skipped], axis=-1)
            channels = max(MOST_CHANNELS >> (level - 1), FEWEST_CHANNELS)
            for index in (1, 2):
                x = conv(scaled(channels, self.width), name=f"conv{level}_{index}")(x)
                x = nn.relu(norm(name=f"norm{level}_{index}")(x))
            features[f"decoder{level}"] = x
        logits = Conv(self.num_classes, name="head")(x.astype(jnp.float32))
        return Upsample("bilinear", name="enlarged")(logits, images.shape[1:3]), features

    @property
    def optional_modules(self) -> tuple[str, ...]:
        """Names of modules that this network lacks and a file of pretrained weights may hold."""
        return backbones.optional_modules(self.backbone)

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the backbone's modules, by library."""
        return backbones.pretrained_names(self.backbone)


def fitted(
    x: Float[Array, "batch height width channels"], size: Size
) -> Float[Array, "batch new_height new_width channels"]:
    """Crop a map to `size` at its end, or repeat its last rows and columns."""
    x = x[:, : size[0], : size[1]]
    missing = [(0, want - have) for want, have in zip(size, x.shape[1:3], strict=True)]
    return jnp.pad(x, ((0, 0), *missing, (0, 0)), mode="edge")
