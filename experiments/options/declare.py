"""Flags: fields of groups of options, and their declarations.

A group is a frozen dataclass. A field's name, type and default are the flag's; the text below the
field is its help; `flag(...)` in place of the default says the rest (see `Declared`). What a
dataclass of the library does not say of its fields is said where it becomes a group:
`Annotated[DetectionRule, group(resumable=True)]`.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from cnn_jax.errors import UserError
from cnn_jax.ranges import Range, split


class _Given:
    """A value that asks for something: not None, 0, False or an empty list."""


GIVEN: Any = _Given()

Conditions = Mapping[str, Collection[Any]]
"""Values by the name of another flag, or of several with `|` between; or GIVEN for any value.

A value with a colon, such as `folder:DIR`, also stands for what is before it.
"""


@dataclasses.dataclass(frozen=True)
class Declared:
    """The declaration of a flag besides its name, type and default.

    Attributes:
        help: in place of the text below the field.
        resumable: whether a resumed run may be given another value.
        moves: whether the value is a place, such as a file, that a resumed run may find elsewhere.
        lengthens: whether the value is the run's length, which a resumed run may change.
        unrecorded: whether `config.json` lacks the flag, as it says where the run is kept or what
            the command does with it.
        typed_only: whether no file gives the flag to a command; it is unrecorded then, too.
        only: the flag does something only where all of these hold; typed elsewhere it is refused.
        unless: the flag does nothing where one of these holds.
        instead_of: flags whose preset values give way to this flag; typed together they are
            refused.
        aliases: other names, as users of other libraries know the flag, with spaces between.
        range: the legal numbers, where the field's type does not say them; see `flag`.
        metavar: what stands for the value in the help.
        positional: whether the value is given without the flag's name.
        hidden: whether the command does not have the flag: the field keeps its default.
    """

    help: str | None = None
    resumable: bool = False
    moves: bool = False
    lengthens: bool = False
    unrecorded: bool = False
    typed_only: bool = False
    only: Conditions = dataclasses.field(default_factory=dict)
    unless: Conditions = dataclasses.field(default_factory=dict)
    instead_of: tuple[str, ...] = ()
    aliases: str = ""
    range: Range | None = None
    metavar: str | None = None
    positional: bool = False
    hidden: bool = False

    def merged(self, other: "Declared") -> "Declared":
        """This declaration, and what `other` adds to it."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, added = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Mapping):
                values[field.name] = {**mine, **added}
            elif isinstance(mine, tuple):
                values[field.name] = mine + added
            else:
                unsaid = mine is None or mine is False or mine == ""
                values[field.name] = added if unsaid else mine
        return Declared(**values)


def flag(
    default: Any = dataclasses.MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    **declared: Any,
) -> Any:
    """A field of a group with its default and what else is `Declared` of it.

    Args:
        default: the field's.
        minimum, maximum: the smallest and the largest legal number; of a tuple, of each of them.
        above, below: the same, but not legal themselves. A number has one of each pair.
        **declared: the rest.
    """
    low, high = (above if minimum is None else minimum), (below if maximum is None else maximum)
    if low is not None and high is not None:
        declared["range"] = Range(low, high, above=minimum is None, below=maximum is None)
    return dataclasses.field(default=default, metadata={"flag": Declared(**declared)})


@dataclasses.dataclass(frozen=True)
class Group:
    """Declarations for the fields of a dataclass that has none of its own; see `group`."""

    every: Declared
    fields: Mapping[str, Declared]


