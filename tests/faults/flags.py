"""Odd values for every declared flag of every verb, drawn from its declaration.

A flag that is added is covered by being declared, and so is a verb that is added to `VERBS`.
"""

import random
from collections.abc import Iterator

from cnn_jax.errors import UserError
from experiments import annotate, classify, compare, detect, presets, segment, translate
from experiments import options as flags
from experiments.benchmark import __main__ as benchmark
from experiments.options.declare import is_text

TRAINING = {v.Options.verb: v.Options for v in (classify, annotate, detect, segment, translate)}
VERBS = {
    **TRAINING,
    "predict": flags.PredictOptions,
    "compare": compare.Options,
    "benchmark": benchmark.Options,
}
"""The options of each verb."""

PRESETS = {
    "classify": presets.CLASSIFICATION,
    "annotate": presets.ANNOTATION,
    "detect": presets.DETECTION,
    "segment": presets.SEGMENTATION,
    "translate": presets.TRANSLATION,
}

_NO_NUMBERS = (
    "nan",
    "NaN",
    "-nan",
    "inf",
    "-inf",
    "infinity",
    "1e400",
    "-1e400",
    "x",
    "1 2",
    "0x10",
)
_TEXTS = (
    "",
    "\0",
    "a\0b",
    "\udcff",
    "\udc80/\udcff",
    "\x1b[31m",
    "x" * 5000,
    "-",
    "--",
    "é/ü",
    "%s",
)


def exposed(verb: str) -> list[flags.Flag]:
    """The flags of a verb that can be typed."""
    return [f for f in flags.declared(VERBS[verb]).values() if not f.declared.hidden]


def odd_values(flag: flags.Flag, rng: random.Random) -> list[str]:
    """Texts to type as one value of a flag: at its ends, beyond them, and no value at all."""
    if flag.range is not None:
        low, high = flag.range.low, flag.range.high
        span = high - low
        inside = rng.uniform(low, high)
        numbers = [0, -1, 1, low, high, low - 1, high + 1, low - span, 10 * high + 10, 2**31, 2**63]
        numbers += [-(10**30), 10**30, int(inside)]
        numbers += [inside, 0.5, 1e-320, -1e-9, 1e300, low - 1e-9, high + 1e-6] if span else []
        return [*map(str, numbers), *_NO_NUMBERS, *_TEXTS, "9" * 5000, "1" * 400, "None", "true"]
    if flag.choices:
        wrong = [flag.choices[0].upper(), f"{rng.choice(flag.choices)}x", "None", "0"]
        return [*flag.choices, *wrong, *_TEXTS]
    if flag.type is bool:
        return ["true", "false", "maybe", "1", "None", *_TEXTS]
    return [*_TEXTS, "nan", "-1", "0", "None", "x"]


def command_lines(rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Command lines of one to three flags with odd values, without end: (verb, arguments)."""
    while True:
        verb = rng.choice(list(VERBS))
        known = exposed(verb)
        argv: list[str] = []
        for flag in rng.sample(known, min(len(known), rng.choice((1, 1, 2, 3)))):
            argv += typed(flag, rng)
        yield verb, argv


def typed(flag: flags.Flag, rng: random.Random) -> list[str]:
    """One flag as somebody may type it, with odd values; now and then with too many or none."""
    count = 1
    if flag.several:
        count = flag.length or rng.randint(0, 4)
        count += rng.choice((0, 0, 0, 0, 1, -1)) if flag.length else 0
    values = [rng.choice(odd_values(flag, rng)) for _ in range(count)]
    if flag.declared.positional:
        return values
    names = [flag.dashed, *(f"--{alias}" for alias in flag.declared.aliases.split())]
    name = rng.choice(names)
    if flag.type is bool:
        return rng.choice(([name], [f"--no-{name[2:]}"], [f"{name}={values[0]}"]))
    if len(values) == 1 and rng.random() < 0.5:
        return [f"{name}={values[0]}"]
    return [name, *values]


def parsed(verb: str, argv: list[str]) -> object:
    """The options of a command line, as the command itself reads them.

    Raises:
        UserError: they are refused.
    """
    if verb in TRAINING:
        return flags.parse(VERBS[verb], argv, PRESETS[verb], "system" if verb == "detect" else None)
    facts = {"predict": lambda values: {"verb": "segment"}}.get(verb)
    return flags.parse_plain(VERBS[verb], argv, facts)


def problem(verb: str, argv: list[str]) -> str | None:
    """What is wrong with the outcome of a command line; None if nothing is.

    It is right if the command line is refused in one line, or if it is accepted and each value lies
    in the range that its flag declares.
    """
    try:
        options = parsed(verb, argv)
    except UserError as error:
        return None if "\n" not in str(error).strip() else f"several lines: {error}"
    except SystemExit as end:  # --help, --preset list
        return f"ends with status {end.code}" if end.code else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    values = flags.flat(options)
    for name, flag in flags.declared(VERBS[verb]).items():
        several = isinstance(values[name], tuple)
        for value in values[name] if several else (values[name],):
            if flag.range is not None and value is not None and value not in flag.range:
                return f"{flag.dashed} {value!r} is accepted, and must be {flag.range}"
            if isinstance(value, str) and not is_text(value):
                return f"{flag.dashed} {value!r} is accepted, and is no text"
    return None
