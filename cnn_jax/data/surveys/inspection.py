"""Inspection of a data set: what is in its splits, what is in two of them, and what looks wrong."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from cnn_jax.data.duplicates import MOST_COMPARED, Repeats, repeats
from cnn_jax.data.surveys.contents import KEPT, Contents, Odd
from cnn_jax.data.surveys.suspicious import FEW, similar_names
from cnn_jax.errors import one_line

_LISTED = 8
_UNEQUAL = 100  # a class has so many times as many examples as another


@dataclass(frozen=True)
class Repeated:
    """The pictures of a split that are in an earlier split too, or earlier in the same one.

    Attributes:
        split: whose pictures they are.
        within: where the same pictures are.
        found: which picture of `within` each one repeats.
        contradicted: whether the two have other labels.
    """

    split: Contents
    within: Contents
    found: Repeats
    contradicted: Bool[np.ndarray, " pictures"]

    @property
    def across(self) -> bool:
        """Tell whether these are two splits."""
        return self.split is not self.within

    @property
    def count(self) -> int:
        """The number of repeated pictures."""
        return int((self.found.of >= 0).sum())

    @property
    def exact(self) -> int:
        """The number of those whose pixels are the same."""
        return int(self.found.exact.sum())

    def ranked(self, contradicted: bool = False) -> list[int]:
        """The places of the repeated pictures, most similar first; or only the contradicted."""
        places = np.flatnonzero(self.contradicted if contradicted else self.found.of >= 0)
        order = np.lexsort((places, -self.found.similarity[places], ~self.found.exact[places]))
        return places[order].tolist()


def repeated(splits: Sequence[Contents]) -> list[Repeated]:
    """Find repeated pictures across splits first, and then within each."""
    pairs = [(b, a) for i, b in enumerate(splits) for a in splits[:i]]
    pairs += [(split, split) for split in splits]
    return [_repeated(split, within) for split, within in pairs]


def _repeated(split: Contents, within: Contents) -> Repeated:
    found = repeats(split.fingerprints, None if split is within else within.fingerprints)
    contradicted = np.zeros(len(split), bool)
    for place in np.flatnonzero(found.of >= 0).tolist():
        # A mask of another size is another one, though it may say the same.
        comparable = found.exact[place] or split.kind != "mask"
        other = within.truths[int(found.of[place])]
        contradicted[place] = comparable and split.truths[place] != other
    return Repeated(split, within, found, contradicted)


@dataclass(frozen=True)
class Inspection:
    """Findings in a data set.

    Attributes:
        splits: the splits, training first.
        pairs: the pictures that are there more than once.
        notes: what else there is to say, such as a split that cannot be opened.
    """

    splits: Sequence[Contents]
    pairs: Sequence[Repeated]
    notes: Sequence[str] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the first split, which those of all are."""
        return self.splits[0].source.class_names

    def notices(self) -> list[str]:
        """The lines of the readers about what they left out, took otherwise or repaired."""
        lines = [line for s in self.splits for line in getattr(s.source, "notices", ())]
        return [one_line(line) for line in dict.fromkeys([*self.notes, *lines])]

    def summary(self) -> str:
        """The number of examples and classes of each split in one line."""
        parts = [f"{split.name} {_images(split.readable)}" for split in self.splits]
        return f"{', '.join(parts)}; {len(self.class_names):,} classes"

    def findings(self) -> list[str]:
        """List the faults, in one line each: leaks between splits first."""
        found = [*self._leaks(), *self._unreadable(), *self._repetitions(), *self._classes()]
        for split in self.splits:
            if split.without.count:
                what = "object" if split.kind == "boxes" else "class"
                found.append(f"{split.name}: {_images(split.without.count)} without any {what}")
            found += [_in_words(split, what, odd) for what, odd in sorted(split.odd.items())]
        return [one_line(line) for line in found]

    def _leaks(self) -> Iterator[str]:
        for pair in self.pairs:
            if pair.across and pair.count:
                others = _others(pair)
                yield (
                    f"{pair.count:,} of {_images(len(pair.split))} of {pair.split.name} "
                    f"{_is(pair.count)} in {pair.within.name} too{_kinds(pair)}{others}; what is "
                    "measured on them is too good"
                )

    def _unreadable(self) -> Iterator[str]:
        for split in self.splits:
            if split.unreadable:
                yield (
                    f"{split.name}: {_images(split.unreadable)} of {len(split):,} cannot be read "
                    f"(the first: {split.reasons[0]})"
                )

    def _repetitions(self) -> Iterator[str]:
        for pair in self.pairs:
            if not pair.across and pair.count:
                verb = "repeats an earlier one" if pair.count == 1 else "repeat earlier ones"
                yield (
                    f"{pair.split.name}: {_images(pair.count)} of {len(pair.split):,} {verb}"
                    f"{_kinds(pair)}{_others(pair)}"
                )
            compared = len(pair.split) + len(pair.within) * pair.across
            if compared > MOST_COMPARED:
                yield (
                    f"{pair.split.name}: looked for equal pictures in {pair.within.name}, not for "
                    f"near copies: {compared:,} pictures are more than {MOST_COMPARED:,}"
                )

    def _classes(self) -> Iterator[str]:
        names = self.class_names
        for split in self.splits:
            if none := [names[i] for i in np.flatnonzero(split.examples == 0)]:
                yield f"{split.name}: no image of {_listed(none)}"
        counts = self.splits[0].examples
        few = np.flatnonzero((counts > 0) & (counts < FEW))
        if len(few):
            listed = _listed([f"{names[i]} ({counts[i]})" for i in few])
            yield f"{self.splits[0].name}: fewer than {FEW} images of {listed}"
        if counts.any() and counts.max() >= _UNEQUAL * counts[counts > 0].min():
            most, least = int(counts.argmax()), int(np.where(counts > 0, counts, 2**62).argmin())
            yield (
                f"{self.splits[0].name}: classes are very unequal: {counts[most]:,} images of "
                f"{names[most]}, {counts[least]:,} of {names[least]}"
            )
        for group in similar_names(self.class_names):
            yield f"classes with nearly the same name: {', '.join(map(repr, group))}"

    def facts(self) -> dict[str, Any]:
        """All that was found, as JSON has it."""
        return {
            "findings": self.findings(),
            "notices": self.notices(),
            "class_names": list(self.class_names),
            "splits": {split.name: _split_facts(split) for split in self.splits},
            "repeated": [_pair_facts(pair) for pair in self.pairs],
        }


