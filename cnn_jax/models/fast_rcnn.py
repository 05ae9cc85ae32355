"""Fast R-CNN: the whole image through a backbone once, then every region through two small heads.

Girshick 2015 ("Fast R-CNN"), for any registered backbone.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32, Int

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models.backbones import without_classifier
from cnn_jax.models.layers import Initializer, MapDense, NameRules, check_image_size, scaled
from cnn_jax.models.registry import nearest
from cnn_jax.models.resnet import ResNet
from cnn_jax.models.vgg import VGG
from cnn_jax.models.vgg import normal as small_normal
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.roi_align import roi_align
from cnn_jax.ops.roi_pooling import roi_pool

# Scores [batch, regions, 1 + classes], the background first, and encoded boxes by class.
RegionOutput = tuple[
    Float32[Array, "batch regions scores"], Float32[Array, "batch regions classes 4"]
]

# Hidden units of the two linear layers: VGG's own, and what others get.
VGG_UNITS, UNITS = 4096, 1024

zeros, he_normal = nn.initializers.zeros_init(), nn.initializers.he_normal()


class FastRCNN(nn.Module):
    """A backbone's map, RoI pooling, two linear layers, and one linear layer for each output.

    Attributes:
        backbone: a classifier; its classifying layers are left out and have no parameters.
        backbone_name: for messages.
        stage: the backbone's map that regions are pooled from, such as `stage3`.
        num_classes: number of classes, without the background.
        pooling: "max" is the paper's RoI pooling, "align" RoIAlign (He et al. 2017).
        pool_size: rows and columns of a region's map, 7 for VGG-16 in the paper and 6 for the
            smaller networks.
        units: of each of the two hidden layers.
        ranks: of the two hidden layers' matrices after truncation; see `truncated`.
        dropout_rate: after each of the two hidden layers.
        dtype: type of the computation; outputs are float32.
    """

    backbone: nn.Module
    backbone_name: str
    stage: str
    num_classes: int
    pooling: Literal["max", "align"] = "max"
    pool_size: int = 7
    units: int = UNITS
    ranks: tuple[int, int] | None = None
    dropout_rate: float = 0.5
    dtype: Dtype = jnp.float32

    @property
    def minimum_size(self) -> int:
        """Rows and columns of the smallest legal image."""
        return self.backbone.minimum_size

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The modules that a classifier's weights do not hold."""
        outputs = ("cls_score", "bbox_pred")
        return outputs if isinstance(self.backbone, VGG) else (*outputs, "fc6", "fc7")

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        boxes: Float[Array, "batch regions 4"],
        train: bool = False,
        sides: Sequence[int] = (),
    ) -> RegionOutput:
        """Scores and encoded boxes of every region.

        Args:
            images: normalised, squares if `sides` are given.
            boxes: regions in pixels of the images.
            train: whether statistics are the batch's, and units are dropped.
            sides: of the squares that the images are scaled to; none: as they are. Of several,
                each region is pooled at the one that makes its area come closest to that of a
                square of 224 pixels (section 2.4).

        Returns:
            Logits, the background's first, and for each class what `cnn_jax.ops.boxes.encode` would
            say of the object's box (normalised as the task does).
        """
        if not sides:
            x = self._pooled(images, boxes, train)
        else:
            sides = tuple(dict.fromkeys(sides))
            seen = [self._pooled(*at_side(images, boxes, side), train) for side in sides]
            own = nearest_side(boxes, [side / images.shape[1] for side in sides])
            x = seen[0]
            for number, maps in enumerate(seen[1:], start=1):
                x = jnp.where((own == number)[..., None, None, None], maps, x)

        # VGG's layers are its own; others start with what ReLUs behind them ask for.
        hidden_init = small_normal if isinstance(self.backbone, VGG) else he_normal
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        for number, layer in enumerate(("fc6", "fc7")):
            linear = MapDense if layer == "fc6" else nn.Dense
            if self.ranks is not None:
                reduced = linear(
                    self.ranks[number], use_bias=False, dtype=self.dtype, name=f"{layer}_reduced"
                )
                x, linear = reduced(x), nn.Dense
            x = linear(self.units, dtype=self.dtype, kernel_init=hidden_init, name=layer)(x)
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
        """The backbone's map of every region."""
        check_image_size(images, self.minimum_size, self.backbone_name)
        with nn.intercept_methods(without_classifier):
            _, features = self.backbone(images, train=train)
        maps = features[self.stage]
        pool = partial(
            {"max": roi_pool, "align": roi_align}[self.pooling],
            size=(self.pool_size,) * 2,
            spatial_scale=1 / stride(images.shape, maps.shape),
        )
        return jax.vmap(lambda one, regions: pool(one, regions))(maps, boxes)

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the backbone's modules (and of VGG's linear layers)."""
        ours = (("^backbone[.]", ""), ("^fc6$", "dense1"), ("^fc7$", "dense2"))
        return {
            library: (*ours, *rules) for library, rules in self.backbone.pretrained_names().items()
        }

    @property
    def auxiliary_heads(self) -> tuple[str, ...]:
        """What a file of a classifier's weights may hold that is not used here."""
        unused = [*self.backbone.classifiers, *getattr(self.backbone, "auxiliary_heads", ())]
        if isinstance(self.backbone, ResNet):
            whole = models.create(self.backbone_name).stage_sizes
            for stage in range(len(self.backbone.stage_sizes), len(whole)):
                unused += [f"stage{stage + 1}_block{block}" for block in range(whole[stage])]
        return tuple(unused)


