"""Classifiers as backbones: their feature maps, without the layers that classify."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def by_resolution(features: dict[str, Any]) -> list[Array]:
    """A backbone's feature maps from the finest on: of each size the last."""
    sizes = {m.shape[1:3]: m for m in features.values() if isinstance(m, jax.Array) and m.ndim == 4}
    return sorted(sizes.values(), key=lambda m: -m.shape[1] * m.shape[2])


def without_classifier(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Stands zeros in for the outputs of linear layers, so that they have no parameters.

    For `flax.linen.intercept_methods`, around the call of a backbone.
    """
    module = context.module
    if context.method_name == "__call__" and isinstance(module, nn.Dense | nn.DenseGeneral):
        axes = np.size(getattr(module, "axis", -1))
        return jnp.zeros((*args[0].shape[: args[0].ndim - axes], module.features))
    return call(*args, **kwargs)
