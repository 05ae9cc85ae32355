"""`--channels`: what a network for images of other channels than red, green and blue needs."""

import dataclasses
from typing import Any, TypeVar

from cnn_jax.models import InputSpec

from . import options as flags

T = TypeVar("T")


def normalization(spec: InputSpec, channels: int) -> dict[str, tuple[float, ...]]:
    """The mean and deviation of each channel: of others than RGB those of grey.

    Grey has the mean of the three.
    """
    if channels == 3:
        return {"mean": spec.mean, "std": spec.std}
    return {
        "mean": (sum(spec.mean) / 3,) * channels,
        "std": (sum(spec.std) / 3,) * channels,
    }


def pixel_bytes(channels: int) -> str:
    """The pixels that a network reads, in words."""
    return {1: "bytes of grey", 3: "bytes of RGB"}.get(channels, f"bytes of {channels} bands")


def without_colors(augmentation: T, channels: int) -> T:
    """An augmentation without the steps that need red, green and blue, where channels are others.

    They are refused where they are typed; a preset or the defaults may have them.
    """
    if channels == 3:
        return augmentation
    own: Any = augmentation
    names = {field.name for field in dataclasses.fields(own)}
    off = {name: value for name, value in flags.RGB_ONLY.items() if name in names}
    return dataclasses.replace(own, **off)
