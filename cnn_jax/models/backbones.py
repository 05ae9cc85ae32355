"""The protocol of a backbone: a classifier on whose maps other networks are built."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnn_jax.errors import UserError, nearest
from cnn_jax.models.layers import Initializer, NameRules


class HiddenLayers(NamedTuple):
    """The two hidden linear layers that a region network puts on a backbone's map.

    Attributes:
        units: number of units of each layer, before `width` multiplies it.
        kernel_init: initialiser of their weights.
        modules: the classifier's own two layers, whose pretrained weights they start from; empty
            where they always start afresh.
    """

    units: int = 1024
    kernel_init: Initializer = nn.initializers.he_normal()
    modules: tuple[str, ...] = ()


@runtime_checkable
class Backbone(Protocol):
    """A classifier that detectors and segmenters can be built on.

    A network derives from `flax.linen.Module` and from this class. It declares `num_classes`,
    `minimum_size`, `classifiers`, `head_modules`, `pretrained_names` and `__call__`; the rest has
    defaults.

    Attributes:
        num_classes: number of logits. With 0 the network is built without its head: it ends at its
            last map and has no parameters behind it.
        minimum_size: rows and columns of the smallest legal image.
        classifiers: names of the modules whose size depends on `num_classes`.
        head_modules: names of the modules that `num_classes=0` leaves out.
        head_options: names of the options that only these modules read.
        auxiliary_heads: names of the modules that only training calls.
        flattened: names of the linear layers on maps, whose inputs other libraries flatten.
        auxiliary_weight: factor of each auxiliary head's loss. Training adds the losses of the
            logits in `features["auxiliary_logits"]`.
        hidden_layers: the hidden layers of a region network on this backbone.
    """

    num_classes: int
    minimum_size: int
    classifiers: tuple[str, ...]
    head_modules: tuple[str, ...]
    head_options: tuple[str, ...] = ()
    auxiliary_heads: tuple[str, ...] = ()
    flattened: tuple[str, ...] = ()
    auxiliary_weight: float = 0.0
    hidden_layers: HiddenLayers = HiddenLayers()

    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> tuple[Array | None, dict[str, Any]]:
        """Compute the logits (None without a head) and the features by name.

        The maps that others build on are `stage1`, `stage2`, ... from the finest to the coarsest,
        each [batch, height, width, channels]; `stem` may precede them. With a head, `pre_logits`
        [batch, channels] is the input of the classifying layer.
        """
        ...

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library."""
        ...

    def truncated(self, stage: str) -> "Backbone":
        """The network up to a stage, without a head.

        A network that cannot leave out what lies behind a stage returns itself: the parameters stay
        and have no effect.
        """
        return self

    @property
    def optional_modules(self) -> tuple[str, ...]:
        """Names of modules that this network may lack and a file of pretrained weights may hold."""
        return self.auxiliary_heads if self.num_classes else self.head_modules


@runtime_checkable
class Pretrained(Protocol):
    """A network that other libraries have too, so that their weights fit it."""

    def pretrained_names(self) -> dict[str, NameRules]:
        """Other libraries' names of the modules, by library."""
        ...


def by_resolution(features: dict[str, Any]) -> list[Array]:
    """The maps among a backbone's features, finest first; of several of one size, the last."""
    sizes = {m.shape[1:3]: m for m in features.values() if isinstance(m, jax.Array) and m.ndim == 4}
    return sorted(sizes.values(), key=lambda m: -m.shape[1] * m.shape[2])


def stride(image: tuple[Any, ...], maps: tuple[Any, ...]) -> int:
    """The stride of a map in pixels of the image: a power of two.

    The quotient of the sizes is a little more or less, because maps lose cells at their borders
    where windows are not padded.

    Args:
        image: shape of the images, [batch, height, width, channels]; the batch may be symbolic.
        maps: shape of the maps, likewise.
    """
    return 2 ** round(math.log2(image[1] / maps[1]))


def strides(backbone: nn.Module) -> dict[str, int]:
    """The stride in pixels of each of a backbone's maps `stage1`, `stage2`, ..., by name."""
    images = jax.ShapeDtypeStruct((1, max(256, backbone.minimum_size), 256, 3), jnp.float32)

    def features(key: Array, images: Array) -> dict[str, Any]:
        return backbone.init_with_output(key, images, train=False)[0][1]

    return {
        name: stride(images.shape, maps.shape)
        for name, maps in jax.eval_shape(features, jax.random.key(0), images).items()
        if name.startswith("stage")
    }


def checked_stage(backbone: nn.Module, name: str, stage: str) -> str:
    """The name of one of a backbone's maps.

    Args:
        backbone: a classifier without its head.
        name: name of its architecture, for the message.
        stage: name of the map.

    Raises:
        UserError: the backbone has no such map.
    """
    stages = strides(backbone)
    if stage not in stages:
        raise UserError(
            f"{name} has no map {stage!r}{nearest(stage, stages)}; it has {', '.join(stages)}"
        )
    return stage


def up_to(features: dict[str, Any], stage: str) -> dict[str, Any]:
    """The features without the maps behind a stage, of a backbone that is not truncated."""
    last = _number(stage)
    return {
        name: value
        for name, value in features.items()
        if not name.startswith("stage") or _number(name) <= last
    }


def _number(stage: str) -> int:
    return int(stage.removeprefix("stage"))


def pretrained_names(backbone: Backbone) -> dict[str, NameRules]:
    """Other libraries' names of the modules of a network's submodule `backbone`, by library."""
    return {
        library: ((r"^backbone\.", ""), *rules)
        for library, rules in backbone.pretrained_names().items()
    }


def optional_modules(backbone: Backbone) -> tuple[str, ...]:
    """The optional modules of a network's submodule `backbone`, by their names in the network."""
    return tuple(f"backbone.{name}" for name in backbone.optional_modules)
