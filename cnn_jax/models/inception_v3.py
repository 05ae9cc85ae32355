"""Inception-v3 (Szegedy et al. 2016, "Rethinking the inception architecture for computer vision").

It is the network whose weights are in circulation (torchvision's, ported from TensorFlow), and its
layers have their names there. The paper's figures differ in details: they have no 5x5 filters.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32

from cnn_jax.models.backbones import Backbone
from cnn_jax.models.fields import Factor, Rate, Weight
from cnn_jax.models.googlenet import ConvUnit
from cnn_jax.models.layers import (
    BatchNorm,
    ModuleDef,
    NameRules,
    Output,
    Stem,
    check_image_size,
    recomputed,
)
from cnn_jax.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool


class Filters(NamedTuple):
    """A convolution: number of channels, size, and stride; with stride 2 it is not padded."""

    channels: int
    kernel_size: int | tuple[int, int]
    strides: int = 1


# Convolutions one after another; those in an inner tuple are parallel.
Branch = tuple[Filters | tuple[Filters, ...], ...]


def module_35x35(pool_channels: int) -> dict[str, Branch]:
    """Branches of a module for 35x35 maps (after Figure 5)."""
    return {
        "branch1x1": (Filters(64, 1),),
        "branch5x5": (Filters(48, 1), Filters(64, 5)),
        "branch3x3dbl": (Filters(64, 1), Filters(96, 3), Filters(96, 3)),
        "branch_pool": (Filters(pool_channels, 1),),
    }


def module_17x17(channels: int) -> dict[str, Branch]:
    """Branches of a module for 17x17 maps: 7x7 filters as rows and columns (Figure 6)."""
    row, column = (1, 7), (7, 1)
    return {
        "branch1x1": (Filters(192, 1),),
        "branch7x7": (Filters(channels, 1), Filters(channels, row), Filters(192, column)),
        "branch7x7dbl": (
            Filters(channels, 1),
            Filters(channels, column),
            Filters(channels, row),
            Filters(channels, column),
            Filters(192, row),
        ),
        "branch_pool": (Filters(192, 1),),
    }


def module_8x8() -> dict[str, Branch]:
    """Branches of a module for 8x8 maps: parallel rows and columns (Figure 7)."""
    row_and_column = (Filters(384, (1, 3)), Filters(384, (3, 1)))
    return {
        "branch1x1": (Filters(320, 1),),
        "branch3x3": (Filters(384, 1), row_and_column),
        "branch3x3dbl": (Filters(448, 1), Filters(384, 3), row_and_column),
        "branch_pool": (Filters(192, 1),),
    }


# The modules of each stage. The first of the last two halve the map (Figure 10).
INCEPTION_MODULES = {
    "stage2": {
        "Mixed_5b": module_35x35(pool_channels=32),
        "Mixed_5c": module_35x35(pool_channels=64),
        "Mixed_5d": module_35x35(pool_channels=64),
    },
    "stage3": {
        "Mixed_6a": {
            "branch3x3": (Filters(384, 3, 2),),
            "branch3x3dbl": (Filters(64, 1), Filters(96, 3), Filters(96, 3, 2)),
            "branch_pool": (),
        },
        "Mixed_6b": module_17x17(128),
        "Mixed_6c": module_17x17(160),
        "Mixed_6d": module_17x17(160),
        "Mixed_6e": module_17x17(192),
    },
    "stage4": {
        "Mixed_7a": {
            "branch3x3": (Filters(192, 1), Filters(320, 3, 2)),
            "branch7x7x3": (
                Filters(192, 1),
                Filters(192, (1, 7)),
                Filters(192, (7, 1)),
                Filters(192, 3, 2),
            ),
            "branch_pool": (),
        },
        "Mixed_7b": module_8x8(),
        "Mixed_7c": module_8x8(),
    },
}


class Mixed(nn.Module):
    """An inception module: parallel branches whose channels are concatenated.

    Attributes:
        branches: the convolutions of each branch, by name. "branch_pool" begins with 3x3 pooling:
            average pooling if convolutions follow, else max pooling of stride 2.
        unit: constructor of the convolutions.
    """

    branches: Mapping[str, Branch]
    unit: ModuleDef

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        outputs = []
        for name, branch in self.branches.items():
            y = x
            if name == "branch_pool" and branch:
                y = avg_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1)))
            elif name == "branch_pool":
                y = max_pool(x, (3, 3), (2, 2))
            for number, filters in enumerate(branch, start=1):
                suffix = f"_{number}" if len(branch) > 1 else ""
                y = self._convolve(y, filters, name + suffix)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)

    def _convolve(self, x: Array, filters: Filters | tuple[Filters, ...], name: str) -> Array:
        if isinstance(filters, Filters):
            padding = None if filters.strides == 1 else 0
            return self.unit(*filters, padding, name=name)(x)
        sides = [
            self._convolve(x, side, name + letter)
            for side, letter in zip(filters, "ab", strict=True)
        ]
        return jnp.concatenate(sides, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier of the 17x17 map that only trains, with batch normalisation (section 4).

    Attributes:
        num_classes: number of logits.
        unit: constructor of the convolutions.
    """

    num_classes: int
    unit: ModuleDef

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float32[Array, "batch classes"]:
        # On less than 17x17 cells these windows leave less than the 5x5 cells that follow read.
        large = min(x.shape[1:3]) >= 17
        x = avg_pool(x, (5, 5), (3, 3)) if large else adaptive_avg_pool(x, (5, 5))
        x = self.unit(128, 1, name="conv0")(x)
        init = nn.initializers.normal(0.01)
        x = self.unit(768, 5, padding=0, kernel_init=init, name="conv1")(x)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.001), name="fc")
        return head(global_avg_pool(x).astype(jnp.float32))


