"""SegNet (Badrinarayanan et al. 2017, "SegNet: a deep convolutional encoder-decoder architecture").

The decoder has no skip connections: it receives only the positions of the maxima in the windows of
the encoder's pooling. Pooling takes windows that stick out, as Caffe does, and unpooling restores
the recorded size, so that images of every size are legal.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32

from cnn_jax.models.fields import Factor
from cnn_jax.models.layers import BatchNorm, Conv, check_image_size, scaled
from cnn_jax.models.vgg import CHANNELS
from cnn_jax.ops.normalization import local_response_norm
from cnn_jax.ops.pooling import max_pool_with_indices, max_unpool

pool = partial(max_pool_with_indices, window=(2, 2), strides=(2, 2), ceil_mode=True)

# He et al. 2015, fan-in: the paper's initialisation (section 3.2).
he_normal = nn.initializers.he_normal()

PixelOutput = tuple[Float32[Array, "batch out_height out_width classes"], dict[str, Any]]


class SegNet(nn.Module):
    """VGG-16's 13 convolutions as encoder, and their mirror image as decoder (section 3).

    Every convolution but the last is followed by batch norm and ReLU.

    Features: `stage1` to `stage5` (the encoder's, before their pooling) and `decoder5` to
    `decoder1`.

    Attributes:
        stage_sizes: number of convolutions of each stage, of the encoder and of the decoder.
        num_classes: number of classes.
        width: multiplier of the number of channels.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int
    width: Factor = 1.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    minimum_size = 1
    # Pixels on every side of the input that the output lacks.
    margin = 0
    classifiers = ("head",)

    def legal_size(self, size: int) -> int:
        """The rows (or columns) of the smallest legal input with an output of at least `size`."""
        return size

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> PixelOutput:
        check_image_size(images, self.minimum_size, "SegNet")
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = partial(Conv, dtype=self.dtype, kernel_init=he_normal)

        def unit(x: Array, channels: int, name: str) -> Array:
            x = conv(scaled(channels, self.width), name=f"conv{name}")(x)
            return nn.relu(norm(name=f"norm{name}")(x))

        features, pooled = {}, []
        x = images
        stages = list(zip(self.stage_sizes, CHANNELS, strict=False))
        for stage, (convolutions, channels) in enumerate(stages, start=1):
            for index in range(1, convolutions + 1):
                x = unit(x, channels, f"{stage}_{index}")
            features[f"stage{stage}"] = x
            size = x.shape[1:3]
            x, indices = pool(x)
            pooled.append((size, indices))
        for stage in range(len(stages), 0, -1):
            convolutions, channels = stages[stage - 1]
            size, indices = pooled[stage - 1]
            x = max_unpool(x, indices, size)
            for index in range(convolutions, 0, -1):
                last = index == 1
                if last and stage == 1:
                    break
                # The last convolution of a stage has the channels of the next one.
                x = unit(x, stages[stage - 2][1] if last else channels, f"{stage}_{index}_decoder")
            features[f"decoder{stage}"] = x
        head = Conv(self.num_classes, kernel_init=he_normal, name="head")
        return head(x.astype(jnp.float32)), features


class SegNetBasic(nn.Module):
    """Four encoders and four decoders of one 7x7 convolution each (section 3.1).

    As its authors published it, it has 64 channels throughout, a normalisation of the image's
    contrast across its channels, batch norm after every convolution, and ReLU only in the encoder.
    It expects images in 0..255.

    Attributes:
        num_classes: number of classes.
        width: multiplier of the number of channels.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    num_classes: int
    width: Factor = 1.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    minimum_size = 1
    margin = 0
    classifiers = ("head",)

    def legal_size(self, size: int) -> int:
        """The rows (or columns) of the smallest legal input with an output of at least `size`."""
        return size

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> PixelOutput:
        check_image_size(images, self.minimum_size, "SegNet-Basic")
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = partial(Conv, scaled(64, self.width), 7, dtype=self.dtype, kernel_init=he_normal)
        features, pooled = {}, []
        x = local_response_norm(images, size=5, k=1.0, alpha=1e-4, beta=0.75, divide_by_size=True)
        for stage in range(1, 5):
            x = nn.relu(norm(name=f"norm{stage}")(conv(name=f"conv{stage}")(x)))
            features[f"stage{stage}"] = x
            size = x.shape[1:3]
            x, indices = pool(x)
            pooled.append((size, indices))
        for stage in range(4, 0, -1):
            size, indices = pooled[stage - 1]
            x = max_unpool(x, indices, size)
            x = norm(name=f"norm{stage}_decoder")(conv(name=f"conv{stage}_decoder")(x))
            features[f"decoder{stage}"] = x
        head = Conv(self.num_classes, 1, kernel_init=he_normal, name="head")
        return head(x.astype(jnp.float32)), features


segnet = partial(SegNet, stage_sizes=(2, 2, 3, 3, 3))
segnet_basic = partial(SegNetBasic)
