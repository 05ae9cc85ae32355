"""Stands in for `cnn_jax.models.option_table` until the models declare their options there."""

import types
from typing import Any, NamedTuple, get_args, get_origin

from cnn_jax import models
from cnn_jax.models import detection, segmentation
from cnn_jax.models.registry import option_fields


class Option(NamedTuple):
    """An option of some models."""

    name: str
    type: Any
    description: str
    models: tuple[str, ...]


def option_table(kind: str) -> dict[str, Option]:
    """All options of the models of a kind, by name."""
    table: dict[str, Option] = {}

    def add(model: str, name: str, hint: Any) -> None:
        if get_origin(hint) is types.UnionType:
            (hint,) = (one for one in get_args(hint) if one is not types.NoneType)
        if get_origin(hint) is None and hint not in (bool, int, float, str):
            return
        before = table.get(name)
        table[name] = Option(
            name, hint, f"The model's {name}.", (*(before.models if before else ()), model)
        )

    for name in models.names():
        for option, field in option_fields(models._ARCHITECTURES[name][0]).items():
            if kind != "classifier" and option == "auxiliary":
                continue
            add(name, option, field.type)
    own = {
        "grid_detector": [(n, c) for n, c in detection._NETWORKS.items()],
        "segmenter": [(n, c) for n, (c, _) in segmentation._NETWORKS.items()],
    }.get(kind, [])
    for name, constructor in own:
        for option, field in option_fields(constructor).items():
            add(name, option, field.type)
    from typing import Literal

    if kind == "grid_detector":
        for name in models.names():
            add(name, "grid", int)
            add(name, "boxes", int)
    if kind == "segmenter":
        for name in models.names():
            add(name, "upsampling", Literal["nearest", "bilinear", "transposed", "unpool"])
            add(name, "output_stride", int)
    if kind == "region_network":
        for name in models.names():
            for option, hint in (
                ("stage", str),
                ("pooling", Literal["max", "align"]),
                ("pool_size", int),
                ("units", int),
                ("dropout_rate", float),
            ):
                if name not in (table[option].models if option in table else ()):
                    add(name, option, hint)
    if kind == "grid_detector":
        for name in models.names():
            if name not in table["dropout_rate"].models:
                add(name, "dropout_rate", float)
    return table
