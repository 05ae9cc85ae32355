"""A claim as its file states it: `experiments/claims/NAME.yaml`.

    claim: the sentence
    source: the paper, and its table or figure
    paper: the paper's figure, in words
    data: what is trained on, and how it is unpacked
    note: in what the runs differ from the paper's, and why
    verb: the command that trains
    flags: the flags that all runs share
    minutes: about the time of a run on two CPU cores
    seeds: [0, 1, 2, 3, 4]
    settings: {NAME: flags, ...}
    tune: {learning_rate: [0.01, 0.1], by: MEASURE, seeds: [0]}   # each setting at its best value
    measures: {NAME: {metric: KEY, ...}, ...}           # see `Measure`
    comparisons: [{sentence: ..., effect: {SETTING: 1, OTHER: -1}, ...}, ...]    # see `Comparison`
    plot: {measure: NAME, x: label, lines: {LABEL: {X: SETTING, ...}, ...}}

`{data}` in flags stands for the folder that the variable CNN_JAX_DATA names. The seeds of `tune`
choose the values, by default all do; the other seeds are run with these values alone.
"""

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from cnn_jax.errors import UserError, nearest
from cnn_jax.ranges import Range
from cnn_jax.reading import read_yaml
from cnn_jax.runs.names import METRICS

from .. import compare
from .. import options as flags
from ..sweep import settings
from ..sweep.plan import command

FOLDER = Path(__file__).parent
DATA = "CNN_JAX_DATA"
"""The variable with the folder of data that a claim may need."""

# What says where a run is and how it is told, and not what comes out of it.
_INCIDENTAL = (compare.INCIDENTAL - {"seed", "eval_every"}) | {"preset", "config"}
_Verb = Literal["classify", "annotate", "detect", "segment", "translate"]
_Number = Annotated[float, Range(-1e9, 1e9)]
_Seeds = Annotated[tuple[int, ...], Range(0, 2**32 - 1)]


@dataclass(frozen=True)
class Measure:
    """A number of each run.

    Attributes:
        name: its name in the claim.
        metric: the key of its evaluation; `seconds_per_image` is timed (see `timing`).
        evaluate: flags of an evaluation after the training; None takes the training's last one.
        reach: the measure is the number of steps until the metric has this value, where given.
        diverged: the value of a run whose loss was not finite; None leaves such runs out.
        of: the settings that it is measured of; empty for all.
    """

    name: str
    metric: str
    evaluate: Sequence[str] | None = None
    reach: float | None = None
    diverged: float | None = None
    of: Sequence[str] = ()

    @property
    def timed(self) -> bool:
        """Tell whether it depends on the machine, so that values of one machine belong together."""
        return self.metric == "seconds_per_image"

    @property
    def higher_is_better(self) -> bool:
        """Tell whether a larger value is a better one."""
        lower = self.timed or self.reach is not None
        return not lower and METRICS[self.metric].higher_is_better is not False


@dataclass(frozen=True)
class Comparison:
    """A comparison of settings that a claim stands or falls with.

    Attributes:
        sentence: its claim.
        effect: the weight of each term, a setting and a measure; the sum is above 0 where the claim
            holds.
        smallest: the paper's effect, or the smallest that matters.
        stated: whether the paper has a figure for it; without, `smallest` was chosen here.
        expected: `above` 0; or `not_below`: not below 0 by as much as the smallest effect.
        ratio: whether logarithms are added: the effect is then a ratio, and so is the smallest.
    """

    sentence: str
    effect: Mapping[tuple[str, str], float]
    smallest: float
    expected: Literal["above", "not_below"] = "above"
    ratio: bool = False
    stated: bool = True


@dataclass(frozen=True)
class Plot:
    """The plot of a claim: lines of terms, each at a place of the axis.

    Attributes:
        x: the name of the horizontal axis.
        y: the name of the vertical one.
        lines: by label, the terms by place.
    """

    x: str
    y: str
    lines: Mapping[str, Mapping[str, tuple[str, str]]]


@dataclass(frozen=True)
class Variant:
    """A setting with a value of what is tuned.

    Attributes:
        setting: its name in the claim.
        tuned: the values of the tuned flags.
        typed: its flags as they are typed.
    """

    setting: str
    tuned: Mapping[str, Any]
    typed: Sequence[str]

    @property
    def named(self) -> dict[str, Any]:
        """Its place in the sweep's table."""
        return {"setting": self.setting, **self.tuned}

    @property
    def label(self) -> str:
        """Its name in the rows."""
        values = (f"{name}={value}" for name, value in self.tuned.items())
        return ",".join([self.setting, *values])


