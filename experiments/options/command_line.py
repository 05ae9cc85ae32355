"""From the command line, presets and `config.json` to a command's options."""

import argparse
import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cnn_jax.errors import UserError
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from .declare import Flag, checked, dashed, declared, idle
from .groups import ModelOptions, network_options
from .messages import (
    Formatter,
    as_flags,
    examples,
    help_text,
    metavar,
    program,
    sections,
    unknown,
    warn,
)

T = TypeVar("T")


def parse(
    options: type[T],
    argv: Sequence[str] | None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    variant: str | None = None,
) -> T:
    """The options of a command: what is typed, over the preset or the resumed run, over defaults.

    Args:
        options: a dataclass of groups, a `RunOptions` called `run` among them.
        argv: the command line; None for the process's own.
        presets: values by flag, by the preset's name. One with the name of `--data` is its default.
        variant: a flag by whose value there are presets of their own: with `--system rcnn`,
            `shapes_rcnn` takes the place of `shapes`.

    Raises:
        UserError: on an unknown flag or preset, an illegal value, a flag that does nothing, or a
            value that would make a resumed run another.
    """
    given = typed(options, argv)
    start = {**flat(options()), **given}
    if start["resume"] or (start["eval_only"] and start["out"] is not None):
        if start["out"] is None:
            raise UserError("--resume: say which run with --out DIR")
        earlier = stored(options, Path(start["out"]))
        before, known = flat(earlier), declared(options)
        for name, value in given.items():
            if value != before[name] and not known[name].declared.resumable:
                raise UserError(
                    f"{dashed(name)}: the run in {start['out']} has {before[name]!r}; "
                    "a run is continued with its own options, leave the flag out"
                )
        return _settled(options, earlier, given)
    chosen = _preset(start, presets or {}, variant)
    if not chosen:
        return _settled(options, options(), given)
    return _settled(options, replace(options(), chosen), {**given, "preset": chosen["preset"]})


def _preset(
    start: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]],
    variant: str | None = None,
) -> dict[str, Any]:
    """The values of the preset that is asked for, or that the data has; empty for none."""
    preset = start["preset"]
    if preset == "list":
        print("\n".join(presets))
        raise SystemExit(0)
    if preset is None and start["data"] in presets:
        preset = start["data"]
    if preset is None:
        return {}
    if preset not in presets:
        raise UserError(f"--preset {preset}: unknown; one of {', '.join(presets)}")
    if variant is not None and f"{preset}_{start[variant]}" in presets:
        preset = f"{preset}_{start[variant]}"
    return {**presets[preset], "preset": preset}


