"""VGG with and without batch norm.

Simonyan & Zisserman 2015 ("Very deep convolutional networks for large-scale image recognition").
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.models.backbones import Backbone, HiddenLayers
from cnn_jax.models.fields import Factor, Rate
from cnn_jax.models.layers import (
    BatchNorm,
    Conv,
    MapDense,
    NameRules,
    Output,
    Stem,
    check_image_size,
    scaled,
)
from cnn_jax.ops.pooling import adaptive_avg_pool, max_pool

# Channels of the convolutions of each stage (Table 1).
CHANNELS = (64, 128, 256, 512, 512)

# torchvision's initialisation of the linear layers.
normal = nn.initializers.normal(0.01)


class VGG(nn.Module, Backbone):
    """Five stages of 3x3 convolutions, each followed by 2x2 max pooling, and three linear layers.

    Features: `stage1` to `stage5` (before their pooling) and `pre_logits`.

    Attributes:
        stage_sizes: number of convolutions of each stage.
        batch_norm: True puts a batch normalisation after each convolution.
        num_classes: number of logits.
        stem: entry of the network, "imagenet" as published or "small" for images of about 32
            pixels. The first pools the last map to 7x7 cells for the classifier, the second to the
            one cell that 32 pixels leave. The convolutions are the same.
        subsampling: what halves a map: "pooling" as published, or "strides" of 2 in the next
            stage's first convolution, with as many parameters (Springenberg et al. 2015, "Striving
            for simplicity: the all convolutional net"). The last map is then not halved.
        width: multiplier of the number of channels. Hidden units are multiplied too.
        dropout_rate: share of units that dropout sets to zero while training. It
            follows each of the two hidden linear layers.
        dtype: type of the computation.
        axis_name: mapped axis that batch statistics are averaged over.
    """

    stage_sizes: tuple[int, int, int, int, int]
    batch_norm: bool
    num_classes: int = 1000
    stem: Stem = "imagenet"
    subsampling: Literal["pooling", "strides"] = "pooling"
    width: Factor = 1.0
    dropout_rate: Rate = 0.5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    minimum_size = 32
    classifiers = ("head",)
    head_modules = ("dense1", "dense2", "head")
    flattened = ("dense1",)
    head_options = ("dropout_rate",)
    # Fast R-CNN's hidden layers are those of the classifier, fc6 and fc7.
    hidden_layers = HiddenLayers(4096, normal, ("dense1", "dense2"))

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Output:
        check_image_size(images, self.minimum_size, "VGG")
        norm = partial(
            BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        hidden = scaled(4096, self.width)
        pooling = self.subsampling == "pooling"
        features = {}

        x = images
        for stage, (convolutions, channels) in enumerate(
            zip(self.stage_sizes, CHANNELS, strict=True), start=1
        ):
            for index in range(1, convolutions + 1):
                x = Conv(
                    scaled(channels, self.width),
                    strides=2 if index == 1 < stage and not pooling else 1,
                    dtype=self.dtype,
                    name=f"conv{stage}_{index}",
                )(x)
                if self.batch_norm:
                    x = norm(name=f"norm{stage}_{index}")(x)
                x = nn.relu(x)
            features[f"stage{stage}"] = x
            if pooling:
                x = max_pool(x, (2, 2), (2, 2))
        if not self.num_classes:
            return None, features

        x = adaptive_avg_pool(x, (7, 7) if self.stem == "imagenet" else (1, 1))
        x = MapDense(hidden, dtype=self.dtype, kernel_init=normal, name="dense1")(x)
        x = dropout()(nn.relu(x))
        x = nn.Dense(hidden, dtype=self.dtype, kernel_init=normal, name="dense2")(x)
        x = features["pre_logits"] = nn.relu(x)
        head = nn.Dense(self.num_classes, kernel_init=normal, name="head")
        return head(dropout()(x).astype(jnp.float32)), features

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library.

        Both libraries count all layers of the stages: convolution, batch norm if any, ReLU, ...,
        pooling.
        """
        stages, index = [], 0
        for stage, convolutions in enumerate(self.stage_sizes, start=1):
            for convolution in range(1, convolutions + 1):
                stages.append((f"^conv{stage}_{convolution}$", f"features.{index}"))
                stages.append((f"^norm{stage}_{convolution}$", f"features.{index + 1}"))
                index += 3 if self.batch_norm else 2
            index += 1
        return {
            "torchvision": (
                *stages,
                ("^dense1$", "classifier.0"),
                ("^dense2$", "classifier.3"),
                ("^head$", "classifier.6"),
            ),
            "timm": (
                *stages,
                ("^dense1$", "pre_logits.fc1"),
                ("^dense2$", "pre_logits.fc2"),
                ("^head$", "head.fc"),
            ),
        }


vgg11 = partial(VGG, stage_sizes=(1, 1, 2, 2, 2), batch_norm=False)
vgg13 = partial(VGG, stage_sizes=(2, 2, 2, 2, 2), batch_norm=False)
vgg16 = partial(VGG, stage_sizes=(2, 2, 3, 3, 3), batch_norm=False)
vgg19 = partial(VGG, stage_sizes=(2, 2, 4, 4, 4), batch_norm=False)

vgg11_bn = partial(vgg11, batch_norm=True)
vgg13_bn = partial(vgg13, batch_norm=True)
vgg16_bn = partial(vgg16, batch_norm=True)
vgg19_bn = partial(vgg19, batch_norm=True)
