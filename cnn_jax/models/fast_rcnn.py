"""Fast R-CNN (Girshick 2015, "Fast R-CNN") on any registered backbone.

The backbone sees the whole image once; every region of its map then passes two hidden layers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32, Int

from cnn_jax.errors import UserError
from cnn_jax.models import backbones
from cnn_jax.models.backbones import checked_stage, stride, strides
from cnn_jax.models.fields import Count, Factor, Rate, structural
from cnn_jax.models.layers import Initializer, MapDense, NameRules, check_image_size, scaled
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.roi_align import roi_align
from cnn_jax.ops.roi_pooling import roi_pool

# Scores [batch, regions, 1 + classes], the background first, and encoded boxes by class.
RegionOutput = tuple[
    Float32[Array, "batch regions scores"], Float32[Array, "batch regions classes 4"]
]


class FastRCNN(nn.Module):
    """A backbone's map, RoI pooling, two linear layers, and one linear layer for each output.

    Attributes:
        backbone: a classifier without its head.
        backbone_name: name of its architecture, for messages.
        num_classes: number of classes, without the background.
        stage: the backbone's map that regions are pooled from, by default the last one with a
            stride of at most 16 pixels. `on_backbone` chooses it.
        pooling: the paper's RoI pooling ("max"), or RoIAlign of He et al. 2017 ("align").
        pool_size: rows and columns of a region's pooled map. The paper has 7 for VGG-16 and 6 for
            the smaller networks.
        units: number of units of each of the two hidden layers, by default the backbone's own (4096
            in VGG, else 1024) times the width.
        width: multiplier of the number of channels. It multiplies the default of `units`.
        dropout_rate: share of units that dropout sets to zero while training. It follows each of
            the two hidden layers.
        dtype: type of the computation. Outputs are float32.
        ranks: ranks of the two hidden layers' matrices after `truncated`; None keeps them whole.
    """

    backbone: nn.Module
    backbone_name: str
    num_classes: int
    stage: str | None = None
    pooling: Literal["max", "align"] = "max"
    pool_size: Count = 7
    units: Count | None = None
    width: Factor = 1.0
    dropout_rate: Rate = 0.5
    dtype: Dtype = jnp.float32
    ranks: tuple[int, int] | None = structural(None)

    @classmethod
    def on_backbone(
        cls, backbone: nn.Module, backbone_name: str, stage: str | None = None, **fields: Any
    ) -> "FastRCNN":
        """Create the network on a backbone that ends at the map that regions are pooled from.

        Args:
            backbone: a classifier without its head.
            backbone_name: name of its architecture, for messages.
            stage: name of the map; None takes the last one with a stride of at most 16 pixels.
            **fields: the other fields.

        Raises:
            UserError: the backbone has no such map.
        """
        if stage is None:
            stages = strides(backbone)
            stage = max((s for s, pixels in stages.items() if pixels <= 16), default=min(stages))
        else:
            checked_stage(backbone, backbone_name, stage)
        return cls(backbone.truncated(stage), backbone_name, stage=stage, **fields)

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image."""
        return self.backbone.minimum_size

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The modules that a classifier's file of weights does not hold."""
        outputs = ("cls_score", "bbox_pred")
        return outputs if self.backbone.hidden_layers.modules else (*outputs, "fc6", "fc7")

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        boxes: Float[Array, "batch regions 4"],
        train: bool = False,
        sides: Sequence[int] = (),
    ) -> RegionOutput:
        """Compute scores and encoded boxes of every region.

        Args:
            images: normalised images; squares if `sides` are given.
            boxes: regions in pixels of the images.
            train: True uses the batch's own statistics and drops units.
            sides: sides in pixels of the squares that the images are scaled to; none leaves them as
                they are. With several, each region is pooled at the side that brings its area
                closest to that of a square of 224 pixels (section 2.4).

        Returns:
            Logits, the background's first, and for each class the object's box as
            `cnn_jax.ops.boxes.encode` gives it (normalised by the task).
        """
        if not sides:
            x = self._pooled(images, boxes, train)
        else:
            sides = tuple(dict.fromkeys(sides))
            pooled = [self._pooled(*at_side(images, boxes, side), train) for side in sides]
            own = nearest_side(boxes, [side / images.shape[1] for side in sides])
            x = pooled[0]
            for number, maps in enumerate(pooled[1:], start=1):
                x = jnp.where((own == number)[..., None, None, None], maps, x)

        hidden = self.backbone.hidden_layers
        units = self.units or scaled(hidden.units, self.width)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        for number, layer in enumerate(("fc6", "fc7")):
            linear = MapDense if layer == "fc6" else nn.Dense
            if self.ranks is not None:
                reduced = linear(
                    self.ranks[number], use_bias=False, dtype=self.dtype, name=f"{layer}_reduced"
                )
                x, linear = reduced(x), nn.Dense
            x = linear(units, dtype=self.dtype, kernel_init=hidden.kernel_init, name=layer)(x)
            x = dropout()(nn.relu(x))
        x = x.astype(jnp.float32)
        scores = _output(self.num_classes + 1, 0.01, "cls_score")(x)
        deltas = _output(4 * self.num_classes, 0.001, "bbox_pred")(x)
        return scores, deltas.reshape(*deltas.shape[:2], self.num_classes, 4)

    def _pooled(
        self,
        images: Float[Array, "batch height width channels"],
        boxes: Float[Array, "batch regions 4"],
        train: bool,
    ) -> Float[Array, "batch regions rows columns features"]:
        """Pool every region of the backbone's map."""
        check_image_size(images, self.minimum_size, self.backbone_name)
        _, features = self.backbone(images, train=train)
        maps = features[self.stage]
        pool = partial(
            {"max": roi_pool, "align": roi_align}[self.pooling],
            size=(self.pool_size,) * 2,
            spatial_scale=1 / stride(images.shape, maps.shape),
        )
        return jax.vmap(lambda one, regions: pool(one, regions))(maps, boxes)

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the backbone's modules and hidden layers, by library."""
        own = self.backbone.hidden_layers.modules
        hidden = zip(("^fc6$", "^fc7$"), own, strict=True) if own else ()
        hidden = tuple((ours, f"backbone.{module}") for ours, module in hidden)
        names = backbones.pretrained_names(self.backbone)
        return {library: (*hidden, *rules) for library, rules in names.items()}

    @property
    def optional_modules(self) -> tuple[str, ...]:
        """Names of modules that this network may lack and a file of pretrained weights may hold."""
        return backbones.optional_modules(self.backbone)


