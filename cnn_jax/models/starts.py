"""First parameters that are set rather than drawn, in any network made of `Conv`.

Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds on a single GPU"), sections 3.2 and 3.3.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cnn_jax.errors import UserError
from cnn_jax.models.layers import Conv
from cnn_jax.ops.whitening import whitening_filters

Path = tuple[str, ...]
Params = Mapping[str, Any]


def convolutions(model: nn.Module, image: jax.ShapeDtypeStruct) -> dict[Path, Conv]:
    """The convolutions of a network by the paths of their parameters, in the order of their calls.

    Args:
        model: takes images, and `train`.
        image: the shape of its input.
    """
    found: dict[Path, Conv] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, Conv) and context.method_name == "__call__":
            found[context.module.path] = context.module
        return call(*args, **kwargs)

    keys = jax.eval_shape(lambda: {"params": jax.random.key(0), "dropout": jax.random.key(0)})
    with nn.intercept_methods(note):
        jax.eval_shape(lambda keys, x: model.init(keys, x, train=True), keys, image)
    return found


def with_identities(params: Params, layers: Mapping[Path, Conv]) -> dict[str, Any]:
    """Let 3x3 convolutions start as the identity, except the first: their other filters stay.

    A convolution's first filters each pass on one channel, as long as there are channels. One with
    groups stays as it is drawn.

    Args:
        params: the parameters of the network.
        layers: its convolutions.
    """
    flat = flax.traverse_util.flatten_dict(params)
    for path in [*layers][1:]:
        kernel = flat[*path, "kernel"]
        if kernel.shape[:2] != (3, 3) or layers[path].groups != 1:
            continue
        count = min(kernel.shape[2:])
        channels = jnp.arange(count)
        kernel = kernel.at[..., :count].set(0.0)
        flat[*path, "kernel"] = kernel.at[1, 1, channels, channels].set(1.0)
    return flax.traverse_util.unflatten_dict(flat)


def with_whitening(
    params: Params,
    layers: Mapping[Path, Conv],
    images: Iterable[Float[np.ndarray, "height width channels"]],
) -> dict[str, Any]:
    """Let the first convolution start with filters that whiten the patches of images.

    Half of its filters whiten, those of the largest variance first; the others are their negatives.
    If there are more of both, the rest stays as it is drawn.

    Args:
        params: the parameters of the network.
        layers: its convolutions.
        images: as the network gets them.

    Raises:
        UserError: the first convolution has no room for a filter and its negative.
    """
    flat = flax.traverse_util.flatten_dict(params)
    path = next(iter(layers), None)
    kernel = None if path is None else flat[*path, "kernel"]
    if kernel is None or kernel.shape[3] < 2 or layers[path].groups != 1:
        raise UserError("the network has no first convolution of two filters or more", "whiten")
    filters = whitening_filters(images, kernel.shape[:2])
    count = min(filters.shape[3], kernel.shape[3] // 2)
    both = np.concatenate([filters[..., :count], -filters[..., :count]], axis=3)
    flat[*path, "kernel"] = kernel.at[..., : 2 * count].set(both)
    return flax.traverse_util.unflatten_dict(flat)
