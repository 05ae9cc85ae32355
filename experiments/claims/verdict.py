"""The verdict on a claim, by a rule that was stated before the runs.

A comparison is a weighted sum of measures, such as the difference of two settings. Each seed gives
one sum, as all settings share it. The mean of the sums has a t interval of 95 % (n - 1 degrees of
freedom). Of a comparison that expects a sum above 0:

- `held`: the interval lies above 0;
- `reversed`: it lies below 0;
- `no difference at this scale`: it holds 0, and is so narrow that an effect as large as the paper's
  would have been seen: half of its width, the smallest effect that could have been seen, is below
  the paper's;
- `undecided`: it holds 0 and is wider than that;
- `not yet run`: fewer than two seeds have all of their runs.

A comparison that expects no loss (`not_below`) has the paper's effect as its margin: `held` if the
interval lies above minus the margin, `reversed` if it lies below that, else `undecided`.
"""

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from .claim import Claim, Comparison, Variant
from .rows import Rows, value

CONFIDENCE = 0.95

HELD, REVERSED, NONE = "held", "reversed", "no difference at this scale"
UNDECIDED, NOT_RUN = "undecided", "not yet run"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison.

    Attributes:
        comparison: what was compared.
        effects: the sum of each seed that has all of its runs; of ratios, their logarithms.
    """

    comparison: Comparison
    effects: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the sums."""
        return statistics.fmean(self.effects)

    @property
    def spread(self) -> float:
        """The sample standard deviation of the sums; at least two."""
        return statistics.stdev(self.effects)

    @property
    def half_width(self) -> float:
        """Half of the interval's width: the smallest effect that could have been seen."""
        count = len(self.effects)
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        return quantile * self.spread / math.sqrt(count)

    @property
    def smallest(self) -> float:
        """The smallest effect that matters, on the scale of the sums."""
        smallest = self.comparison.smallest
        return abs(math.log(smallest)) if self.comparison.ratio else smallest

    @property
    def word(self) -> str:
        """The verdict by the module's rule."""
        if len(self.effects) < 2:
            return NOT_RUN
        bound = -self.smallest if self.comparison.expected == "not_below" else 0.0
        if self.mean - self.half_width > bound:
            return HELD
        if self.mean + self.half_width < bound:
            return REVERSED
        narrow = self.comparison.expected == "above" and self.half_width < self.smallest
        return NONE if narrow else UNDECIDED

    @property
    def figure(self) -> str:
        """The mean with its spread over the seeds, and the interval."""
        if len(self.effects) < 2:
            return ""
        ends = self.mean - self.half_width, self.mean + self.half_width
        if self.comparison.ratio:
            low, high = map(math.exp, ends)
            return f"{math.exp(self.mean):.3g} times ({low:.3g} to {high:.3g})"
        return f"{self.mean:+.3g} ± {self.spread:.2g} ({ends[0]:+.3g} to {ends[1]:+.3g})"

    @property
    def line(self) -> str:
        """The verdict in a line; one of no difference says what would have been seen."""
        count = len(self.effects)
        if self.word == NOT_RUN:
            return f"{NOT_RUN} ({count} of at least 2 seeds)"
        text = f"{self.word}: {self.figure}, {count} seeds"
        if self.word in (NONE, UNDECIDED):
            ratio = self.comparison.ratio
            seen, paper = (
                f"{math.exp(x):.3g} times" if ratio else f"{x:.3g}"
                for x in (self.half_width, self.smallest)
            )
            source = "the paper's" if self.comparison.stated else "the smallest that matters"
            text += f"; an effect above {seen} would have been seen, {source} is {paper}"
        return text


def verdicts(claim: Claim, rows: Rows) -> list[Verdict]:
    """The verdict on each comparison of a claim from the known rows."""
    return [_verdict(claim, comparison, rows) for comparison in claim.comparisons]


def _verdict(claim: Claim, comparison: Comparison, rows: Rows) -> Verdict:
    variants = {setting: chosen(claim, setting, rows) for setting, _ in comparison.effect}
    if None in variants.values():
        return Verdict(comparison, ())
    effects = []
    for seed in claim.seeds:
        values = [
            value(claim, rows, variants[setting], seed, measure)
            for setting, measure in comparison.effect
        ]
        if None in values or (comparison.ratio and min(values) <= 0):
            continue
        scaled = map(math.log, values) if comparison.ratio else values
        weights = comparison.effect.values()
        effects.append(sum(w * v for w, v in zip(weights, scaled, strict=True)))
    return Verdict(comparison, tuple(effects))


def chosen(claim: Claim, setting: str, rows: Rows) -> Variant | None:
    """The best variant of a setting by the mean of the claim's tuning measure, over its seeds.

    None where one of these seeds lacks of a variant, so that no choice depends on what came first.
    """
    variants = claim.of(setting)
    if len(variants) == 1:
        return variants[0]
    sign = 1 if claim.measures[claim.tuned_by].higher_is_better else -1

    def mean(variant: Variant) -> float | None:
        values = [value(claim, rows, variant, seed, claim.tuned_by) for seed in claim.tuned_on]
        return None if None in values else sign * statistics.fmean(values)

    means = {variant.label: mean(variant) for variant in variants}
    if None in means.values():
        return None
    return max(variants, key=lambda variant: means[variant.label])
