"""The first variables of a network for images, and the way from pixels to its input."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment import Augmentation, augment_example
from cnn_jax.models.layers import on_axis

Batch = dict[str, Array]


def init(model: nn.Module, image_size: int, key: Key[Array, ""]) -> tuple[Any, Any]:
    """Draw the first (params, model_state) of a network for square RGB images."""
    params_key, dropout_key = jax.random.split(key)
    images = jnp.zeros((1, image_size, image_size, 3))
    initialize = jax.jit(partial(model.init, train=True))
    variables = dict(initialize({"params": params_key, "dropout": dropout_key}, images))
    return variables.pop("params"), variables


def augmented(
    batch: Batch, key: Key[Array, ""], config: Augmentation
) -> Float[Array, "batch height width 3"]:
    """Augment a batch's images, each by the key of its place in the stream; values in 0..1."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["ordinal"])
    augment = partial(augment_example, config=config)
    return jax.vmap(augment)(keys, floating(batch["image"]), batch["size"])


def floating(images: Array) -> Float[Array, "*batch height width channels"]:
    """Convert bytes to floats in 0..1."""
    return images.astype(jnp.float32) / 255.0


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
