"""AlexNet, in two forms.

- `alexnet_paper`: Krizhevsky et al. 2012 ("ImageNet classification with deep convolutional neural
  networks"), the network on two GPUs, written as groups of channels.
- `alexnet`: its one-tower form, Krizhevsky 2014 ("One weird trick for parallelizing convolutional
  neural networks"), with torchvision's 64 filters in the first layer.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from cnn_jax.models.backbones import Backbone
from cnn_jax.models.fields import Factor, Rate
from cnn_jax.models.layers import (
    Conv,
    MapDense,
    NameRules,
    Output,
    Stem,
    check_image_size,
    scaled,
    uniform_fan_in,
)
from cnn_jax.ops.normalization import local_response_norm
from cnn_jax.ops.pooling import adaptive_avg_pool, max_pool

zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
overlapping_max_pool = partial(max_pool, window=(3, 3), strides=(2, 2))


class AlexNet(nn.Module, Backbone):
    """Five convolutions, three followed by overlapping max pooling, and three linear layers.

    The paper's network has two groups of channels in its second, fourth and fifth convolution,
    local response normalisation after the first two, and no padding in the first: its map is 55x55
    for an image of 227x227. The one-tower network pads the first by two pixels: 55x55 for 224x224.
    Both read a map of 6x6 cells in their classifier; images of another size are averaged to it.

    Features: `stage1`, `stage2` (the first two convolutions), `stage3` (the other three), all
    before their pooling, and `pre_logits`.

    Attributes:
        paper: True for the paper's network, False for the one-tower form.
        num_classes: number of logits.
        stem: entry of the network, "imagenet" as published or "small" for images of about 32
            pixels. The first starts with an 11x11 convolution of stride 4; the second with a 3x3
            convolution of stride 1, and its classifier reads the 3x3 cells that 32 pixels leave.
        width: multiplier of the number of channels. Hidden units are multiplied too.
        dropout_rate: share of units that dropout sets to zero while training. It is
            applied to the output of the two hidden linear layers in the paper, to their input in
            the one-tower form.
        dtype: type of the computation.
    """

    paper: bool
    num_classes: int = 1000
    stem: Stem = "imagenet"
    width: Factor = 1.0
    dropout_rate: Rate = 0.5
    dtype: Dtype = jnp.float32

    classifiers = ("head",)
    head_modules = ("dense1", "dense2", "head")
    flattened = ("dense1",)
    head_options = ("dropout_rate",)

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest image that gives the last pooling a whole window."""
        if self.stem == "small":
            return 15
        return 67 if self.paper else 63

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Output:
        check_image_size(images, self.minimum_size, "AlexNet")
        channels = (96, 256, 384, 384, 256) if self.paper else (64, 192, 384, 256, 256)
        groups = 2 if self.paper else 1
        kernel_init = nn.initializers.normal(0.01) if self.paper else uniform_fan_in
        # Section 5: positive inputs to these ReLUs speed up the beginning of training.
        bias_init = ones if self.paper else zeros
        conv1, conv2, conv3, conv4, conv5 = (
            partial(
                Conv,
                scaled(count, self.width, groups),
                dtype=self.dtype,
                kernel_init=kernel_init,
                name=f"conv{layer}",
            )
            for layer, count in enumerate(channels, start=1)
        )
        hidden = {
            "features": scaled(4096, self.width),
            "dtype": self.dtype,
            "kernel_init": kernel_init,
            "bias_init": bias_init,
        }
        normalize = local_response_norm if self.paper else lambda x: x
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        features = {}

        if self.stem == "small":
            x = conv1(3)(images)
        else:
            x = conv1(11, strides=4, padding=0 if self.paper else 2)(images)
        x = features["stage1"] = normalize(nn.relu(x))
        x = overlapping_max_pool(x)
        x = nn.relu(conv2(5, groups=groups, bias_init=bias_init)(x))
        x = features["stage2"] = normalize(x)
        x = overlapping_max_pool(x)
        x = nn.relu(conv3(3)(x))
        x = nn.relu(conv4(3, groups=groups, bias_init=bias_init)(x))
        x = features["stage3"] = nn.relu(conv5(3, groups=groups, bias_init=bias_init)(x))
        if not self.num_classes:
            return None, features

        x = overlapping_max_pool(x)
        x = adaptive_avg_pool(x, (3, 3) if self.stem == "small" else (6, 6))
        if not self.paper:
            x = dropout()(x)
        x = nn.relu(MapDense(**hidden, name="dense1")(x))
        x = dropout()(x)
        x = features["pre_logits"] = nn.relu(nn.Dense(**hidden, name="dense2")(x))
        if self.paper:
            x = dropout()(x)
        head = nn.Dense(self.num_classes, kernel_init=kernel_init, name="head")
        return head(x.astype(jnp.float32)), features

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library."""
        return {
            "torchvision": (
                ("^conv1$", "features.0"),
                ("^conv2$", "features.3"),
                ("^conv3$", "features.6"),
                ("^conv4$", "features.8"),
                ("^conv5$", "features.10"),
                ("^dense1$", "classifier.1"),
                ("^dense2$", "classifier.4"),
                ("^head$", "classifier.6"),
            )
        }


alexnet = partial(AlexNet, paper=False)
alexnet_paper = partial(AlexNet, paper=True)
