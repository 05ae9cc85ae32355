"""Odd values of every declared flag, drawn from its declaration; command lines made of them."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments import options as options_of
from experiments import presets
from experiments.options import Flag, declared
from tests.verbs import OPTIONS

TRAINING = {
    "classify": presets.CLASSIFICATION,
    "annotate": presets.ANNOTATION,
    "detect": presets.DETECTION,
    "segment": presets.SEGMENTATION,
    "translate": presets.TRANSLATION,
}
PLAIN = ("predict", "compare", "benchmark", "pack", "inspect", "index", "similar")

ODD_TEXTS = (
    "", " ", "nan", "0", "-1", "None", "list", "a\0b", "\udcff\udcfe", "x" * 5000, "नमस्ते", "a b",
    "../..", "/dev/zero", "/nowhere/at/all", "--help", "-", "a,b", "a=b=c", "\x1b[31m", "%s%n",
    "a\nb",
)  # fmt: skip
ODD_NUMBERS = (
    "nan", "inf", "-inf", "0", "-0.0", "-1", "1", "2", "1e400", "1e-400", "-1e-3", "1e30",
    "9" * 400,
    "2147483647", "2147483648", "-2147483649", "18446744073709551616", "1_000", "0x10", "1.5", "",
    "x", "١٢", "½", "1e5", "16384", "True", "None",
)  # fmt: skip


def odd_texts(flag: Flag, rng: np.random.Generator) -> str:
    """One odd text for a flag: near the ends of its range, of another type, or no choice."""
    if flag.range is not None:
        low, high = flag.range.low, flag.range.high
        step = 1 if flag.type is int else (high - low) * 1e-6
        ends = [low, high, low - step, high + step, low + step, high - step, (low + high) / 2]
        ends += [math.nextafter(float(end), way) for end in (low, high) for way in (-1e300, 1e300)]
        drawn = float(rng.uniform(low, high))
        ends = [int(e) if flag.type is int else e for e in [*ends, drawn]]
        choices = [*map(str, ends), *ODD_NUMBERS]
    elif flag.choices:
        own = [str(choice) for choice in flag.choices]
        choices = [*own, *ODD_TEXTS, own[0].upper()]
    elif flag.type is bool:
        choices = ["true", "false", *ODD_TEXTS, *ODD_NUMBERS]
    else:
        choices = [*ODD_TEXTS, *ODD_NUMBERS, str(flag.default)]
    return choices[rng.integers(len(choices))]


def odd_value(flag: Flag, rng: np.random.Generator) -> list[str]:
    """Draw what is typed after a flag: one text, or several, or a wrong number of them."""
    usual = flag.length or (int(rng.integers(4)) if flag.several else 1)
    count = usual if rng.random() < 0.9 else int(rng.integers(4))
    return [odd_texts(flag, rng) for _ in range(count)]


def typeable(verb: str) -> list[Flag]:
    """The flags of a command that can be typed."""
    return [f for f in declared(OPTIONS[verb]).values() if not f.declared.hidden]


def command_line(verb: str, rng: np.random.Generator) -> list[str]:
    """One to three flags of a command with odd values."""
    known = typeable(verb)
    argv: list[str] = []
    for number in rng.choice(
        len(known), size=min(int(rng.integers(1, 4)), len(known)), replace=False
    ):
        flag = known[number]
        value = odd_value(flag, rng)
        if flag.type is bool:
            argv += [flag.dashed if rng.random() < 0.5 else f"--no-{flag.dashed[2:]}"]
            argv += value if rng.random() < 0.1 else []
        elif flag.declared.positional:
            argv += value
        else:
            spelled = rng.random() < 0.2 and flag.declared.aliases.split()
            argv += [f"--{spelled[0]}" if spelled else flag.dashed, *value]
    return argv


def parsed(verb: str, argv: list[str]) -> Any:
    """The options that a command line gives, as the command reads them."""
    if verb in TRAINING:
        variant = "system" if verb == "detect" else None
        return options_of.parse(OPTIONS[verb], argv, TRAINING[verb], variant)
    return options_of.parse_plain(OPTIONS[verb], argv)


def parse_odd(verb: str, rng: np.random.Generator, folder: Path, tell: Any) -> None:
    """Parse a command line of odd values; what is accepted lies in its declared range."""
    argv = command_line(verb, rng)
    tell(f"{verb} {json.dumps(argv)}"[:500])
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            accepted = options_of.flat(parsed(verb, argv))
    except SystemExit as end:
        assert end.code in (0, None), f"status {end.code}"
        return
    for name, flag in declared(OPTIONS[verb]).items():
        require_legal(flag, accepted[name])


def require_legal(flag: Flag, value: Any) -> None:
    """Fail unless a value is of the flag's type and in its range, judged without its own check."""
    if value is None:
        assert flag.optional, f"{flag.dashed} is None"
        return
    items = value if flag.several else (value,)
    for item in items:
        assert type(item) is flag.type, f"{flag.dashed} {item!r} is no {flag.type.__name__}"
        if flag.range is not None:
            inside = flag.range.low <= item <= flag.range.high
            assert inside and math.isfinite(item), f"{flag.dashed} {item!r} is not {flag.range}"
        if flag.choices:
            assert item in flag.choices, f"{flag.dashed} {item!r} is no choice"


def odd_config(verb: str, rng: np.random.Generator, config: dict[str, Any]) -> str:
    """Give a key of a run's configuration a value of another type or out of its range."""
    values = (
        None, True, -1, 0, 1e308, 10**400, "", "x", "\ud800", [], {}, [None], [[1]], 0.5, "nan",
        ["a"] * 3, [1.0] * 3, {"a": 1}, 2**63, -0.5,
    )  # fmt: skip
    keys = sorted(config)
    key = keys[rng.integers(len(keys))]
    config[key] = values[rng.integers(len(values))]
    return f"{key} = {str(config[key])[:40]!r}"
