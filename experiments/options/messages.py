"""The messages of commands: their help, mistakes with the flag that was meant, and the end."""

import argparse
import ast
import dataclasses
import difflib
import errno
import functools
import importlib
import inspect
import io
import itertools
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnn_jax import files
from cnn_jax.errors import DivergenceError, UnfinishedError, UserError, one_line

from .. import interrupts
from .declare import Conditions, Flag, dashed, declared, in_words

_PACKAGE = __package__.rpartition(".")[0]

_SMALLER = "a smaller --batch-size, image or network needs less"

VERBS = ("classify", "annotate", "detect", "segment", "translate")
"""The commands that train."""

_REFUSALS = files.REFUSALS | {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
"""The operating system's refusals that are no mistake of the code, those of odd names included."""

_UNFINISHED = 75
"""The exit status of a run that was asked to end early: EX_TEMPFAIL, "try again later"."""

_UNREAD = 128 + 13
"""The exit status of a command whose output nobody reads any more, as where SIGPIPE ends it."""

_SHORT = 4
"""Aliases of at most this many letters are shown in the help, one for each flag."""

_MEANT = {
    "batch_size": "batch",
    "checkpoint_every": "checkpoint-interval",
    "distributed": "device devices gpu gpus multi-gpu num-gpus world-size",
    "dropout_rate": "drop dropout",
    "dtype": "amp bf16 fp16 half precision",
    "epochs": "length",
    "erase": "reprob",
    "eval_only": "mode test validate",
    "flip": "hflip",
    "flip_vertical": "vflip",
    "hidden_size": "hidden-dim",
    "image_size": "train-size train-crop-size",
    "label_smoothing": "smoothing",
    "learning_rate": "lrate rate",
    "milestones": "lr-step-size lr-steps",
    "model": "backbone encoder network",
    "nms_threshold": "iou",
    "out": "log-dir name project save save-dir",
    "policy": "aa auto-augment",
    "resize": "crop-pct",
    "resume": "checkpoint ckpt load load-from",
    "init_from": "checkpoint ckpt finetune initial-checkpoint load load-from pretrained weights",
    "schedule": "lr-schedule",
    "seed": "random-seed",
    "split": "val-split",
    "steps": "length",
    "workers": "threads",
}
"""Flags here, and the flags of other libraries whose users may mean them.

Where the values are the same too, the other name is one of the flag's aliases instead.
"""


def as_flags(error: UserError) -> UserError:
    """The error with the flag in place of the parameter that it names."""
    return UserError(error.text(dashed))


def entry(main: Callable[[], None]) -> None:
    """Run an entry point: a user's mistake ends with one line and status 2, divergence with 3.

    A run that was asked to end early has status 75, and is continued with `--resume`. Elsewhere
    Ctrl-C ends a command with one line and status 130. What the operating system refuses (no space,
    no more files, no permission) is the user's to mend, too, wherever it is met.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal of another encoding shows what it lacks as an escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with interrupts.raised():
            main()
    except KeyboardInterrupt:
        interrupts.end()
    except UnfinishedError as error:
        if text := str(error):  # a training has told it already
            print(text, file=sys.stderr)
        interrupts.end_within(interrupts.SECONDS, _UNFINISHED)
        raise SystemExit(_UNFINISHED) from None
    except UserError as error:
        _end(as_flags(error), 2)
    except DivergenceError as error:
        _end(error, 3)
    except MemoryError as error:
        _end(UserError(f"out of memory ({error or 'of this machine'}); {_SMALLER}"), 2)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        if "RESOURCE_EXHAUSTED" in reason:
            _end(UserError(f"out of memory ({reason}); {_SMALLER}"), 2)
        if not _raised_in(error, "xla_bridge.py"):
            _leave()
            raise
        platforms, reason = os.environ.get("JAX_PLATFORMS", ""), reason or "JAX finds none"
        _end(UserError(f"JAX_PLATFORMS={platforms}: no such device here ({reason})"), 2)
    except BrokenPipeError:
        # The reader of a pipe left (`| head`): nothing more can be said.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        interrupts.end_within(interrupts.SECONDS, _UNREAD)
        raise SystemExit(_UNREAD) from None
    except OSError as error:
        if error.errno not in _REFUSALS:
            _leave()
            raise
        _end(": ".join(map(str, filter(None, (error.filename, error.strerror)))), 2)
    except Exception:
        _leave()
        raise


def _leave() -> None:
    """End soon after the traceback: other processes of the run may wait for this one."""
    interrupts.end_within(interrupts.SECONDS, 1)


def _raised_in(error: BaseException, file: str) -> bool:
    """Tell whether an error comes from a file of this name."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).name == file


def warn(message: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {message}", file=sys.stderr)


def _end(error: Exception | str, status: int) -> None:
    print(f"error: {one_line(' '.join(str(error).split()))}", file=sys.stderr)
    interrupts.end_within(interrupts.SECONDS, status)
    raise SystemExit(status)


def unknown(token: str, options: type) -> str:
    """The message about a token that the command does not understand."""
    if not token.startswith("-"):
        return f"{token}: not expected here; flags begin with --, and --help lists them"
    typed = token.split("=")[0]
    known = {
        spelling: flag.name
        for flag in declared(options).values()
        if not (flag.declared.hidden or flag.declared.positional)
        for spelling in (flag.name.replace("_", "-"), *flag.declared.aliases.split())
    }
    name = re.sub(r"^no-", "", typed.lstrip("-"))
    having = [verb for verb, flags in _other_verbs(options) if name in flags]
    if having:
        return f"{typed}: no flag of {options.verb}; {_listed(having)} {_have(having)} it"
    meant = [flag for flag, names in _MEANT.items() if name in names.split()]
    meant = [flag for flag in meant if flag in known.values()]
    if not meant:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        meant = list(dict.fromkeys(known[spelling] for spelling in near))[:2]
    hint = f"; nearest: {', '.join(map(dashed, meant))}" if meant else ""
    return f"{typed}: no such flag{hint}; --help lists all"


def _other_verbs(options: type) -> Iterator[tuple[str, set[str]]]:
    """The names of the flags of the other verbs."""
    own = options.verb
    if own not in VERBS and own != "predict":
        return
    found = {verb: importlib.import_module(f"{_PACKAGE}.{verb}").Options for verb in VERBS}
    found["predict"] = importlib.import_module(".predict", __package__).PredictOptions
    for verb, other in found.items():
        if verb != own:
            flags = (f for f in declared(other).values() if not f.declared.hidden)
            yield verb, {flag.name.replace("_", "-") for flag in flags}


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _have(names: list[str]) -> str:
    return "have" if len(names) > 1 else "has"


class Formatter(argparse.HelpFormatter):
    """Help where a flag's names are followed by its value once."""

    def __init__(self, prog: str) -> None:
        """Leave 24 columns for the flags."""
        super().__init__(prog, max_help_position=24)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # A range stays on one line: textwrap does not break at no-break spaces.
        whole = re.sub(r"\(in [(\[]\S+ \S+\)", lambda found: found[0].replace(" ", "\xa0"), text)
        lines = textwrap.wrap(whole, width, break_on_hyphens=False)
        return [line.replace("\xa0", " ") for line in lines]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        first, *others = action.option_strings
        if f"--no-{first[2:]}" in others:
            return f"--[no-]{first[2:]}"
        short = [name for name in others if len(name) <= len("--") + _SHORT][:1]
        return f"{', '.join([first, *short])} {self._format_args(action, '')}"


def sections(
    options: type, known: Mapping[str, Flag]
) -> Iterator[tuple[str, str, list[Flag], Conditions]]:
    """Title, description, flags, and the conditions that the description names, for each group."""
    by_section: dict[str, list[Flag]] = {}
    for flag in known.values():
        by_section.setdefault(flag.section, []).append(flag)
    for section, flags in by_section.items():
        shared = {
            key: wanted
            for key, wanted in flags[0].declared.only.items()
            if len(flags) > 1 and all(_within(f.declared.only.get(key), wanted) for f in flags)
        }
        owner = flags[0].owner
        text = inspect.cleandoc(owner.__doc__ or "").split("\n\n")[0] if section else ""
        conditions = [f"Only with {in_words(*item)}." for item in shared.items()]
        yield (
            section.replace("_", " ") or "flags",
            " ".join([*text.split(), *conditions]),
            flags,
            shared,
        )


def _within(condition: Any, other: Any) -> bool:
    """Tell whether what fulfils a condition fulfils the other one of the same flag."""
    several = isinstance(condition, tuple) and isinstance(other, tuple)
    return set(condition) <= set(other) if several else condition == other


def help_text(flag: Flag, shared: Conditions = MappingProxyType({})) -> str:
    """The text below the field, conditions that the section has not named, range and default."""
    text = flag.declared.help or _docs(flag.owner).get(flag.name, "")
    only = [
        in_words(key, wanted, most=4)
        for key, wanted in flag.declared.only.items()
        if wanted != shared.get(key) and key != "model"  # whose families are named
    ]
    if verbs := flag.declared.only.get("verb"):
        only = [f"runs of {_listed(verbs)}"]
    unless = [in_words(*item, most=4) for item in flag.declared.unless.items()]
    parts = [
        text,
        f"Only with {' and '.join(only)}." if only else "",
        f"Not with {' or '.join(unless)}." if unless else "",
    ]
    if flag.range is not None:
        parts.append(f"({flag.range})")
    default = flag.default
    if flag.type is bool:
        parts.append("" if flag.optional else f"(default: {'on' if default else 'off'})")
    elif default not in (None, (), ""):
        shown = " ".join(map(_number, default)) if flag.several else _number(default)
        parts.append(f"(default: {shown})")
    return " ".join(" ".join(filter(None, parts)).split())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metavar(flag: Flag) -> str:
    """The placeholder of one value in the help."""
    if flag.declared.metavar:
        return flag.declared.metavar
    if flag.choices:
        return f"{{{','.join(map(str, flag.choices))}}}"
    return {int: "N", float: "X", str: "TEXT"}[flag.type]


@functools.cache
def _docs(owner: type) -> dict[str, str]:
    """The texts below the fields of a dataclass and of what it inherits from."""
    texts: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        # A class without a statement is made by `model_group`; its fields have their help declared.
        written = _classes(cls.__module__) if dataclasses.is_dataclass(cls) else {}
        if cls.__name__ in written:
            for field, below in itertools.pairwise(written[cls.__name__].body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                        texts[name] = " ".join(text.split())
    return texts


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The statements of a module's classes, by name.

    `inspect.getsource` of a class fails from Python 3.13 on where it was made without one.
    """
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {one.name: one for one in body if isinstance(one, ast.ClassDef)}


def program(verb: str) -> str:
    """The command as it is typed here."""
    console = Path(sys.argv[0]).name.startswith("cnn-jax")
    return f"cnn-jax {verb}" if console else f"python -m {_PACKAGE}.{verb}"


def examples(options: type) -> str:
    """The commands in the docstring of the module that defines a command, for the help's end."""
    verb = options.verb
    called = f"python -m experiments.{verb}"
    own = sys.modules[options.__module__].__doc__ or ""
    text = own if called in own else importlib.import_module(f"{_PACKAGE}.{verb}").__doc__ or ""
    shown = ["", "examples:"]
    for line in text.splitlines():
        command, _, comment = line.strip().replace(called, program(verb)).partition("#")
        if line.strip().startswith(called):
            shown += [f"  # {comment.strip()}"] if comment else []
            shown += textwrap.wrap(
                command, 78, initial_indent="  ", subsequent_indent="    ", break_long_words=False
            )
    return "\n".join([*shown, ""]) if len(shown) > 2 else ""
