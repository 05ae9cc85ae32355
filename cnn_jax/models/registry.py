"""What the tables of architectures share: making a module from its options.

A table's constructors are `partial`s of a flax module with its structure bound; its options are
those fields of the module that have a default.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args, get_origin

import flax.linen as nn

from cnn_jax.errors import UserError


def construct(
    name: str, constructor: partial[nn.Module], num_classes: int, options: Mapping[str, Any]
) -> nn.Module:
    """The module that `constructor` makes with `num_classes` logits and these options.

    Raises:
        UserError: for an unknown option, or a value that an option does not allow.
    """
    legal = option_fields(constructor)
    for option, value in options.items():
        if option not in legal:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, legal)}; "
                f"its options are {', '.join(legal)}"
            )
        _check_value(name, legal[option], value)
    if num_classes < 1:
        raise UserError(f"{name}: num_classes must be at least 1, not {num_classes}")
    return constructor(num_classes=num_classes, **options)


def option_fields(constructor: partial[nn.Module]) -> dict[str, dataclasses.Field]:
    """The fields of the module that have a default and that a user may set, by name."""
    return {
        field.name: field
        for field in dataclasses.fields(constructor.func)
        if field.default is not dataclasses.MISSING
        and field.name not in ("num_classes", "axis_name", "parent", "name")
    }


def nearest(name: str, legal: Iterable[str]) -> str:
    """The hint `", did you mean A or B?"`, or nothing where no name is near."""
    near = difflib.get_close_matches(name, legal, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""


def _check_value(name: str, field: dataclasses.Field, value: Any) -> None:
    """Raises UserError where the option `field` of `name` does not allow `value`."""
    if get_origin(field.type) is Literal and value not in get_args(field.type):
        legal = f"one of {', '.join(map(repr, get_args(field.type)))}"
    elif field.name == "width" and not 0 < value < float("inf"):
        legal = "a positive number"
    elif field.name.endswith("dropout_rate") and not 0 <= value < 1:
        legal = "at least 0 and below 1"
    else:
        return
    raise UserError(f"{name}: option {field.name} must be {legal}, not {value!r}")
