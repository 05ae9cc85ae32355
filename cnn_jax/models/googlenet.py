"""GoogLeNet (Szegedy et al. 2015, "Going deeper with convolutions").

In two forms: the paper's, with biases, local response normalisation and 5x5 filters; and the one
whose weights are in circulation (torchvision's, ported from TensorFlow), with a batch
normalisation after every convolution, 3x3 filters where the paper has 5x5, and a smaller last
pooling window.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32

from cnn_jax.models.backbones import Backbone
from cnn_jax.models.fields import Factor, Rate, Weight
from cnn_jax.models.layers import (
    BatchNorm,
    Conv,
    Initializer,
    MapDense,
    ModuleDef,
    NameRules,
    Output,
    Stem,
    check_image_size,
    recomputed,
    scaled,
)
from cnn_jax.ops.normalization import local_response_norm
from cnn_jax.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool

# torchvision's initialisation.
normal = nn.initializers.normal(0.01)

# The modules of each stage and the channels of their convolutions (Table 1): 1x1 | 3x3 reduce,
# 3x3 | 5x5 reduce, 5x5 | projection of the pooled input.
INCEPTION_MODULES = {
    "stage2": {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
    },
    "stage3": {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    "stage4": {
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    },
}

# The modules whose output an auxiliary classifier reads (section 5).
AUXILIARY_HEADS = {"4a": "aux1", "4d": "aux2"}


class ConvUnit(nn.Module):
    """A convolution, a batch normalisation or a bias, and ReLU.

    Attributes:
        channels: number of output channels, before `width` multiplies it.
        kernel_size, strides, padding: arguments of `Conv`.
        norm: constructor of the normalisation; None puts a bias in its place.
        width: multiplies the number of channels.
        dtype: type of the computation.
        kernel_init: initialiser of the filters.
    """

    channels: int
    kernel_size: int | tuple[int, int]
    strides: int = 1
    padding: int | None = None
    norm: ModuleDef | None = None
    width: float = 1.0
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = normal

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        x = Conv(
            scaled(self.channels, self.width),
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=self.norm is None,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        return nn.relu(x if self.norm is None else self.norm(name="bn")(x))


class Inception(nn.Module):
    """Four parallel branches whose channels are concatenated (Figure 2b).

    Attributes:
        channels: numbers of channels of the convolutions, as in `INCEPTION_MODULES`.
        large_filter: size of the third branch's filters.
        unit: constructor of the convolutions.
    """

    channels: tuple[int, ...]
    large_filter: int
    unit: ModuleDef

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width out_channels"]:
        small, medium_reduce, medium, large_reduce, large, projection = self.channels
        branch1 = self.unit(small, 1, name="branch1")(x)
        branch2 = self.unit(medium_reduce, 1, name="branch2_0")(x)
        branch2 = self.unit(medium, 3, name="branch2_1")(branch2)
        branch3 = self.unit(large_reduce, 1, name="branch3_0")(x)
        branch3 = self.unit(large, self.large_filter, name="branch3_1")(branch3)
        branch4 = max_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1)))
        branch4 = self.unit(projection, 1, name="branch4_1")(branch4)
        return jnp.concatenate([branch1, branch2, branch3, branch4], axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier of an intermediate map, trained for its gradient's sake (section 5).

    Attributes:
        num_classes: number of logits.
        hidden: number of channels between the two linear layers.
        overlapping: True averages over the paper's windows, 5x5 with stride 3, where those make 4x4
            cells. False, and maps of other sizes, average over a 4x4 partition.
        dropout_rate: dropout rate of the hidden channels.
        unit, dense: constructors of the convolution and the first linear layer.
    """

    num_classes: int
    hidden: int
    overlapping: bool
    dropout_rate: float
    unit: ModuleDef
    dense: ModuleDef

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float32[Array, "batch classes"]:
        if self.overlapping and all(14 <= cells <= 16 for cells in x.shape[1:3]):
            x = avg_pool(x, (5, 5), (3, 3))
        else:
            x = adaptive_avg_pool(x, (4, 4))
        x = self.unit(128, 1, name="conv")(x)
        x = nn.relu(self.dense(self.hidden, name="fc1")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=False)(x)
        return nn.Dense(self.num_classes, kernel_init=normal, name="fc2")(x.astype(jnp.float32))