def group(fields: Mapping[str, Declared] | None = None, **every: Any) -> Group:
    """A mark for `Annotated[DATACLASS, group(...)]`: what is `Declared` of all fields and of some.

    Args:
        fields: declarations by the names of fields.
        **every: what is declared of every field.
    """
    return Group(Declared(**every), fields or {})


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
        name: its field's.
        section: the field of the options that holds its group; empty where there are no groups.
        owner: the dataclass that declares it.
        default: its value where nothing else is said.
        type: of one value: bool, int, float or str.
        choices: the legal strings or whole numbers; empty for any.
        several: whether the value is a tuple.
        length: the number of its items; None for any number.
        optional: whether None is legal.
        range: the legal numbers; None where the values are no numbers.
        declared: what its declaration says.
    """

    name: str
    section: str
    owner: type
    default: Any
    type: type
    choices: tuple[str, ...] | tuple[int, ...]
    several: bool
    length: int | None
    optional: bool
    range: Range | None
    declared: Declared

    @property
    def dashed(self) -> str:
        """The flag as it is typed."""
        return dashed(self.name)

    def read(self, texts: Sequence[str]) -> Any:
        """The value that was typed.

        Raises:
            UserError: it is of another type, or out of range.
        """
        if self.optional and list(texts) == ["None"]:
            return None
        convert = {bool: _boolean, int: int, float: float, str: str}[self.type]
        try:
            items = tuple(convert(text) for text in texts)
        except ValueError:
            self._fail(tuple(texts))
        if not self.several and len(items) != 1:  # `--out=--`, which argparse takes for an end
            self._fail(tuple(texts))
        return self.checked(items if self.several else items[0])

    def checked(self, value: Any) -> Any:
        """A value of a preset or of `config.json`, where tuples are lists, as the field has it.

        Raises:
            UserError: it is of another type, or out of range.
        """
        if value is None and self.optional:
            return None
        if self.several != isinstance(value, tuple | list):
            self._fail(value)
        items = tuple(value) if self.several else (value,)
        if self.length not in (None, len(items)) or not all(map(self._legal, items)):
            self._fail(value)
        items = tuple(self.type(item) for item in items)
        return items if self.several else items[0]

    def _legal(self, item: Any) -> bool:
        """Check one item of a value: its type, its range, and that a name can be written."""
        if isinstance(item, bool) or self.type is bool:
            return isinstance(item, bool) and self.type is bool
        if self.range is not None:
            return isinstance(item, int if self.type is int else int | float) and item in self.range
        if self.choices:
            return item in self.choices
        return isinstance(item, str) and is_text(item) and item != ""

    def _fail(self, value: Any) -> typing.NoReturn:
        raise UserError(f"must be {self.legal}", self.name, value)

    @property
    def legal(self) -> str:
        """The legal values in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.type is bool:
            return "true or false"
        one, many = {
            int: ("a whole number", "whole numbers"),
            float: ("a number", "numbers"),
            str: ("a text in UTF-8, not empty", "texts in UTF-8, not empty"),
        }[self.type]
        named = f"{self.length} {many}" if self.length else many if self.several else one
        return named if self.range is None else f"{named} {self.range}"


def checked(name: str, hint: Any, value: Any) -> Any:
    """A value that is no flag's, of a run's file, checked as a flag of this type would be.

    Args:
        name: of the value.
        hint: its type, with its `Range` where it is a number: `tuple[str, ...]`.
        value: what the file has.

    Raises:
        UserError: it is of another type, or out of range.
    """
    return _unowned(name, hint).checked(value)


def read_value(name: str, hint: Any, texts: Sequence[str]) -> Any:
    """A value that is no flag's, from texts of a file, read as a typed flag of this type would be.

    Args:
        name: of the value.
        hint: its type, as for `checked`.
        texts: what the file has.

    Raises:
        UserError: it is of another type, or out of range.
    """
    return _unowned(name, hint).read(texts)


def _unowned(name: str, hint: Any) -> Flag:
    hint, limits = split(hint)
    return Flag(name, "", object, None, *_parts(hint), limits, Declared())


def is_text(value: str) -> bool:
    """Check that a text can be written to files and is legal in their names.

    Bytes of the command line that are not UTF-8 arrive as surrogates, which cannot.
    """
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def dashed(name: str) -> str:
    """`learning_rate` as it is typed: `--learning-rate`."""
    return f"--{name.replace('_', '-')}"


