"""The first variables of a network for images, and the way from pixels to its input."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment import Augmentation, ViewKind, alternating_flip, augment_example, views
from cnn_jax.models.layers import on_axis
from cnn_jax.ops.normalization import unit_length
from cnn_jax.ops.precision import at_least_float32

Batch = dict[str, Array]


def image_input(height: int, width: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    """A network's input for one image, as a batch of one: its shape and dtype."""
    return jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)


def init(
    model: nn.Module, network_input: jax.ShapeDtypeStruct, key: Key[Array, ""]
) -> tuple[Any, Any]:
    """Draw the first (params, model_state) of a network for images."""
    params_key, dropout_key = jax.random.split(key)
    images = jnp.zeros(network_input.shape, network_input.dtype)
    initialize = jax.jit(partial(model.init, train=True))
    variables = dict(initialize({"params": params_key, "dropout": dropout_key}, images))
    return variables.pop("params"), variables


def augmented(
    batch: Batch, key: Key[Array, ""], config: Augmentation
) -> Float[Array, "batch height width channels"]:
    """Augment a batch's images, each by the key of its place in the stream; values in 0..1."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["ordinal"])
    augment = partial(augment_example, config=config)
    examples = (keys, floating(batch["image"]), batch["size"])
    if not (config.flip and config.flip_mode == "alternating"):
        return jax.vmap(augment)(*examples)
    # Ordinals stay below 2**31: this key is no example's own.
    flip_key = jax.random.fold_in(key, jnp.uint32(2**31 + 1))
    flip = jax.vmap(alternating_flip, (None, 0, 0))
    mirrored = flip(flip_key, batch["index"], batch["epoch"])
    return jax.vmap(lambda own, image, size, flip: augment(own, image, size, mirrored=flip))(
        *examples, mirrored
    )


def floating(images: Array) -> Float[Array, "*batch height width channels"]:
    """Convert pixels of 8 or 16 bits, or floats in 0..255, to floats in 0..1."""
    return images.astype(jnp.float32) / (65535.0 if images.dtype == jnp.uint16 else 255.0)


def levels(images: Array) -> Float[Array, "*batch height width channels"]:
    """Convert the same to floats in 0..255, which the values of 16 bits lie between."""
    own = images.astype(jnp.float32)
    return own / 257.0 if images.dtype == jnp.uint16 else own


def averaged_logits(
    network: Callable[[Float[Array, "views height width channels"]], Float[Array, "views classes"]],
    images: Float[Array, "batch height width channels"],
    kind: ViewKind,
) -> Float[Array, "batch classes"]:
    """Apply a network to the views of every image, and average the logits by their weights."""
    seen, weights = views(images, kind)
    logits = network(seen.reshape(-1, *images.shape[1:]))
    if kind == "one":
        return logits
    by_view = logits.reshape(len(weights), images.shape[0], -1)
    return sum(weight * one for weight, one in zip(weights, by_view, strict=True))


def embedded(
    model: nn.Module,
    params: Any,
    model_state: Any,
    images: Float[Array, "*batch height width channels"],
    centered: bool = False,
) -> Float[Array, "batch size"]:
    """The direction of what a network's last layer gets of every image, as unit vectors.

    Args:
        model: a `cnn_jax.models.backbones.Backbone` with its head.
        params, model_state: its variables.
        images: normalised, [batch, ...]; or [batch, crops, ...], of which the mean counts.
        centered: whether the mean of a vector's own values is taken off first.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    _, features = model.apply({"params": params, **model_state}, flat, train=False)
    by_crop = features["pre_logits"].reshape(len(images), -1, features["pre_logits"].shape[-1])
    return unit_length(jnp.mean(at_least_float32(by_crop), axis=1), centered)


def apply_training(
    model: nn.Module,
    params: Any,
    model_state: Any,
    images: Array,
    dropout_key: Key[Array, ""],
    axis_name: str | None,
) -> tuple[Any, Any]:
    """Apply a network in training mode, and return its outputs and its new model state.

    Args:
        model: takes `images` and `train`.
        params, model_state: its variables.
        images: normalised.
        dropout_key: of this device's part of the batch.
        axis_name: mapped axis that batch statistics are averaged over.
    """
    return on_axis(model, axis_name).apply(
        {"params": params, **model_state},
        images,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=list(model_state),
    )
