"""Values of options: by the name of the flag, with some replaced, and without what does not fit."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from cnn_jax.errors import UserError

from .declare import declared, idle
from .model import ModelOptions, network_options

T = TypeVar("T")


def flat(options: Any) -> dict[str, Any]:
    """All options by flag name, those of groups among them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def replace(options: T, values: Mapping[str, Any]) -> T:
    """The same options but for the given flags.

    Raises:
        UserError: a value has no flag, or is illegal.
    """
    known = declared(type(options))
    for name in values:
        if name not in known:
            raise UserError(f"option {name!r}: not one of this command's")
    own: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        own.setdefault(known[name].section, {})[name] = known[name].checked(value)
    changed = own.pop("", {})
    for section, ours in own.items():
        changed[section] = dataclasses.replace(getattr(options, section), **ours)
    return dataclasses.replace(options, **changed)


def fitting(options: T) -> T:
    """The options without those of the model that a preset or a run has for another model."""
    model = getattr(options, "model", None)
    if not isinstance(model, ModelOptions):
        return options
    known, values = declared(type(options)), flat(options)
    unfit = [name for name in network_options(model) if idle(known[name], values)]
    return replace(options, dict.fromkeys(unfit))