class GoogLeNet(nn.Module, Backbone):
    """A stem, three stages of inception modules, and a linear classifier on the last map's mean.

    Features: `stem` and `stage1` (the first and the last of the convolutions before the modules),
    `stage2` (module 3b), `stage3` (4e), `stage4` (5b), `pre_logits` and, while training,
    `auxiliary_logits`: those of `aux1` (on module 4a) and `aux2` (on 4d).

    Attributes:
        batch_norm: True has batch normalisation everywhere; False has biases everywhere and local
            response normalisation before and after the first 3x3 convolution.
        large_filter: size of the filters of the branches that the paper calls 5x5.
        last_pool: window of the max pooling before the last stage.
        kernel_init: initialiser of all layers but the classifiers.
        num_classes: number of logits.
        stem: entry of the network, "imagenet" as published or "small" for images of about 32
            pixels. The first starts with a 7x7 convolution of stride 2 and pools twice before the
            modules; the second starts with a 3x3 convolution of stride 1 and does not pool there.
        auxiliary: train auxiliary classifiers of intermediate maps too.
        auxiliary_weight: factor of each auxiliary classifier's loss.
        width: multiplier of the number of channels.
        dropout_rate: share of units that dropout sets to zero while training. It is
            applied before the classifier.
        auxiliary_dropout_rate: dropout rate inside the auxiliary classifiers.
        remat: compute the blocks again in the backward pass, which needs less memory and more time.
            Only the input of each block is kept (Chen et al. 2016, arXiv 1604.06174).
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    batch_norm: bool
    large_filter: int
    last_pool: int
    kernel_init: Initializer
    num_classes: int = 1000
    stem: Stem = "imagenet"
    auxiliary: bool = True
    auxiliary_weight: Weight = 0.3
    width: Factor = 1.0
    dropout_rate: Rate = 0.2
    auxiliary_dropout_rate: Rate = 0.7
    remat: bool = False
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    classifiers = ("fc", "aux1.fc2", "aux2.fc2")
    auxiliary_heads = ("aux1", "aux2")
    flattened = ("aux1.fc1", "aux2.fc1")
    head_modules = ("fc", *auxiliary_heads)
    head_options = ("auxiliary", "auxiliary_weight", "dropout_rate", "auxiliary_dropout_rate")

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image; a pooling window may lack one cell."""
        stage3 = self.last_pool - 1
        return 2 * stage3 if self.stem == "small" else 16 * stage3 - 1

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Output:
        check_image_size(images, self.minimum_size, "GoogLeNet")
        norm = partial(
            BatchNorm,
            epsilon=1e-3,
            use_running_average=not train,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        unit = partial(
            ConvUnit,
            norm=norm if self.batch_norm else None,
            width=self.width,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )
        auxiliary_head = partial(
            AuxiliaryHead,
            self.num_classes,
            hidden=scaled(1024, self.width),
            overlapping=not self.batch_norm,
            dropout_rate=self.auxiliary_dropout_rate,
            unit=unit,
            dense=partial(MapDense, dtype=self.dtype, kernel_init=self.kernel_init),
        )
        normalize = (lambda x: x) if self.batch_norm else local_response_norm
        features = {}

        if self.stem == "imagenet":
            x = features["stem"] = unit(64, 7, strides=2, name="conv1")(images)
            x = _halve(x)
        else:
            x = features["stem"] = unit(64, 3, name="conv1")(images)
        x = unit(64, 1, name="conv2")(normalize(x))
        x = features["stage1"] = normalize(unit(192, 3, name="conv3")(x))
        if self.stem == "imagenet":
            x = _halve(x)

        auxiliary = self.auxiliary and self.num_classes > 0
        auxiliary_logits = {}
        inception = recomputed(Inception, self.remat)
        for stage, modules in INCEPTION_MODULES.items():
            if stage == "stage3":
                x = _halve(x)
            elif stage == "stage4":
                x = _halve(x, self.last_pool)
            for module, channels in modules.items():
                x = inception(channels, self.large_filter, unit, name=f"inception{module}")(x)
                if train and auxiliary and module in AUXILIARY_HEADS:
                    head = AUXILIARY_HEADS[module]
                    auxiliary_logits[head] = auxiliary_head(name=head)(x)
            features[stage] = x
        if auxiliary_logits:
            features["auxiliary_logits"] = auxiliary_logits
        if not self.num_classes:
            return None, features

        x = features["pre_logits"] = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = nn.Dense(self.num_classes, kernel_init=normal, name="fc")
        return head(x.astype(jnp.float32)), features

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library; timm has no GoogLeNet."""
        return {"torchvision": ((r"branch(\d)_(\d)", r"branch\1.\2"),)}


def _halve(
    x: Float[Array, "batch height width channels"], window: int = 3
) -> Float[Array, "batch half_height half_width channels"]:
    """Halve a map by max pooling, rounding up, so that 112 cells make 56, 28, 14 and 7."""
    return max_pool(x, (window, window), (2, 2), ceil_mode=True)


# The paper does not say what it starts from. Without batch normalisation the signal keeps its scale
# through 22 layers if that is after He et al. 2015.
googlenet_paper = partial(
    GoogLeNet,
    batch_norm=False,
    large_filter=5,
    last_pool=3,
    kernel_init=nn.initializers.he_normal(),
    dropout_rate=0.4,
)
googlenet = partial(GoogLeNet, batch_norm=True, large_filter=3, last_pool=2, kernel_init=normal)