def _output(features: int, deviation: float, name: str) -> nn.Dense:
    """An output layer with the initial values of the paper's section 2.3."""
    init: Initializer = nn.initializers.normal(deviation)
    return nn.Dense(features, kernel_init=init, name=name)


def at_side(
    images: Float[Array, "batch height width channels"],
    boxes: Float[Array, "batch regions 4"],
    side: int,
) -> tuple[Float[Array, "batch {side} {side} channels"], Float[Array, "batch regions 4"]]:
    """Scale square images, and boxes with them, to `side` pixels."""
    batch, height, _, channels = images.shape
    if side == height:
        return images, boxes
    scaled_images = jax.image.resize(images, (batch, side, side, channels), "bilinear")
    return scaled_images, boxes * (side / height)


def nearest_side(
    boxes: Float[Array, "*batch 4"], factors: Sequence[float], side: float = 224.0
) -> Int[Array, "*batch"]:
    """The index of the factor that brings a box's area closest to that of a square.

    Girshick 2015, section 2.4, after He et al. 2014 ("Spatial pyramid pooling"), section 4.1.

    Args:
        boxes: corners in pixels.
        factors: factors that an image's sides are multiplied by.
        side: side of the square in pixels.
    """
    areas = box_ops.area(boxes)
    scaled_areas = jnp.stack([factor**2 * areas for factor in factors], axis=-1)
    return jnp.argmin(jnp.abs(scaled_areas - side**2), axis=-1)


def truncated(params: dict[str, Any], ranks: tuple[int, int]) -> dict[str, Any]:
    """Reduce the matrices of the two hidden layers to low ranks (section 3.1).

    A layer's matrix is replaced by the product of two, made of its largest singular values: a layer
    without bias, then one with the layer's own bias. Full ranks keep the function.

    Args:
        params: parameters of `FastRCNN(ranks=None)`.
        ranks: number of singular values of `fc6` and `fc7` that are kept.

    Returns:
        Parameters of `FastRCNN(ranks=ranks)`.

    Raises:
        UserError: a rank is above that of the matrix.
    """
    layers = dict(params)
    for layer, rank in zip(("fc6", "fc7"), ranks, strict=True):
        kernel = params[layer]["kernel"]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        if not 1 <= rank <= min(matrix.shape):
            raise UserError(f"rank {rank}: {layer} has a rank of 1 to {min(matrix.shape)}")
        left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
        first = left[:, :rank] * values[None, :rank]
        layers[f"{layer}_reduced"] = {"kernel": first.reshape(*kernel.shape[:-1], rank)}
        layers[layer] = {"kernel": right[:rank], "bias": params[layer]["bias"]}
    return layers