def parse_plain(
    options: type[T],
    argv: Sequence[str] | None,
    facts: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> T:
    """The options of a command that trains nothing: what is typed, over the defaults.

    Args:
        options: a dataclass of flags.
        argv: the command line; None for the process's own.
        facts: from the flags' values to what their conditions name that is no flag: the `verb` that
            trained the run to predict with.
        presets: those of a command that trains, of which the flags that this one has count; chosen
            as in `parse`.

    Raises:
        UserError: on an unknown flag or preset, an illegal value, or a flag that does nothing.
    """
    given = typed(options, argv)
    if presets is None:
        return _settled(options, options(), given, facts)
    chosen = _preset({**flat(options()), **given}, presets)
    known = declared(options)
    values = {name: value for name, value in chosen.items() if name in known}
    return _settled(options, replace(options(), values), given, facts)


def resumable(options: type) -> set[str]:
    """The flags that a resumed run may be given anew without becoming another run."""
    return {name for name, flag in declared(options).items() if flag.declared.resumable}


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


def stored(options: type[T], run: Path) -> T:
    """The options of a run, from its `config.json`.

    Flags that the file lacks, as an earlier version wrote it, have their defaults; a line on stderr
    names them. Keys without a flag are passed over.

    Raises:
        UserError: there is no run in that folder, it is of another verb, or a value is illegal.
    """
    path = run / CONFIG_FILE
    if not path.exists():
        raise UserError(f"{run}: no run there (no {CONFIG_FILE}): nothing to resume or evaluate")
    content = read_object(path)
    verb, own = content.get("verb"), getattr(options, "verb", None)
    if None not in (verb, own) and verb != own:
        raise UserError(f"{path}: a run of {verb}, not of {own}")
    known = declared(options)
    if missing := [dashed(name) for name in known if name not in content]:
        warn(f"{path}: written without {', '.join(missing)}; the defaults are used")
    try:
        result = replace(options(), {k: v for k, v in content.items() if k in known})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return _fitting(result)


def recorded(run: Path, **kinds: Any) -> list[Any]:
    """Read values of a run's `config.json` besides its options, checked as flags are.

    Args:
        run: the run's folder.
        **kinds: the names of the values and their types, as `declare.checked` takes them.

    Raises:
        UserError: the file lacks one, or it is of another type or out of range.
    """
    path = run / CONFIG_FILE
    content = read_object(path)
    if missing := [name for name in kinds if name not in content]:
        raise UserError(f"{path}: has no {missing[0]!r}; it is not whole, or of an earlier version")
    try:
        return [checked(name, kind, content[name]) for name, kind in kinds.items()]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _settled(
    options: type[T],
    base: T,
    given: Mapping[str, Any],
    facts: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> T:
    """`base` with what is typed.

    Raises:
        UserError: two flags exclude each other, one does nothing, or values do not fit together.
    """
    known, displaced = declared(options), {}
    for name, value in given.items():
        for other in known[name].declared.instead_of if value else ():
            if given.get(other):
                raise UserError(f"{dashed(name)} and {dashed(other)}: give one of them")
            displaced[other] = known[other].default
    values = {**flat(base), **displaced, **given}
    if facts is not None:
        values |= facts(values)
    for name in given:
        if reason := idle(known[name], values):
            raise UserError(f"{dashed(name)}: {reason}")
    try:
        return _fitting(replace(base, {**displaced, **given}))
    except UserError as error:
        raise as_flags(error) from None


def _fitting(options: T) -> T:
    """The options without those of the model that a preset or a run has for another model."""
    model = getattr(options, "model", None)
    if not isinstance(model, ModelOptions):
        return options
    known, values = declared(type(options)), flat(options)
    unfit = [name for name in network_options(model) if idle(known[name], values)]
    return replace(options, dict.fromkeys(unfit))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message."""
        raise UserError(re.sub(r"^argument (--[\w-]+)\S*: ", r"\1: ", message))


class _Switch(argparse.Action):
    """`--flip` and `--no-flip`, or with a value `--flip True`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        """Add `--no-FLAG` to the names."""
        names = [*option_strings, *(f"--no-{name[2:]}" for name in option_strings)]
        super().__init__(names, dest, **settings)

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store `true`, `false`, or the value that is given."""
        given = "false" if str(option_string).startswith("--no-") else values or "true"
        setattr(namespace, self.dest, [given])


def typed(options: type, argv: Sequence[str] | None) -> dict[str, Any]:
    """The flags that are typed, with their values; prints the help where that is asked for."""
    tokens = [_spelled(token) for token in (sys.argv[1:] if argv is None else argv)]
    wanted = [token for token in tokens if token not in ("-h", "--help")]
    known = {name: f for name, f in declared(options).items() if not f.declared.hidden}
    namespace, rest = _plain_parser(options).parse_known_intermixed_args(wanted)
    if rest:
        raise UserError(unknown(rest[0], options))
    try:
        given = {
            name: known[name].read(texts if isinstance(texts, list) else [texts])
            for name, texts in vars(namespace).items()
        }
    except UserError as error:
        raise as_flags(error) from None
    if len(wanted) < len(tokens):
        # With `--system rcnn --help`, flags of other systems are left out.
        shown = {n: f for n, f in known.items() if n in given or not idle(f, given)}
        print(_parser(options, shown, described=True).format_help() + examples(options), end="")
        raise SystemExit(0)
    return given


@functools.cache
def _plain_parser(options: type) -> _Parser:
    """The command line of a verb, without the texts of its help."""
    return _parser(options, {n: f for n, f in declared(options).items() if not f.declared.hidden})


def _parser(options: type, known: Mapping[str, Flag], described: bool = False) -> _Parser:
    """The command line of these flags, a section for each group; with help texts, if asked for."""
    name = program(options.verb)
    positional = [
        f"{flag.declared.metavar}{' ...' if flag.several else ''}"
        for flag in known.values()
        if flag.declared.positional
    ]
    parser = _Parser(
        usage=" ".join([name, *positional, "[--FLAG VALUE ...]"]),
        description=inspect.cleandoc(options.__doc__ or ""),
        formatter_class=Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)")  # argparse's knows no -1e-3
    for title, text, flags, shared in sections(options, known):
        section = parser.add_argument_group(title, text)
        for flag in flags:
            _add(section, flag, help_text(flag, shared).replace("%", "%%") if described else "")
    return parser


def _add(section: argparse._ArgumentGroup, flag: Flag, described: str) -> None:
    """Add a flag. What is parsed is the text, or a list of texts."""
    names = [dashed(name) for name in (flag.name, *flag.declared.aliases.split())]
    if flag.type is bool:
        nargs = "?" if flag.optional else 0
        section.add_argument(*names, action=_Switch, dest=flag.name, nargs=nargs, help=described)
        return
    named: dict[str, Any] = {"metavar": metavar(flag), "help": described}
    if flag.declared.positional:
        section.add_argument(flag.name, nargs="*" if flag.several else "?", **named)
    else:
        nargs = (flag.length or "*") if flag.several else None
        section.add_argument(*names, dest=flag.name, nargs=nargs, **named)


def _spelled(token: str) -> str:
    """A flag with dashes where underscores were given."""
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value
