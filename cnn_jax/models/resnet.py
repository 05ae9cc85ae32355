"""Residual networks, all from two blocks.

- ResNet 18 to 152: He et al. 2016 ("Deep residual learning for image recognition"), with the
  stride in a bottleneck's 3x3 convolution as in torchvision ("v1.5").
- ResNet 20 to 110 for CIFAR: the same paper, section 4.2.
- ResNeXt: Xie et al. 2017 ("Aggregated residual transformations for deep neural networks").
- Wide ResNet: Zagoruyko & Komodakis 2016 ("Wide residual networks"), the bottleneck form.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.errors import UserError
from cnn_jax.models.backbones import Backbone
from cnn_jax.models.fields import Factor, Rate, structural
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
from cnn_jax.ops.pooling import global_avg_pool, max_pool

# The way from a block's input to its output if their shapes differ (He et al., section 3.3): a 1x1
# convolution (option B), or subsampling with zeros as the new channels, without parameters (A).
# Without any shortcut the network is the paper's plain one (section 3.3, "Plain network").
Shortcut = Literal["projection", "pad", "none"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them.

    Attributes:
        channels: number of channels of both convolutions.
        strides: stride of the first convolution.
        conv, norm: constructors of the layers.
        shortcut: form of a shortcut between maps of different shapes; "none" for no shortcut.
        last_scale_init: initialiser of the last normalisation's scale.
    """

    channels: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    shortcut: Shortcut
    last_scale_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        y = self.conv(self.channels, 3, self.strides, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.channels, 3, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=self.last_scale_init)(y)
        return nn.relu(_joined(self, x, y))


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt) and 1x1 convolutions and the shortcut around them.

    Attributes:
        channels: the stage's base number of channels; the output has `expansion` times as many.
        strides: stride of the 3x3 convolution.
        conv, norm: constructors of the layers.
        shortcut: form of a shortcut between maps of different shapes; "none" for no shortcut.
        last_scale_init: initialiser of the last normalisation's scale.
        groups: number of groups of the 3x3 convolution.
        group_width: channels of each group where `channels` is 64; in proportion elsewhere.
    """

    channels: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    shortcut: Shortcut
    last_scale_init: nn.initializers.Initializer
    groups: int = 1
    group_width: int = 64
    expansion: int = 4

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        inner = max(1, self.channels * self.group_width // 64) * self.groups
        y = self.conv(inner, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(inner, 3, self.strides, groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.channels * self.expansion, 1, name="conv3")(y)
        y = self.norm(name="norm3", scale_init=self.last_scale_init)(y)
        return nn.relu(_joined(self, x, y))


def _joined(
    block: BasicBlock | Bottleneck,
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width out_channels"],
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Add `x`, brought to the shape of `y`, to it; parameters for this belong to `block`."""
    if block.shortcut == "none":
        return y
    if x.shape == y.shape:
        return y + x
    if block.shortcut == "pad":
        x = x[:, :: block.strides, :: block.strides]
        return y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))
    x = block.conv(y.shape[-1], 1, block.strides, name="shortcut_conv")(x)
    return y + block.norm(name="shortcut_norm")(x)


