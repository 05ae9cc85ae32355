"""From the command line, files and presets to a command's options."""

import argparse
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cnn_jax.errors import UserError

from .config import describing, given_by, stored
from .declare import Flag, dashed, declared, idle
from .messages import (
    Formatter,
    as_flags,
    examples,
    help_text,
    metavar,
    program,
    sections,
    unknown,
)
from .values import fitting, flat, replace

T = TypeVar("T")

_ARGUMENTS = ("momentum", "nesterov", "optimizer_options")
"""The flags that are arguments of the optimizer."""


def parse(
    options: type[T],
    argv: Sequence[str] | None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    variant: str | None = None,
) -> T:
    """The options of a command: what is typed, over `--config`, over the preset, over defaults.

    A run that is continued has its own options in place of a preset; a file has to describe it.

    Args:
        options: a dataclass of groups, a `RunOptions` called `run` among them.
        argv: the command line; None for the process's own.
        presets: values by flag, by the preset's name. One with the name of `--data` is its default.
            Where another optimizer is given, the arguments of the preset's own do not count.
        variant: a flag by whose value there are presets of their own: with `--system rcnn`,
            `shapes_rcnn` takes the place of `shapes`, and `shapes_others` where it is given
            another value than in `shapes`.

    Raises:
        UserError: on an unknown flag or preset, an illegal value, a flag that does nothing, or a
            value that would make a resumed run another.
    """
    given = typed(options, argv)
    if given.get("resume") or (given.get("eval_only") and given.get("out") is not None):
        if given.get("out") is None:
            raise UserError("--resume: say which run with --out DIR")
        return _continued(options, given)
    named = given.get("config")
    from_file = given_by(options, Path(named)) if named else {}
    chosen = _preset(flat(options()), {**from_file, **given}, presets or {}, variant)
    base = replace(options(), chosen)
    if named:
        base = _over(base, from_file, given, named)
    if chosen:
        given = {**given, "preset": chosen["preset"]}
    return _settled(options, base, given)


def _continued(options: type[T], given: Mapping[str, Any]) -> T:
    """The options of the run in `--out`, with what is typed.

    A file of `--config` may be typed again; what it says has to be the run's.

    Raises:
        UserError: there is none, or it would become another run.
    """
    earlier = stored(options, Path(given["out"]))
    before, known = flat(earlier), declared(options)
    typed = {name: value for name, value in given.items() if name != "config"}
    file = given.get("config")
    from_file = given_by(options, Path(file)) if file else {}
    passed_over = {*typed, *_displaced(known, typed)}
    from_file = {
        name: value
        for name, value in from_file.items()
        if name not in passed_over and value != before[name] and not idle(known[name], before)
    }
    for name, value in {**from_file, **typed}.items():
        said = known[name].declared
        legal = said.resumable or said.moves or (said.lengthens and given.get("resume"))
        if value != before[name] and not legal:
            flag, held = dashed(name), repr(before[name])
            if name in from_file:
                flag, held = "--config", f"{flag} {held}"
            raise UserError(
                f"{flag}: the run in {given['out']} has {held}; "
                "a run is continued with its own options, leave the flag out"
            )
    return _settled(options, earlier, {**from_file, **typed})


def _over(base: T, from_file: Mapping[str, Any], given: Mapping[str, Any], file: str) -> T:
    """`base` with the flags of a file, but for those that do nothing beside it and what is typed.

    Raises:
        UserError: two flags exclude each other.
    """
    known = declared(type(base))
    try:
        displaced = _displaced(known, from_file)
    except UserError as error:
        # In a run's own file one of them was made of the other.
        if not from_file.keys() >= describing(type(base)):
            raise UserError(f"{file}: {error}") from None
        displaced = {}
    values = {**flat(base), **displaced, **from_file, **given}
    useful = {name: value for name, value in from_file.items() if not idle(known[name], values)}
    return replace(base, {**displaced, **useful})


def _displaced(known: Mapping[str, Flag], given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags whose place others take, with their defaults.

    Raises:
        UserError: both are given.
    """
    displaced: dict[str, Any] = {}
    for name, value in given.items():
        for other in known[name].declared.instead_of if value else ():
            if given.get(other):
                raise UserError(f"{dashed(name)} and {dashed(other)}: give one of them")
            displaced[other] = known[other].default
    return displaced


def _preset(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]],
    variant: str | None = None,
) -> dict[str, Any]:
    """The values of the preset that is asked for, or that the data has; empty for none."""
    start = {**defaults, **given}
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
    value = given.get(variant)
    if value is not None and value != presets[preset].get(variant):
        own = (f"{preset}_{value}", f"{preset}_others")
        preset = next((name for name in own if name in presets), preset)
    values = _shortened(presets[preset], given)
    if "optimizer" in given and given["optimizer"] != {**defaults, **values}["optimizer"]:
        values = {k: v for k, v in values.items() if k not in _ARGUMENTS}  # another one's
    return {**values, "preset": preset}


def preset_notice(
    parsed: Any,
    argv: Sequence[str] | None,
    presets: Mapping[str, Mapping[str, Any]],
    variant: str | None,
) -> str | None:
    """Lines about what a preset gave that was not asked for; None where there are none.

    It may have taken the place of the one asked for, or of the data's own; or its learning rate may
    be that of another optimizer.

    Args:
        parsed: what `parse` made of the other arguments, which are the same as there.
    """
    given = typed(type(parsed), argv)
    # A run that is continued, and a file of options, name the preset that they have.
    if given.keys() & {"resume", "eval_only", "config"}:
        return None
    chosen, asked = parsed.run.preset, given.get("preset", parsed.data.data)
    if asked not in presets:
        return None
    lines = []
    if chosen != asked:
        own = f"--{variant} {given[variant]}"
        lines.append(f"preset: {chosen} in place of {asked}, which is not for {own}")
    tuned = {**flat(type(parsed)()), **presets[chosen]}
    optimizer, rate = parsed.optimizer.optimizer, "learning_rate"
    if optimizer != tuned["optimizer"] and rate in presets[chosen] and rate not in given:
        own = f"{tuned[rate]:g}, which preset {chosen} has for {tuned['optimizer']}"
        lines.append(f"learning rate: {own}; --learning-rate sets that of {optimizer}")
    return "\n".join(lines) or None


def _shortened(preset: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A preset whose warm-up is the same share of a run of another number of steps."""
    steps = given.get("steps")
    if steps is None or not preset.keys() >= {"steps", "warmup"}:
        return preset
    return {**preset, "warmup": steps * preset["warmup"] // preset["steps"]}


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
    chosen = _preset(flat(options()), given, presets)
    known = declared(options)
    values = {name: value for name, value in chosen.items() if name in known}
    return _settled(options, replace(options(), values), given, facts)


def resumable(options: type) -> set[str]:
    """The flags that a resumed run may be given anew without becoming another run."""
    return {name for name, flag in declared(options).items() if flag.declared.resumable}


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
    known = declared(options)
    displaced = _displaced(known, given)
    values = {**flat(base), **displaced, **given}
    if facts is not None:
        values |= facts(values)
    for name in given:
        if reason := idle(known[name], values):
            raise UserError(f"{dashed(name)}: {reason}")
    try:
        return fitting(replace(base, {**displaced, **given}))
    except UserError as error:
        raise as_flags(error) from None


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
    shown: str | tuple[str, ...] = metavar(flag)
    if len(shown.split()) == flag.length:  # a name for each value
        shown = tuple(shown.split())
    named: dict[str, Any] = {"metavar": shown, "help": described}
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