def _split_facts(split: Contents) -> dict[str, Any]:
    def of(odd: Odd) -> dict[str, Any]:
        return {"count": odd.count, "first": [split.source.describe(i) for i, _ in odd.first]}

    return {
        "examples": len(split.source),
        "looked_at": len(split),
        "truth": split.kind,
        "unreadable": {"count": split.unreadable, "first": split.reasons},
        "images_by_class": split.examples.tolist(),
        "amounts_by_class": split.amounts.tolist(),
        "without_class": of(split.without),
        "sizes": [
            {"height": h, "width": w, "images": n} for (h, w), n in sorted(split.sizes.items())
        ],
        "forms": dict(sorted(split.forms.items())),
        "suspicious": {what: of(odd) for what, odd in sorted(split.odd.items())},
    }


def _pair_facts(pair: Repeated) -> dict[str, Any]:
    return {
        "split": pair.split.name,
        "in": pair.within.name,
        "exact": pair.exact,
        "near": pair.count - pair.exact,
        "other_labels": int(pair.contradicted.sum()),
        "first": [
            {
                "picture": pair.split.describe(place),
                "repeats": pair.within.describe(int(pair.found.of[place])),
                "exact": bool(pair.found.exact[place]),
                "similarity": float(pair.found.similarity[place]),
                "other_labels": bool(pair.contradicted[place]),
            }
            for place in pair.ranked()[:KEPT]
        ],
    }


def _kinds(pair: Repeated) -> str:
    near = pair.count - pair.exact
    kinds = [f"{pair.exact:,} with the same pixels"] if pair.exact else []
    kinds += [f"{near:,} as near {'copy' if near == 1 else 'copies'}"] if near else []
    place = pair.ranked()[0]
    first = f"{pair.split.describe(place)} is {pair.within.describe(int(pair.found.of[place]))}"
    return f" ({', '.join(kinds)}; {first})"


def _others(pair: Repeated) -> str:
    count = int(pair.contradicted.sum())
    return f", {count:,} of them with other labels" if count else ""


def _in_words(split: Contents, what: str, odd: Odd) -> str:
    said = what if odd.count != 1 else re.sub(r"(?<=box)es\b|(?<=mask|ture)s\b", "", what, count=1)
    first = split.source.describe(odd.first[0][0])
    return f"{split.name}: {odd.count:,} {said} (the first in {first})"


def _listed(names: Sequence[str]) -> str:
    left = len(names) - _LISTED
    more = f" and {left} more class{'' if left == 1 else 'es'}" if left > 0 else ""
    return ", ".join(names[:_LISTED]) + more


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
