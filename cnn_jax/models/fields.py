"""Fields of a flax module as options: which are options, their types, ranges and descriptions.

A field of a module is an option of its architecture if it has a default. Exceptions are
`num_classes`, `axis_name`, what flax adds to every module, and fields declared with `structural`.
What makes an architecture what it is (block classes, stage sizes) is therefore declared without a
default and bound by the `partial` that the table holds.

The first sentence of the field's entry in the module's docstring, section "Attributes:", describes
the option to a user. It is the same in all modules that share the option; what is particular to a
module follows in further sentences. A command line parses the field's type, so it is a `bool`,
`int`, `float`, `str`, `Literal` or a tuple of these, perhaps with a range and perhaps `| None`.
"""

import dataclasses
import functools
import inspect
import operator
import re
from functools import partial
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import flax.linen as nn

from cnn_jax.ranges import Range, split

_NOT_OPTIONS = ("num_classes", "axis_name", "parent", "name")


Factor = Annotated[float, Range(0, 100, above=True)]
Weight = Annotated[float, Range(0, 1000)]
Rate = Annotated[float, Range(0, 1, below=True)]
Share = Annotated[float, Range(0, 1, above=True)]
Count = Annotated[int, Range(1, 65_536)]


class OptionField(NamedTuple):
    """A field of a module that is an option.

    Attributes:
        name: name of the field.
        annotation: its type, with its range.
        default: its default.
        description: the first sentence about it in the module's docstring, "" if there is none.
    """

    name: str
    annotation: Any
    default: Any
    description: str


def structural(default: Any) -> Any:
    """Declare a field that has a default and is no option."""
    return dataclasses.field(default=default, metadata={"structural": True})


def option_fields(constructor: partial[nn.Module] | type[nn.Module]) -> dict[str, OptionField]:
    """The options of a module, by name.

    Args:
        constructor: a module's class, or a `partial` of one, whose keywords take the place of the
            class's defaults.
    """
    module = getattr(constructor, "func", constructor)
    bound = getattr(constructor, "keywords", {})
    descriptions = _descriptions(module)
    return {
        field.name: OptionField(
            field.name,
            field.type,
            bound.get(field.name, field.default),
            descriptions.get(field.name, ""),
        )
        for field in dataclasses.fields(module)
        if field.default is not dataclasses.MISSING
        and field.name not in _NOT_OPTIONS
        and "structural" not in field.metadata
    }


def value_type(annotation: Any) -> Any:
    """The type of the values that a user gives, such as `int` for `Count | None`."""
    annotation, _ = split(annotation)
    if get_origin(annotation) in (Union, UnionType):
        members = (value_type(member) for member in get_args(annotation) if member is not NoneType)
        return functools.reduce(operator.or_, members)
    return annotation


def legal_values(annotation: Any, value: Any) -> str | None:
    """The legal values of a type in words, to follow "must be"; None if `value` is one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, legal = split(annotation)
        number = Integral if kind is int else Real
        right = isinstance(value, number) and not isinstance(value, bool) and value in legal
        return None if right else f"a {'whole ' if kind is int else ''}number {legal}"
    if origin in (Union, UnionType):
        wrong = [legal_values(member, value) for member in arguments]
        return None if None in wrong else wrong[0]
    if origin is Literal:
        return None if value in arguments else f"one of {', '.join(map(repr, arguments))}"
    if annotation is bool:
        return None if isinstance(value, bool) else "True or False"
    if annotation is NoneType:
        return None if value is None else "None"
    return None


@functools.cache
def _descriptions(module: type[nn.Module]) -> dict[str, str]:
    """The first sentence about each field in a module's docstring or that of one of its bases."""
    sentences: dict[str, str] = {}
    for base in module.__mro__:
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        # The section ends at the first line that is not indented. An entry's first line is indented
        # by four columns, its other lines by more.
        section = re.split(r"\n(?=\S)", section)[0]
        for entry in re.split(r"^ {4}(?=\S)", section, flags=re.MULTILINE)[1:]:
            names, _, text = entry.partition(": ")
            sentence = re.split(r"(?<=\.) (?=[A-Z`\"])", " ".join(text.split()))[0]
            for name in names.split(", "):
                sentences.setdefault(name, sentence[:1].upper() + sentence[1:])
    return sentences
