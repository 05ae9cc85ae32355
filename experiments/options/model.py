"""The options of a network: those of all, and those that an architecture declares."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from cnn_jax.models import Option, option_table
from cnn_jax.ranges import split

from .declare import GIVEN, flag


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network and its own options."""

    model: str = flag("resnet20", aliases="arch architecture net", metavar="NAME")
    """Any registered architecture; `--model list` prints their names."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the network computes in; parameters, statistics and losses stay float32."""
    init_from: str | None = flag(None, moves=True, metavar="PATH")
    """Weights to start from: safetensors or .pth with torchvision's or timm's names, a run, or a
    name such as `torchvision:resnet50` or `hf:timm/resnet50.tv_in1k`."""
    weights_dir: str | None = flag(None, resumable=True, only={"init_from": GIVEN}, metavar="DIR")
    """Folder in which weights with a name are looked for before they are downloaded."""
    init_head: Literal["keep", "reinit"] = flag("keep", only={"init_from": GIVEN})
    """Weights of the last layer: keep them too, which needs the same classes, or draw new ones."""


def model_group(
    kinds: str | Mapping[str, str], *, exclude: Collection[str] = ()
) -> type[ModelOptions]:
    """`ModelOptions` and, as flags that are None by default, every option that a model declares.

    Args:
        kinds: a kind of `cnn_jax.models.option_table`; or, of `detect`, one for each `--system`.
        exclude: options that another flag of the command sets.
    """
    tables: dict[str, dict[str, Option]] = {
        system: option_table(kind)
        for system, kind in ({"": kinds} if isinstance(kinds, str) else kinds).items()
    }
    fields: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        having = {system: table[name] for system, table in tables.items() if name in table}
        option = next(iter(having.values()))
        if option.common or name in exclude:
            continue
        models = dict.fromkeys(model for one in having.values() for model in one.models)
        only: dict[str, Collection[str]] = {}
        if len(having) < len(tables):
            only["system"] = tuple(having)
        every = (one for system in having for one in tables[system].values())
        if set(models) != {model for one in every for model in one.models}:
            only["model"] = tuple(models)
        families = dict.fromkeys(family for one in having.values() for family in one.families)
        _, limits = split(option.annotation)
        declared = flag(
            None,
            range=limits,
            help=option.description + (f" Only {', '.join(families)}." if "model" in only else ""),
            only=only,
        )
        fields.append((name, option.type | None, declared))
    return dataclasses.make_dataclass(
        "ModelOptions",
        fields,
        bases=(ModelOptions,),
        frozen=True,
        namespace={"__doc__": ModelOptions.__doc__},
    )


def network_options(chosen: ModelOptions) -> dict[str, Any]:
    """The options of the network that are given: those of `model_group`, by name."""
    shared = {field.name for field in dataclasses.fields(ModelOptions)}
    return {
        field.name: value
        for field in dataclasses.fields(chosen)
        if field.name not in shared and (value := getattr(chosen, field.name)) is not None
    }
