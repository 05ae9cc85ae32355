"""Survey of everything in a split: labels, sizes, unreadable files, and a fingerprint of each."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Int

from cnn_jax.conventions import IGNORED
from cnn_jax.data.duplicates import Fingerprint, Fingerprints, fingerprint
from cnn_jax.data.image_files import describe_form
from cnn_jax.data.source import Source
from cnn_jax.data.surveys.suspicious import suspicious_boxes, suspicious_mask, suspicious_picture
from cnn_jax.data.transforms import whole_size
from cnn_jax.errors import UserError
from cnn_jax.progress import in_threads

Kind = Literal["class", "tags", "boxes", "mask"]

KEPT = 100
"""The number of unreadable files, and of suspicious examples of each kind, that are named."""

_AT_ONCE = 64


@dataclass(frozen=True)
class Truth:
    """The truth of an example, in brief.

    Attributes:
        kind: the form of the truth.
        amounts: of each class the number of its objects or pixels; 1 or 0 where it has neither.
        digest: equal for equal truths: of objects their number in each class, of masks all pixels.
    """

    kind: Kind
    amounts: Int[np.ndarray, " classes"]
    digest: bytes


def truth_of(example: Mapping[str, Any], classes: int) -> Truth:
    """The truth of an example; its keys tell which it is."""
    if "mask" in example:
        mask = np.ascontiguousarray(example["mask"])
        content = repr(mask.shape).encode() + mask.tobytes()
        counts = np.bincount(mask[mask != IGNORED].ravel(), minlength=classes)
        return Truth("mask", counts[:classes].astype(np.int64), _digest(content))
    kind: Kind = "boxes" if "boxes" in example else "tags" if "labels" in example else "class"
    labels = np.atleast_1d(example["label" if kind == "class" else "labels"])
    amounts = labels if kind == "tags" else np.bincount(labels, minlength=classes)
    amounts = amounts.astype(np.int64)
    return Truth(kind, amounts, _digest(amounts.tobytes()))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


@dataclass
class Odd:
    """Suspicious examples, or boxes, of one kind.

    Attributes:
        count: their number.
        first: the indices of the first examples; the numbers of their suspicious boxes.
    """

    count: int = 0
    first: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def add(self, index: int, boxes: tuple[int, ...] = ()) -> None:
        """Count an example, or its boxes."""
        self.count += len(boxes) or 1
        if len(self.first) < KEPT:
            self.first.append((index, boxes))


@dataclass(frozen=True)
class _Seen:
    """An example after it was looked at."""

    size: tuple[int, int]
    form: str
    truth: Truth
    taken: Fingerprint
    odd: list[str]
    odd_boxes: dict[str, tuple[int, ...]]


class Contents:
    """Everything in a split, in memory that does not grow with the size of its images.

    Attributes:
        name: the split's.
        source: its examples.
        indices: those that were read: all, or some evenly spread ones.
        kind: the form of the truth; None if no example was readable.
        unreadable: their number.
        reasons: a line for each of the first of them.
        sizes: how many images have these rows and columns.
        forms: how many files have this format and mode.
        examples: the number of examples with each class.
        amounts: the number of its objects or pixels, as in `Truth`.
        without: the examples without any class or object.
        odd: suspicious examples by what is suspicious about them.
        fingerprints, truths: of each example read; the truth's digest is empty if unreadable.
    """

    def __init__(self, name: str, source: Source, most: int | None = None):
        """Prepare to read all examples, or at most so many."""
        self.name, self.source = name, source
        count = len(source) if most is None else min(most, len(source))
        self.indices = np.unique(np.linspace(0, len(source) - 1, count).astype(np.int64))
        classes = len(source.class_names)
        self.kind: Kind | None = None
        self.unreadable = 0
        self.reasons: list[str] = []
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.forms: Counter[str] = Counter()
        self.examples, self.amounts = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.without = Odd()
        self.odd: dict[str, Odd] = {}
        self.fingerprints = Fingerprints(len(self.indices))
        self.truths = [b""] * len(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def readable(self) -> int:
        """The number of examples that could be read."""
        return len(self) - self.unreadable

    def describe(self, place: int) -> str:
        """The origin of the example at a place of `indices`."""
        return self.source.describe(int(self.indices[place]))

    def add(self, place: int, seen: _Seen | str) -> None:
        """Take up the example at a place of `indices`, or the reason why it is unreadable."""
        if isinstance(seen, str):
            self.unreadable += 1
            self.reasons += [seen] if len(self.reasons) < KEPT else []
            return
        index = int(self.indices[place])
        self.kind = seen.truth.kind
        self.sizes[seen.size] += 1
        self.forms[seen.form] += 1
        self.examples += seen.truth.amounts > 0
        self.amounts += seen.truth.amounts
        if not seen.truth.amounts.any():
            self.without.add(index)
        self.fingerprints.add(place, seen.taken)
        self.truths[place] = seen.truth.digest
        for what in seen.odd:
            self.odd.setdefault(what, Odd()).add(index)
        for what, boxes in seen.odd_boxes.items():
            self.odd.setdefault(what, Odd()).add(index, boxes)


def survey(name: str, source: Source, most: int | None = None) -> Contents:
    """Read a split once, and keep what is in it.

    Args:
        name: the split's.
        source: its examples.
        most: the largest number of examples to read, evenly spread; None for all.
    """
    contents = Contents(name, source, most)
    # OpenCV's own threads would only take the processors from these.
    cv2.setNumThreads(1)
    files = getattr(source, "files", None)

    def look(index: int) -> _Seen | str:
        try:
            example = source[index]
        except UserError as error:
            return str(error)
        return _looked(example, len(source.class_names), files[index] if files else None)

    looked = in_threads(look, contents.indices.tolist(), f"Reading {name}", at_once=_AT_ONCE)
    for place, seen in enumerate(looked):
        contents.add(place, seen)
    return contents


def _looked(example: Mapping[str, Any], classes: int, file: str | None) -> _Seen:
    image = example["image"]
    truth = truth_of(example, classes)
    odd = suspicious_picture(image)
    odd_boxes: dict[str, tuple[int, ...]] = {}
    if truth.kind == "mask":
        odd += suspicious_mask(truth.amounts, example["mask"].size)
    if truth.kind == "boxes":
        found = suspicious_boxes(
            example["boxes"], example["labels"], example["crowd"], whole_size(example)
        )
        odd_boxes = {
            what: tuple(np.flatnonzero(marks).tolist())
            for what, marks in found.items()
            if marks.any()
        }
    return _Seen(
        size=(int(image.shape[0]), int(image.shape[1])),
        form="decoded" if file is None else describe_form(file),
        truth=truth,
        taken=fingerprint(image),
        odd=odd,
        odd_boxes=odd_boxes,
    )
