"""A run's options as a file: the `config.json` that a run writes, and what `--config` names."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cnn_jax.errors import UserError
from cnn_jax.reading import read_yaml
from cnn_jax.runs.folder import CONFIG_FILE, read_object

from .declare import Flag, checked, dashed, declared
from .messages import unknown, warn
from .values import fitting, flat, replace

T = TypeVar("T")

VERSION = 1
"""The version of what these files hold; a file of a later one is refused."""

_VERSION, _VERB, _RECORDED = "version", "verb", "recorded"


def described(options: Any, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a run's `config.json`.

    It has the version, the verb, every flag that describes the run, what else the run recorded, and
    the names of that.
    """
    names = describing(type(options))
    values = {name: value for name, value in flat(options).items() if name in names}
    begin = {_VERSION: VERSION, _VERB: options.verb}
    return {**begin, **values, **recorded, _RECORDED: list(recorded)}


def describing(options: type) -> set[str]:
    """The flags of `config.json`: they say what a run is, not what a command does with it."""
    return {
        name
        for name, flag in declared(options).items()
        if not (flag.declared.unrecorded or flag.declared.typed_only)
    }


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
    verb = content.get("verb", options.verb)
    if verb != options.verb:
        raise UserError(f"{path}: a run of {verb}, not of {options.verb}")
    names = describing(options)
    shown = (name for name, flag in declared(options).items() if not flag.declared.hidden)
    if missing := [dashed(n) for n in shown if n in names and n not in content]:
        warn(f"{path}: written without {', '.join(missing)}; the defaults are used")
    try:
        _check_version(content.get(_VERSION, VERSION))
        result = replace(options(), {k: v for k, v in content.items() if k in names})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return fitting(result)


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


def given_by(options: type, path: Path) -> dict[str, Any]:
    """The flags that a file gives to a command, by name.

    A file whose name ends with `.json` is JSON, any other YAML, whose values are read as typed ones
    are. The keys are the names of flags, with dashes or underscores; a folder stands for the
    `config.json` in it. What a run recorded besides its flags is passed over.

    Raises:
        UserError: the file cannot be read, is of another verb or a later version, or has a key that
            is no flag, is given twice or is only typed, or an illegal value.
    """
    if os.path.isdir(path):  # False of a name that is too long, too
        path = path / CONFIG_FILE
    is_json = path.suffix == ".json"
    content = read_object(path) if is_json else read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected flags and their values, such as `model: resnet18`")
    try:
        _check_origin(options, content)
        beside = content.pop(_RECORDED, ())
        return _flags(options, content, beside, Flag.checked if is_json else _as_typed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_origin(options: type, content: dict[str, Any]) -> None:
    """Take version and verb out of a file's content, and check them."""
    _check_version(content.pop(_VERSION, VERSION))
    verb = content.pop(_VERB, options.verb)
    if verb != options.verb:
        raise UserError(f"describes a run of {verb}, not of {options.verb}")


def _check_version(version: Any) -> None:
    """Raise UserError unless this code reads files of a version, a number or its text."""
    if str(version) != str(VERSION):
        raise UserError(f"version {version}: this version of the code reads {VERSION} alone")


def _flags(
    options: type, content: Mapping[str, Any], beside: Any, read: Callable[[Flag, Any], Any]
) -> dict[str, Any]:
    """The values of a file by flag, but for the keys that are no flags and stand in `beside`."""
    known = declared(options)
    names = {alias: name for name, f in known.items() for alias in f.declared.aliases.split()}
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        name = name if name in known else names.get(name.replace("_", "-"), name)
        if name not in known:
            if isinstance(beside, list) and key in beside:
                continue
            raise UserError(unknown(dashed(key), options))
        if name in values:
            raise UserError(f"{key}: {dashed(name)} is given twice")
        values[name] = read(known[name], value)
        if known[name].declared.typed_only:
            if values[name] != known[name].default:
                raise UserError(f"{key}: is only typed; a file says what a run is")
            del values[name]
    return values


def _as_typed(flag: Flag, value: Any) -> Any:
    """The value of a flag that a YAML file gives as texts.

    Raises:
        UserError: it is of another type, or out of range.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        return flag.checked(value)
    return flag.read(texts)
