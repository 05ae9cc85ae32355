"""Fully convolutional networks (Shelhamer et al. 2017, "Fully convolutional networks ...").

VGG-16 with its linear layers as convolutions. Class scores of one, two or three depths are enlarged
and added up: FCN-32s, FCN-16s and FCN-8s (section 4). The paper pads the image by 100 pixels to
make all sizes legal; here pooling takes windows that stick out, and scores are cropped to the
recorded sizes.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.models.fields import Factor, Rate
from cnn_jax.models.layers import Conv, check_image_size, scaled
from cnn_jax.models.segnet import PixelOutput
from cnn_jax.models.vgg import CHANNELS
from cnn_jax.ops.pooling import max_pool
from cnn_jax.ops.upsampling import bilinear, bilinear_init, bilinear_padding, transposed_conv

STAGE_SIZES = (2, 2, 3, 3, 3)


class ScoreUpsampling(nn.Module):
    """A transposed convolution that doubles maps and starts as bilinear interpolation.

    Attributes:
        dtype: type of the computation.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width channels"]:
        shape = (4, 4, x.shape[-1], x.shape[-1])
        kernel = self.param("kernel", bilinear_init, shape, jnp.float32)
        return transposed_conv(
            x.astype(self.dtype), kernel.astype(self.dtype), 2, bilinear_padding(2)
        )


class FCN(nn.Module):
    """VGG-16 with class scores at strides of 32, 16 and 8 pixels.

    The scores' layers start from zero and their learnt upsampling from bilinear interpolation; the
    last upsampling, to the image's size, stays bilinear (section 4.3).

    Features: `stage1` to `stage5` (before their pooling), `pre_logits`.

    Attributes:
        stride: stride of the finest scores in pixels.
        num_classes: number of classes.
        width: multiplier of the number of channels.
        dropout_rate: share of units that dropout sets to zero while training. It follows each of
            the two convolutions that were linear layers.
        dtype: type of the computation.
    """

    stride: Literal[8, 16, 32]
    num_classes: int
    width: Factor = 1.0
    dropout_rate: Rate = 0.5
    dtype: Dtype = jnp.float32

    minimum_size = 1
    # Pixels on every side of the input that the output lacks.
    margin = 0
    classifiers = ("score", "score4", "score3", "up5", "up4")

    def legal_size(self, size: int) -> int:
        """The rows (or columns) of the smallest legal input with an output of at least `size`."""
        return size

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> PixelOutput:
        check_image_size(images, self.minimum_size, "FCN")
        conv = partial(Conv, dtype=self.dtype)
        score = partial(Conv, self.num_classes, 1, kernel_init=nn.initializers.zeros_init())
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        features, pooled = {}, {}
        x = images
        for stage, (convolutions, channels) in enumerate(
            zip(STAGE_SIZES, CHANNELS, strict=True), start=1
        ):
            for index in range(1, convolutions + 1):
                x = nn.relu(conv(scaled(channels, self.width), name=f"conv{stage}_{index}")(x))
            features[f"stage{stage}"] = x
            x = pooled[stage] = max_pool(x, (2, 2), (2, 2), ceil_mode=True)
        hidden = scaled(4096, self.width)
        x = dropout()(nn.relu(conv(hidden, 7, name="conv6")(x)))
        x = features["pre_logits"] = dropout()(nn.relu(conv(hidden, 1, name="conv7")(x)))
        x = score(name="score")(x.astype(jnp.float32))
        for stage, stride in ((4, 16), (3, 8)):
            if self.stride <= stride:
                skipped = score(name=f"score{stage}")(pooled[stage].astype(jnp.float32))
                x = ScoreUpsampling(name=f"up{stage + 1}")(x)
                x = x[:, : skipped.shape[1], : skipped.shape[2]] + skipped
        height, width = images.shape[1:3]
        return bilinear(x, self.stride)[:, :height, :width], features


fcn32s = partial(FCN, stride=32)
fcn16s = partial(FCN, stride=16)
fcn8s = partial(FCN, stride=8)