@functools.cache
def declared(options: type) -> dict[str, Flag]:
    """All flags of a dataclass of groups, or of a single group, by name; hidden ones too."""
    default = options()
    flags: dict[str, Flag] = {}
    hints = typing.get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            marks = [m for m in getattr(hints[field.name], "__metadata__", ()) if type(m) is Group]
            added = _flags(value, field.name, marks[0] if marks else group())
        else:
            added = {k: v for k, v in _flags(default, "", group()).items() if k == field.name}
        if twice := sorted(set(added) & set(flags)):
            raise TypeError(f"{options.__name__} declares {twice[0]!r} twice")
        flags |= added
    return flags


def _flags(values: Any, section: str, mark: Group) -> dict[str, Flag]:
    """The flags of one group, with its values as their defaults."""
    owner = type(values)
    hints = typing.get_type_hints(owner, include_extras=True)
    if unknown := sorted(set(mark.fields) - {field.name for field in dataclasses.fields(owner)}):
        raise TypeError(f"{owner.__name__} has no field {unknown[0]!r}")
    flags = {}
    for field in dataclasses.fields(owner):
        said = mark.every.merged(field.metadata.get("flag", Declared()))
        said = said.merged(mark.fields.get(field.name, Declared()))
        hint, limits = split(hints[field.name])
        parts = _parts(hint)
        limits = limits or said.range
        if (parts[0] in (int, float) and not parts[1]) != (limits is not None):
            raise TypeError(f"{owner.__name__}.{field.name}: numbers have a range, and only they")
        flags[field.name] = Flag(
            field.name, section, owner, getattr(values, field.name), *parts, limits, declared=said
        )
    return flags


def _parts(hint: Any) -> tuple[type, tuple[Any, ...], bool, int | None, bool]:
    """Type, choices, several, length and optional of a field's annotation."""
    optional = get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        (hint,) = (one for one in get_args(hint) if one is not types.NoneType)
    several, length = get_origin(hint) is tuple, None
    if several:
        items = get_args(hint)
        length = None if items[-1] is Ellipsis else len(items)
        hint = items[0]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return type(choices[0]), choices, several, length, optional
    if hint not in (bool, int, float, str):
        raise TypeError(f"{hint}: cannot be the type of a flag")
    return hint, (), several, length, optional


def _boolean(text: str) -> bool:
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def idle(flag: Flag, values: Mapping[str, Any]) -> str | None:
    """The reason why a flag does nothing beside the values of the others; None if it does.

    A condition on what is not among `values` counts as fulfilled.
    """
    for key, wanted in flag.declared.only.items():
        names = [name for name in key.split("|") if name in values]
        if names and not any(_holds(values[name], wanted) for name in names):
            against = "" if wanted is GIVEN else f", not with {_setting(names[0], values)}"
            return f"only used with {in_words(key, wanted)}{against}"
    for key, refused in flag.declared.unless.items():
        for name in key.split("|"):
            if name in values and _holds(values[name], refused):
                return f"not used with {_setting(name, values)}"
    return None


def _holds(value: Any, wanted: Collection[Any]) -> bool:
    if wanted is GIVEN:
        return bool(value)
    if isinstance(value, tuple):
        return any(_holds(item, wanted) for item in value)
    return value in wanted or (isinstance(value, str) and value.partition(":")[0] in wanted)


def in_words(key: str, wanted: Collection[Any], most: int | None = None) -> str:
    """A condition as it is typed: `--system yolo`, `--crop pad or resized`, `--border-weight`."""
    named = " or ".join(map(_named, key.split("|")))
    if wanted is GIVEN:
        return named
    values = [str(value) for value in wanted]
    if most is not None and len(values) > most:
        return f"{named} {', '.join(values[:most])} and {len(values) - most} more"
    listed = " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))
    return f"{named} {listed}"


def _setting(name: str, values: Mapping[str, Any]) -> str:
    value = values[name]
    if isinstance(value, bool):
        return _named(name) if value else dashed(f"no_{name}")
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{_named(name)} {shown}"


def _named(name: str) -> str:
    # These are no flags: the verb that trained the run of `predict`, and what `weights` does.
    return {"verb": "a run of", "action": "the action"}.get(name) or dashed(name)