class InceptionV3(nn.Module, Backbone):
    """A stem, three stages of inception modules, and a linear classifier on the last map's mean.

    Features: `stem` and `stage1` (the convolutions before the first and the second pooling),
    `stage2` (module Mixed_5d), `stage3` (Mixed_6e), `stage4` (Mixed_7c), `pre_logits` and, while
    training, `auxiliary_logits`: those of `AuxLogits` (on Mixed_6e).

    Attributes:
        num_classes: number of logits.
        stem: entry of the network, "imagenet" as published or "small" for images of about 32
            pixels. The first makes 35x35 cells of 299x299 pixels; the second has the same
            convolutions, all padded and with stride 1, and no pooling.
        auxiliary: train auxiliary classifiers of intermediate maps too.
        auxiliary_weight: factor of each auxiliary classifier's loss.
        width: multiplier of the number of channels.
        dropout_rate: share of units that dropout sets to zero while training. It is
            applied before the classifier.
        remat: compute the blocks again in the backward pass, which needs less memory and more time.
            Only the input of each block is kept (Chen et al. 2016, arXiv 1604.06174).
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    num_classes: int = 1000
    stem: Stem = "imagenet"
    auxiliary: bool = True
    auxiliary_weight: Weight = 0.4
    width: Factor = 1.0
    dropout_rate: Rate = 0.5
    remat: bool = False
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    classifiers = ("fc", "AuxLogits.fc")
    auxiliary_heads = ("AuxLogits",)
    head_modules = ("fc", *auxiliary_heads)
    head_options = ("auxiliary", "auxiliary_weight", "dropout_rate")

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image, which leaves Mixed_7a its 3x3 cells."""
        return 7 if self.stem == "small" else 75

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Output:
        check_image_size(images, self.minimum_size, "InceptionV3")
        norm = partial(
            BatchNorm,
            epsilon=1e-3,
            use_running_average=not train,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        normal = nn.initializers.normal(0.1)
        unit = partial(ConvUnit, norm=norm, width=self.width, dtype=self.dtype, kernel_init=normal)
        features = {}

        if self.stem == "imagenet":
            strides, padding, pool = 2, 0, partial(max_pool, window=(3, 3), strides=(2, 2))
        else:
            strides, padding, pool = 1, None, lambda x: x
        x = unit(32, 3, strides, padding, name="Conv2d_1a_3x3")(images)
        x = unit(32, 3, padding=padding, name="Conv2d_2a_3x3")(x)
        x = features["stem"] = unit(64, 3, name="Conv2d_2b_3x3")(x)
        x = unit(80, 1, name="Conv2d_3b_1x1")(pool(x))
        x = features["stage1"] = unit(192, 3, padding=padding, name="Conv2d_4a_3x3")(x)
        x = pool(x)

        mixed = recomputed(Mixed, self.remat)
        for stage, modules in INCEPTION_MODULES.items():
            for name, branches in modules.items():
                x = mixed(branches, unit, name=name)(x)
            features[stage] = x
        if not self.num_classes:
            return None, features
        if train and self.auxiliary:
            head = AuxiliaryHead(self.num_classes, unit, name="AuxLogits")
            features["auxiliary_logits"] = {"AuxLogits": head(features["stage3"])}

        x = features["pre_logits"] = global_avg_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        head = nn.Dense(self.num_classes, kernel_init=normal, name="fc")
        return head(x.astype(jnp.float32)), features

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library: the same as here."""
        return {"torchvision or timm": ()}


inception_v3 = partial(InceptionV3)