class ResNet(nn.Module, Backbone):
    """A stem, stages of residual blocks, and a linear classifier on the mean of the last map.

    Every stage after the first halves the map and doubles the channels.

    Features: `stem` (before its pooling), `stage1`, `stage2`, ... and `pre_logits`.

    Attributes:
        block: the residual block.
        stage_sizes: number of blocks of each stage.
        channels: base number of channels of the first stage.
        num_classes: number of logits.
        stem: entry of the network, "imagenet" as published or "small" for images of about 32
            pixels. The first is a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2;
            the second is a 3x3 convolution of stride 1.
        shortcut: shortcut between maps of different shapes, a 1x1 convolution ("projection") or
            zeros as the new channels ("pad"). With "none" no block has a shortcut.
        width: multiplier of the number of channels.
        dropout_rate: share of units that dropout sets to zero while training. It is
            applied before the classifier.
        zero_init_residual: start every block as the identity (Goyal et al. 2017, section 5.1). The
            scale of its last normalisation starts at zero.
        remat: compute the blocks again in the backward pass, which needs less memory and more time.
            Only the input of each block is kept (Chen et al. 2016, arXiv 1604.06174).
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
        stages: number of stages that are built; None builds them all.
    """

    block: ModuleDef
    stage_sizes: tuple[int, ...]
    channels: int
    num_classes: int = 1000
    stem: Stem = "imagenet"
    shortcut: Shortcut = "projection"
    width: Factor = 1.0
    dropout_rate: Rate = 0.0
    zero_init_residual: bool = False
    remat: bool = False
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    stages: int | None = structural(None)

    # All windows are padded, so that one pixel is enough for every map.
    minimum_size = 1
    classifiers = ("head",)
    head_modules = ("head",)
    head_options = ("dropout_rate",)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Output:
        check_image_size(images, self.minimum_size, "ResNet")
        if self.zero_init_residual and self.shortcut == "none":
            raise UserError("zero_init_residual: blocks without a shortcut would give only zeros")
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        channels = scaled(self.channels, self.width)
        features = {}

        kernel_size, strides = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(channels, kernel_size, strides, name="stem_conv")(images)
        x = features["stem"] = nn.relu(norm(name="stem_norm")(x))
        if self.stem == "imagenet":
            x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

        make_block = partial(
            recomputed(self.block, self.remat),
            conv=conv,
            norm=norm,
            shortcut=self.shortcut,
            last_scale_init=nn.initializers.constant(0.0 if self.zero_init_residual else 1.0),
        )
        for stage, blocks in enumerate(self.stage_sizes[: self.stages], start=1):
            for index in range(blocks):
                strides = 2 if stage > 1 and index == 0 else 1
                x = make_block(channels, strides, name=f"stage{stage}_block{index}")(x)
            features[f"stage{stage}"] = x
            channels *= 2
        if not self.num_classes:
            return None, features

        x = features["pre_logits"] = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = nn.Dense(self.num_classes, kernel_init=uniform_fan_in, name="head")
        return head(x.astype(jnp.float32)), features

    def truncated(self, stage: str) -> "ResNet":
        """The network up to a stage, without a head; later stages have no parameters."""
        return self.clone(num_classes=0, stages=int(stage.removeprefix("stage")))

    @property
    def optional_modules(self) -> tuple[str, ...]:
        """Names of modules that this network may lack and a file of pretrained weights may hold."""
        built = len(self.stage_sizes[: self.stages])
        blocks = (
            f"stage{stage}_block{index}"
            for stage, size in enumerate(self.stage_sizes, start=1)
            for index in range(size)
            if stage > built
        )
        return (*super().optional_modules, *blocks)

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library."""
        return {
            "torchvision or timm": (
                (r"^stem_conv$", "conv1"),
                (r"^stem_norm$", "bn1"),
                (r"^stage(\d+)_block(\d+)", r"layer\1.\2"),
                (r"shortcut_conv$", "downsample.0"),
                (r"shortcut_norm$", "downsample.1"),
                (r"norm(\d)$", r"bn\1"),
                (r"^head$", "fc"),
            )
        }


imagenet_resnet = partial(ResNet, channels=64)
resnet18 = partial(imagenet_resnet, block=BasicBlock, stage_sizes=(2, 2, 2, 2))
resnet34 = partial(imagenet_resnet, block=BasicBlock, stage_sizes=(3, 4, 6, 3))
resnet50 = partial(imagenet_resnet, block=Bottleneck, stage_sizes=(3, 4, 6, 3))
resnet101 = partial(imagenet_resnet, block=Bottleneck, stage_sizes=(3, 4, 23, 3))
resnet152 = partial(imagenet_resnet, block=Bottleneck, stage_sizes=(3, 8, 36, 3))

resnext50_32x4d = partial(resnet50, block=partial(Bottleneck, groups=32, group_width=4))
resnext101_32x8d = partial(resnet101, block=partial(Bottleneck, groups=32, group_width=8))
resnext101_64x4d = partial(resnet101, block=partial(Bottleneck, groups=64, group_width=4))
wide_resnet50_2 = partial(resnet50, block=partial(Bottleneck, group_width=128))
wide_resnet101_2 = partial(resnet101, block=partial(Bottleneck, group_width=128))

cifar_resnet = partial(ResNet, block=BasicBlock, channels=16, stem="small", shortcut="pad")
resnet20 = partial(cifar_resnet, stage_sizes=(3, 3, 3))
resnet32 = partial(cifar_resnet, stage_sizes=(5, 5, 5))
resnet44 = partial(cifar_resnet, stage_sizes=(7, 7, 7))
resnet56 = partial(cifar_resnet, stage_sizes=(9, 9, 9))
resnet110 = partial(cifar_resnet, stage_sizes=(18, 18, 18))
