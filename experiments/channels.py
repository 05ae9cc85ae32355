"""`--channels` and `--bits`: what images of others than red, green and blue of 8 bits need."""

import dataclasses
from typing import Any, TypeVar

from cnn_jax.data.image_reading import Reading
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


def pixels_in_words(reading: Reading) -> str:
    """The pixels that a network reads."""
    values = "numbers of 16 bits, 0 to 65535," if reading.bits == 16 else "bytes"
    bands = {1: "grey", 3: "RGB"}.get(reading.channels, f"{reading.channels} bands")
    return f"{values} of {bands}"


def fitting(augmentation: T, data: flags.DataOptions) -> T:
    """An augmentation without the steps that need red, green and blue, or 8 bits, where data has
    others.

    They are refused where they are typed; a preset or the defaults may have them.
    """
    own: Any = augmentation
    unfit = {
        **(flags.RGB_ONLY if data.channels != 3 else {}),
        **(flags.BYTES_ONLY if data.bits != 8 else {}),
    }
    names = {field.name for field in dataclasses.fields(own)}
    off = {name: value for name, value in unfit.items() if name in names}
    return dataclasses.replace(own, **off)
