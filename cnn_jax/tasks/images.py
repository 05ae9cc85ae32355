"""What every task about whole images does: first variables, and pixels to a network's input."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnn_jax.data.augment import Augmentation, augment_example

Batch = dict[str, Array]


def init(model: nn.Module, image_size: int, key: Key[Array, ""]) -> tuple[Any, Any]:
    """Fresh (params, model_state) of a network that is fed square RGB images."""
    params_key, dropout_key = jax.random.split(key)
    images = jnp.zeros((1, image_size, image_size, 3))
    initialize = jax.jit(partial(model.init, train=True))
    variables = dict(initialize({"params": params_key, "dropout": dropout_key}, images))
    return variables.pop("params"), variables


def augmented(
    batch: Batch, key: Key[Array, ""], config: Augmentation
) -> Float[Array, "batch height width 3"]:
    """A batch's images in 0..1, each augmented by the key of its place in the stream."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["ordinal"])
    augment = partial(augment_example, config=config)
    return jax.vmap(augment)(keys, floating(batch["image"]), batch["size"])


def floating(images: Array) -> Float[Array, "*batch height width channels"]:
    """Bytes to 0..1."""
    return images.astype(jnp.float32) / 255.0