def _output(features: int, deviation: float, name: str) -> nn.Dense:
    """A linear layer that starts as in the paper's section 2.3."""
    init: Initializer = nn.initializers.normal(deviation)
    return nn.Dense(features, kernel_init=init, bias_init=zeros, name=name)


def at_side(
    images: Float[Array, "batch height width channels"],
    boxes: Float[Array, "batch regions 4"],
    side: int,
) -> tuple[Float[Array, "batch {side} {side} channels"], Float[Array, "batch regions 4"]]:
    """Square images scaled to `side` pixels, and boxes with them."""
    batch, height, _, channels = images.shape
    if side == height:
        return images, boxes
    scaled_images = jax.image.resize(images, (batch, side, side, channels), "bilinear")
    return scaled_images, boxes * (side / height)


def nearest_side(
    boxes: Float[Array, "*batch 4"], factors: Sequence[float], side: float = 224.0
) -> Int[Array, "*batch"]:
    """Which factor makes a box's area come closest to that of a square of `side` pixels.

    Girshick 2015, section 2.4, after He et al. 2014 ("Spatial pyramid pooling"), section 4.1.
    """
    areas = box_ops.area(boxes)
    scaled_areas = jnp.stack([factor**2 * areas for factor in factors], axis=-1)
    return jnp.argmin(jnp.abs(scaled_areas - side**2), axis=-1)


def stride(image: tuple[int, ...], maps: tuple[int, ...]) -> int:
    """Pixels of the image from one cell of a backbone's map to the next: a power of two.

    Maps lose cells at their borders where windows are not padded, so the quotient of the sizes is
    a little more or less.
    """
    return 2 ** round(math.log2(image[1] / maps[1]))


def create(
    name: str,
    num_classes: int,
    *,
    stage: str | None = None,
    pooling: Literal["max", "align"] = "max",
    pool_size: int = 7,
    units: int | None = None,
    ranks: tuple[int, int] | None = None,
    dropout_rate: float = 0.5,
    **options: Any,
) -> FastRCNN:
    """Fast R-CNN on the backbone `name`.

    Args:
        name: any of `cnn_jax.models.names()`.
        num_classes: number of classes, without the background.
        stage: the map that regions are pooled from; by default the last one with a stride of at
            most 16 pixels.
        pooling, pool_size, ranks, dropout_rate: see `FastRCNN`.
        units: of the hidden layers; VGG's own 4096, or 1024, times `width`.
        **options: the backbone's.

    Raises:
        UserError: for an unknown name, option or stage.
    """
    if "auxiliary" in models.options(name):
        # Their losses are the classifier's.
        options.setdefault("auxiliary", False)
    backbone = models.create(name, 1, **options)
    stages = strides(backbone)
    if stage is None:
        stage = max((s for s, pixels in stages.items() if pixels <= 16), default=min(stages))
    if stage not in stages:
        raise UserError(
            f"{name} has no map {stage!r}{nearest(stage, stages)}; it has {', '.join(stages)}"
        )
    if isinstance(backbone, ResNet):
        # Nothing behind the map is made; other backbones go on to their last map all the same.
        kept = backbone.stage_sizes[: int(stage.removeprefix("stage"))]
        backbone = backbone.clone(stage_sizes=kept)
    own = VGG_UNITS if isinstance(backbone, VGG) else UNITS
    return FastRCNN(
        backbone=backbone,
        backbone_name=name,
        stage=stage,
        num_classes=num_classes,
        pooling=pooling,
        pool_size=pool_size,
        units=units or scaled(own, options.get("width", 1.0)),
        ranks=ranks,
        dropout_rate=dropout_rate,
        **{key: options[key] for key in ("dtype",) if key in options},
    )


def strides(backbone: nn.Module) -> dict[str, int]:
    """Pixels from one cell to the next of each of a backbone's maps `stage1`, `stage2`, ..."""
    images = jax.ShapeDtypeStruct((1, max(256, backbone.minimum_size), 256, 3), jnp.float32)
    initialize = partial(backbone.init_with_output, train=False)
    (_, features), _ = jax.eval_shape(initialize, jax.random.key(0), images)
    return {
        name: stride(images.shape, maps.shape)
        for name, maps in features.items()
        if name.startswith("stage")
    }


def truncated(params: dict[str, Any], ranks: tuple[int, int]) -> dict[str, Any]:
    """Parameters for `FastRCNN(ranks=ranks)`: the two hidden layers' matrices cut to low ranks.

    Section 3.1: a layer's matrix is replaced by the product of two, those of its `ranks` largest
    singular values: a layer without bias, then one with the layer's own. With full ranks the
    function is the same; detection does not train again.

    Args:
        params: of `FastRCNN(ranks=None)`.
        ranks: how many singular values of `fc6` and `fc7` are kept.

    Raises:
        UserError: a rank is larger than the matrix has.
    """
    layers = dict(params)
    for layer, rank in zip(("fc6", "fc7"), ranks, strict=True):
        kernel = params[layer]["kernel"]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        if not 1 <= rank <= min(matrix.shape):
            raise UserError(f"--svd {rank}: {layer} has a rank of 1 to {min(matrix.shape)}")
        left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
        first = left[:, :rank] * values[None, :rank]
        layers[f"{layer}_reduced"] = {"kernel": first.reshape(*kernel.shape[:-1], rank)}
        layers[layer] = {"kernel": right[:rank], "bias": params[layer]["bias"]}
    return layers