@dataclass(frozen=True)
class Claim:
    """A claim: what is trained, what is measured, and what must come out. See the module."""

    name: str
    claim: str
    source: str
    paper: str
    data: str
    note: str
    verb: str
    flags: Sequence[str]
    minutes: float
    seeds: Sequence[int]
    variants: Sequence[Variant]
    tuned_by: str | None
    tuned_on: Sequence[int]
    measures: Mapping[str, Measure]
    comparisons: Sequence[Comparison]
    plot: Plot

    def of(self, setting: str) -> list[Variant]:
        """The variants of a setting, or the one whose label it is."""
        return [variant for variant in self.variants if setting in (variant.setting, variant.label)]

    @property
    def measured(self) -> list[tuple[Variant, Measure]]:
        """All that is measured of a seed."""
        return [
            (variant, measure)
            for variant in self.variants
            for measure in self.measures.values()
            if not measure.of or variant.setting in measure.of
        ]

    @property
    def runs(self) -> int:
        """The number of runs: all variants with the seeds that choose, then one of each setting."""
        settings = {variant.setting for variant in self.variants}
        chosen = len(self.seeds) - len(self.tuned_on)
        return len(self.tuned_on) * len(self.variants) + chosen * len(settings)

    @property
    def needs_data(self) -> bool:
        """Tell whether it reads data below the folder of CNN_JAX_DATA."""
        return any("{data}" in text for v in self.variants for text in (*self.flags, *v.typed))

    def placed(self, typed: Sequence[str]) -> list[str]:
        """Flags with the folder of the data in the place of `{data}`.

        Raises:
            UserError: they need data, and CNN_JAX_DATA does not name its folder.
        """
        folder = os.environ.get(DATA)
        if any("{data}" in text for text in typed) and not (folder and Path(folder).is_dir()):
            raise UserError(
                f"{DATA}: must name the folder of the data of {self.name} ({self.data})"
            )
        return [text.replace("{data}", folder or "") for text in typed]

    def key(self, variant: Variant, seed: int, measure: Measure) -> str:
        """The hash of all that decides a value, which names its row.

        It is of the flags that are not the defaults, wherever the data lies, of the evaluation and
        of the measure.
        """
        values = self._values[variant.label]
        content = {
            "verb": self.verb,
            "flags": {**values, "seed": seed},
            "measure": {
                k: v for k, v in dataclasses.asdict(measure).items() if k not in ("name", "of")
            },
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _values(self) -> dict[str, dict[str, Any]]:
        """The values of each variant's flags, but for defaults and what does not matter."""
        chosen = command(self.verb)
        defaults = flags.flat(chosen.options())
        found = {}
        for variant in self.variants:
            typed = [*self.flags, *variant.typed]
            try:
                parsed = flags.parse(chosen.options, typed, chosen.presets, chosen.variant)
            except UserError as error:
                raise UserError(f"{self.name}: {variant.label}: {error}") from None
            found[variant.label] = {
                name: value
                for name, value in flags.flat(parsed).items()
                if name not in _INCIDENTAL and value != defaults[name]
            }
        return found


def names() -> list[str]:
    """The names of all claims."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, folder: Path = FOLDER) -> Claim:
    """Read the file of a claim, and check what can be checked without a run.

    Raises:
        UserError: there is none of this name, or the file is not as the module says.
    """
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"{name}: no such claim{nearest(name, names())}; --list names them")
    content = read_yaml(path)
    try:
        return _claim(name, _Reader("the file", content))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Reader:
    """A mapping of a file; what is not asked for is refused at its end."""

    def __init__(self, where: str, content: Any) -> None:
        """Raise UserError unless it is a mapping."""
        if not isinstance(content, Mapping):
            raise UserError(f"{where}: expected names and values")
        self._where, self._left = where, dict(content)

    def text(self, name: str, hint: Any = str, default: Any = ...) -> Any:
        """A value as a flag of this type would be typed."""
        if name not in self._left:
            if default is ...:
                raise UserError(f"{self._where}: lacks {name!r}")
            return default
        value = self._left.pop(name)
        texts = value if isinstance(value, list) else [value]
        return flags.read_value(name, hint, [str(text) for text in texts])

    def flags(self, name: str) -> tuple[str, ...] | None:
        """Flags as a shell would read them; None where they are not given."""
        if name not in self._left:
            return None
        value = self._left.pop(name)
        if not isinstance(value, str):
            raise UserError(f"{self._where}: {name!r} must be flags")
        return tuple(shlex.split(value))

    def mapping(self, name: str, default: Any = ...) -> Mapping[str, Any]:
        """A mapping within this one."""
        value = self._left.pop(name, default)
        if not isinstance(value, Mapping) or (default is ... and not value):
            raise UserError(f"{self._where}: {name!r} must be names and values")
        return value

    def items(self, name: str) -> list[Any]:
        """A list within this mapping."""
        value = self._left.pop(name, None)
        if not isinstance(value, list) or not value:
            raise UserError(f"{self._where}: {name!r} must be a list")
        return value

    def end(self) -> None:
        """Raise UserError where something was not asked for."""
        if self._left:
            raise UserError(f"{self._where}: {next(iter(self._left))!r} is not known")


def _claim(name: str, read: _Reader) -> Claim:
    verb = read.text("verb", _Verb)
    tune = dict(read.mapping("tune", {}))
    tuned_by, seeds = tune.pop("by", None), read.text("seeds", _Seeds)
    tuned_on = _Reader("tune", tune).text("seeds", _Seeds, default=seeds)
    tune.pop("seeds", None)
    measures = {k: _measure(k, v) for k, v in read.mapping("measures").items()}
    variants = [
        variant
        for setting, typed in read.mapping("settings").items()
        for variant in _variants(verb, setting, shlex.split(typed or ""), tune)
    ]
    known = {name for variant in variants for name in (variant.setting, variant.label)}
    if bool(tune) != (tuned_by in measures):
        raise UserError("tune: must have flags and, as 'by', the measure that chooses")
    if not tuned_on or not set(tuned_on) <= set(seeds):
        raise UserError("tune: 'seeds' must be some of the claim's seeds")

    def term(text: str, measure: str | None) -> tuple[str, str]:
        setting, slash, own = text.partition("/")
        found = setting, own if slash else measure
        if found[0] not in known or found[1] not in measures:
            raise UserError(f"{text}: no setting of the claim, or no measure ({found[1]})")
        of = measures[found[1]].of
        if of and found[0] not in of:
            raise UserError(f"{text}: {found[1]} is not measured of {found[0]}")
        return found

    found = Claim(
        name=name,
        claim=read.text("claim"),
        source=read.text("source"),
        paper=read.text("paper"),
        data=read.text("data"),
        note=read.text("note", default=""),
        verb=verb,
        flags=read.flags("flags") or (),
        minutes=read.text("minutes", Annotated[float, Range(0, 600)]),
        seeds=seeds,
        variants=variants,
        tuned_by=tuned_by,
        tuned_on=tuned_on,
        measures=measures,
        comparisons=[_comparison(each, term) for each in read.items("comparisons")],
        plot=_plot(_Reader("plot", read.mapping("plot")), term),
    )
    read.end()
    return found


def _variants(
    verb: str, setting: str, typed: Sequence[str], tune: Mapping[str, Any]
) -> list[Variant]:
    known = flags.declared(command(verb).options)
    grid = settings.read([f"{k}={','.join(map(str, v))}" for k, v in tune.items()], known)
    return [
        Variant(setting, tuned, [*typed, *settings.arguments(tuned, known)])
        for tuned in settings.combinations(grid)
    ]


def _measure(name: str, content: Any) -> Measure:
    read = _Reader(f"measures: {name}", content)
    evaluate = read.flags("evaluate")
    found = Measure(
        name=name,
        metric=read.text("metric"),
        evaluate=evaluate,
        reach=read.text("reach", _Number, default=None),
        diverged=read.text("diverged", _Number, default=None),
        of=read.text("of", tuple[str, ...], default=()),
    )
    read.end()
    return found


def _comparison(content: Any, term: Any) -> Comparison:
    read = _Reader("comparisons", content)
    measure = read.text("measure", default=None)
    found = Comparison(
        sentence=read.text("sentence"),
        effect={
            term(text, measure): flags.read_value("effect", _Number, [str(weight)])
            for text, weight in read.mapping("effect").items()
        },
        smallest=read.text("smallest", Annotated[float, Range(0, 1e9, above=True)]),
        expected=read.text("expected", Literal["above", "not_below"], default="above"),
        ratio=read.text("ratio", bool, default=False),
        stated=read.text("stated", bool, default=True),
    )
    read.end()
    return found


def _plot(read: _Reader, term: Any) -> Plot:
    measure = read.text("measure", default=None)
    found = Plot(
        x=read.text("x"),
        y=read.text("y"),
        lines={
            label: {str(x): term(text, measure) for x, text in points.items()}
            for label, points in read.mapping("lines").items()
        },
    )
    read.end()
    return found
