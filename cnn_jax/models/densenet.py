"""DenseNet (Huang et al. 2017, "Densely connected convolutional networks").

Inside a block every layer reads all the feature maps made before it and appends a few of its own.
The networks here are the paper's DenseNet-BC (section 3): layers with a bottleneck, and
transitions that compress the channels.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.models.backbones import Backbone
from cnn_jax.models.fields import Factor, Rate, Share
from cnn_jax.models.layers import (
    BatchNorm,
    Conv,
    ModuleDef,
    NameRules,
    Output,
    Stem,
    check_image_size,
    recomputed,
    scaled,
    uniform_fan_in,
)
from cnn_jax.ops.pooling import avg_pool, global_avg_pool, max_pool


class DenseLayer(nn.Module):
    """A layer that appends `growth_rate` channels to its input.

    It is norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution.

    Attributes:
        growth_rate: number of channels that the layer adds, the paper's k; the bottleneck has four
            times as many.
        conv, norm, dropout: constructors of the layers.
    """

    growth_rate: int
    conv: ModuleDef
    norm: ModuleDef
    dropout: ModuleDef

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width more_channels"]:
        y = nn.relu(self.norm(name="norm1")(x))
        y = self.dropout()(self.conv(4 * self.growth_rate, 1, name="conv1")(y))
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.dropout()(self.conv(self.growth_rate, 3, name="conv2")(y))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution to a fraction of the channels, and 2x2 average pooling.

    Attributes:
        compression: fraction of the channels that is kept, the paper's theta.
        conv, norm, dropout: constructors of the layers.
    """

    compression: float
    conv: ModuleDef
    norm: ModuleDef
    dropout: ModuleDef

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width fewer_channels"]:
        channels = int(self.compression * x.shape[-1])
        y = nn.relu(self.norm(name="norm")(x))
        y = self.dropout()(self.conv(channels, 1, name="conv")(y))
        return avg_pool(y, (2, 2), (2, 2))


class DenseNet(nn.Module, Backbone):
    """A stem, blocks of dense layers with transitions between them, and a linear classifier.

    Features: `stem` (before its pooling), `stage1`, `stage2`, ... (the output of each block; of the
    last one after norm and ReLU) and `pre_logits`.

    Attributes:
        block_sizes: number of layers of each dense block.
        growth_rate: number of channels that a layer adds, the paper's k.
        num_classes: number of logits.
        stem: entry of the network, "imagenet" as published or "small" for images of about 32
            pixels. The first is a 7x7 convolution of stride 2, norm, ReLU and a 3x3 max pooling of
            stride 2; the second is a 3x3 convolution of stride 1.
        compression: fraction of the channels that a transition keeps, the paper's theta.
        width: multiplier of the number of channels. It multiplies the growth rate.
        dropout_rate: share of units that dropout sets to zero while training. It
            follows every convolution but the first; the paper has 0.2 where it does not augment
            (section 4.2).
        remat: compute the blocks again in the backward pass, which needs less memory and more time.
            Only the input of each block is kept (Chen et al. 2016, arXiv 1604.06174).
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    block_sizes: tuple[int, ...]
    growth_rate: int
    num_classes: int = 1000
    stem: Stem = "imagenet"
    compression: Share = 0.5
    width: Factor = 1.0
    dropout_rate: Rate = 0.0
    remat: bool = False
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    classifiers = ("classifier",)
    head_modules = ("classifier",)

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image: every transition halves them, unpadded."""
        after_stem = 2 ** (len(self.block_sizes) - 1)
        return after_stem if self.stem == "small" else 4 * after_stem - 3

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Output:
        check_image_size(images, self.minimum_size, "DenseNet")
        # Initialised after He et al. 2015, as in section 4.2.
        conv = partial(
            Conv, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.he_normal()
        )
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        layers = {"conv": conv, "norm": norm, "dropout": dropout}
        dense_layer = recomputed(DenseLayer, self.remat)
        growth_rate = scaled(self.growth_rate, self.width)
        features = {}

        if self.stem == "imagenet":
            x = conv(2 * growth_rate, 7, strides=2, name="conv0")(images)
            x = features["stem"] = nn.relu(norm(name="norm0")(x))
            x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        else:
            x = features["stem"] = conv(2 * growth_rate, 3, name="conv0")(images)

        for block, size in enumerate(self.block_sizes, start=1):
            if block > 1:
                x = Transition(self.compression, **layers, name=f"transition{block - 1}")(x)
            for layer in range(1, size + 1):
                name = f"denseblock{block}_denselayer{layer}"
                x = dense_layer(growth_rate, **layers, name=name)(x)
            features[f"stage{block}"] = x
        x = features[f"stage{block}"] = nn.relu(norm(name="norm5")(x))
        if not self.num_classes:
            return None, features

        x = features["pre_logits"] = global_avg_pool(x)
        head = nn.Dense(self.num_classes, kernel_init=uniform_fan_in, name="classifier")
        return head(x.astype(jnp.float32)), features

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library.

        Inside the layers, torchvision's published files write `norm.1` where its network has
        `norm1`.
        """
        rules = ((r"^(denseblock\d+)_", r"\1."), (r"^(?!classifier)", "features."))
        published = (*rules, (r"(denselayer\d+\.(?:norm|conv))(\d)$", r"\1.\2"))
        return {"torchvision or timm": rules, "torchvision's published files": published}


# Table 1; the widest is called 161 after its depth, as in its authors' release.
densenet121 = partial(DenseNet, block_sizes=(6, 12, 24, 16), growth_rate=32)
densenet161 = partial(DenseNet, block_sizes=(6, 12, 36, 24), growth_rate=48)
densenet169 = partial(DenseNet, block_sizes=(6, 12, 32, 32), growth_rate=32)
densenet201 = partial(DenseNet, block_sizes=(6, 12, 48, 32), growth_rate=32)

# Table 2, L = 100, k = 12: the first convolution, 3 blocks of 16 layers of two convolutions,
# 2 transitions and the classifier.
densenet_bc_100_12 = partial(DenseNet, block_sizes=(16, 16, 16), growth_rate=12, stem="small")
# L = 40: 6 layers a block.
densenet_bc_40_12 = partial(DenseNet, block_sizes=(6, 6, 6), growth_rate=12, stem="small")
