"""YOLO's networks (Redmon et al. 2016, "You only look once"), from an image to a grid of cells.

Each cell of the grid gives `boxes_per_cell` times (x, y, width, height, confidence) and a number
for each class; `cnn_jax.ops.grid` defines them.

- `yolo`: the paper's 24 convolutions and two linear layers (section 2.1, figure 3).
- `fast_yolo`: nine convolutions with fewer filters; as in the authors' configuration, a linear
  layer of 256 before the two.
- any classifier of `cnn_jax.models` as the backbone of `GridDetector`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32

from cnn_jax.errors import UserError
from cnn_jax.models import backbones
from cnn_jax.models.backbones import by_resolution
from cnn_jax.models.fields import Count, Factor, Rate
from cnn_jax.models.layers import BatchNorm, Conv, MapDense, NameRules, check_image_size, scaled
from cnn_jax.ops.pooling import max_pool

GridOutput = tuple[Float32[Array, "batch grid grid outputs"], dict[str, Any]]

# (channels, kernel size, stride) of a convolution.
Layer = tuple[int, int, int]

# He et al. 2015, fan-in, as in darknet but normal instead of uniform.
he_normal: nn.initializers.Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# The outputs start near 0.
small_normal: nn.initializers.Initializer = nn.initializers.normal(0.01)

leaky_relu = partial(nn.leaky_relu, negative_slope=0.1)


class Yolo(nn.Module):
    """Stages of convolutions with a max pooling between them, then linear layers.

    Features: `stage1`, `stage2`, ... (before their pooling) and `pre_outputs`.

    Attributes:
        stages: the convolutions of each stage.
        hidden: units of each linear layer before the last, and True for a leaky rectifier after it.
        num_classes: number of classes.
        grid: number of cells on a side of the grid.
        boxes_per_cell: number of boxes that each cell of the grid predicts.
        batch_norm: put a batch normalisation in place of each convolution's bias. The authors'
            later configurations have it, the paper's network has not.
        width: multiplier of the number of channels. Hidden units are multiplied too.
        dropout_rate: share of units that dropout sets to zero while training. It follows the last
            hidden layer.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    stages: tuple[tuple[Layer, ...], ...]
    hidden: tuple[tuple[int, bool], ...]
    num_classes: int
    grid: Count = 7
    boxes_per_cell: Count = 2
    batch_norm: bool = False
    width: Factor = 1.0
    dropout_rate: Rate = 0.5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    # 64 pixels are one cell of the last map.
    minimum_size = 64
    classifiers = ("head",)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> GridOutput:
        check_image_size(images, self.minimum_size, "YOLO")
        unit = partial(
            _unit,
            batch_norm=self.batch_norm,
            train=train,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        features = {}
        x = images
        for stage, layers in enumerate(self.stages, start=1):
            for index, (channels, kernel_size, strides) in enumerate(layers, start=1):
                name = f"{stage}_{index}"
                x = unit(x, name, scaled(channels, self.width), kernel_size, strides)
            features[f"stage{stage}"] = x
            if stage < len(self.stages):
                x = max_pool(x, (2, 2), (2, 2))
        for index, (units, leaky) in enumerate(self.hidden, start=1):
            dense = MapDense if index == 1 else nn.Dense
            x = dense(
                scaled(units, self.width),
                dtype=self.dtype,
                kernel_init=he_normal,
                name=f"dense{index}",
            )(x)
            x = leaky_relu(x) if leaky else x
        features["pre_outputs"] = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        outputs = self.boxes_per_cell * 5 + self.num_classes
        head = nn.Dense(self.grid**2 * outputs, kernel_init=small_normal, name="head")
        y = head(x.astype(jnp.float32))
        return y.reshape(-1, self.grid, self.grid, outputs), features


class GridDetector(nn.Module):
    """A backbone, two 3x3 convolutions on one of its maps, and the outputs of each cell.

    The map is the coarsest one with at least `grid` cells on a side. If it has twice as many, the
    first convolution halves it.

    Features: the backbone's, and `pre_outputs`.

    Attributes:
        backbone: a classifier without its head.
        backbone_name: name of its architecture, for messages.
        num_classes: number of classes.
        grid: number of cells on a side of the grid.
        boxes_per_cell: number of boxes that each cell of the grid predicts.
        width: multiplier of the number of channels. The two convolutions have 256.
        dropout_rate: share of units that dropout sets to zero while training. It is applied before
            the outputs.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    backbone: nn.Module
    backbone_name: str
    num_classes: int
    grid: Count = 7
    boxes_per_cell: Count = 2
    width: Factor = 1.0
    dropout_rate: Rate = 0.0
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    classifiers = ("conv1", "norm1", "conv2", "norm2", "head")

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image."""
        return self.backbone.minimum_size

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> GridOutput:
        check_image_size(images, self.minimum_size, self.backbone_name)
        _, features = self.backbone(images, train=train)
        maps = by_resolution(features)
        x = next((m for m in reversed(maps) if min(m.shape[1:3]) >= self.grid), maps[0])
        strides = x.shape[1] // self.grid
        if x.shape[1:3] != (strides * self.grid,) * 2 or strides > 2:
            sides = ", ".join(str(m.shape[1]) for m in maps)
            raise UserError(
                f"grid {self.grid}: the maps of {self.backbone_name} have {sides} cells on a "
                f"side for images of {images.shape[1]}x{images.shape[2]} pixels; grid must "
                "be one of these, or half of one"
            )
        unit = partial(
            _unit, batch_norm=True, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        channels = scaled(256, self.width)
        x = unit(x, "1", channels, 3, strides)
        x = features["pre_outputs"] = unit(x, "2", channels, 3, 1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        outputs = self.boxes_per_cell * 5 + self.num_classes
        head = Conv(outputs, 1, kernel_init=small_normal, name="head")
        return head(x.astype(jnp.float32)), features

    @property
    def optional_modules(self) -> tuple[str, ...]:
        """Names of modules that this network lacks and a file of pretrained weights may hold."""
        return backbones.optional_modules(self.backbone)

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the backbone's modules, by library."""
        return backbones.pretrained_names(self.backbone)


def _unit(
    x: Float[Array, "batch height width channels"],
    name: str,
    channels: int,
    kernel_size: int,
    strides: int,
    *,
    batch_norm: bool,
    train: bool,
    dtype: Dtype,
    axis_name: str | None,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Apply a convolution, a batch normalisation if asked for, and a leaky rectifier."""
    x = Conv(
        channels,
        kernel_size,
        strides,
        use_bias=not batch_norm,
        dtype=dtype,
        kernel_init=he_normal,
        name=f"conv{name}",
    )(x)
    if batch_norm:
        norm = BatchNorm(
            use_running_average=not train, dtype=dtype, axis_name=axis_name, name=f"norm{name}"
        )
        x = norm(x)
    return leaky_relu(x)


yolo = partial(
    Yolo,
    stages=(
        ((64, 7, 2),),
        ((192, 3, 1),),
        ((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1)),
        (*((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1)),
        (
            *((512, 1, 1), (1024, 3, 1)) * 2,
            (1024, 3, 1),
            (1024, 3, 2),
            (1024, 3, 1),
            (1024, 3, 1),
        ),
    ),
    hidden=((4096, True),),
)
fast_yolo = partial(
    Yolo,
    stages=(
        *(((channels, 3, 1),) for channels in (16, 32, 64, 128, 256, 512)),
        ((1024, 3, 1), (1024, 3, 1), (1024, 3, 1)),
    ),
    hidden=((256, False), (4096, True)),
)
