"""Pictures that are in a data set more than once: with the same pixels, or encoded anew.

A fingerprint of a picture is a digest of its pixels and a small grey thumbnail. Pictures are equal
if their digests are. They are near copies if their thumbnails agree in two ways: their correlation
is high, and the remaining difference is not larger than what compression and resizing leave. The
first finds the same composition, the second tells it from a similar one, such as two sunsets.
BUILD_NOTES.md has the distributions from which the limits were chosen.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt, UInt8

from cnn_jax.data.decode import as_rgb
from cnn_jax.progress import track

SIDE = 16
"""Pixels on a side of a thumbnail."""

MIN_CORRELATION = 0.975
"""The correlation of the thumbnails of a picture and its near copy, at least."""

MAX_DIFFERENCE = 5.0
"""The root of the mean squared difference of these thumbnails, in grey levels of 255, at most."""

SMALL_SIDE, MAX_DIFFERENCE_OF_SMALL = 64, 10.0
"""The limit of pictures with fewer pixels on their shorter side. Few of them are
averaged in a thumbnail's pixel, so that resizing and compression change it more."""

MIN_CONTRAST = 2.0
"""The standard deviation in grey levels of thumbnails that are compared: those of plainer pictures
correlate by chance."""

MOST_COMPARED = 200_000
"""The number of pictures up to which near copies are looked for."""

_ROWS = 2048  # thumbnails that are compared at once with as many others
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Fingerprint:
    """Digest and thumbnail of a picture, to find it again.

    Attributes:
        digest: a digest of its size and pixels.
        thumbnail: a small grey copy, squashed to a square.
        side: the pixels on its shorter side.
    """

    digest: bytes
    thumbnail: UInt8[np.ndarray, "16 16"]
    side: int


def fingerprint(image: UInt[np.ndarray, "height width channels"]) -> Fingerprint:
    """Take the fingerprint of a picture."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    grey = cv2.resize(as_rgb(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA) @ _GREY
    return Fingerprint(digest.digest(), np.rint(grey).astype(np.uint8), min(image.shape[:2]))


class Fingerprints:
    """The fingerprints of a split by index; pictures without one, as unreadable ones, match none.

    Attributes:
        digests: a digest for each picture, empty where there is none.
        thumbnails: their thumbnails as rows.
        sides: the pixels on their shorter sides.
    """

    def __init__(self, count: int):
        """Make room for `count` pictures."""
        self.digests = [b""] * count
        self.thumbnails = np.zeros((count, SIDE * SIDE), np.uint8)
        self.sides = np.zeros(count, np.int32)

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, index: int, taken: Fingerprint) -> None:
        """Keep the fingerprint of the picture at an index."""
        self.digests[index] = taken.digest
        self.thumbnails[index] = taken.thumbnail.ravel()
        self.sides[index] = taken.side

    @property
    def means(self) -> Float[np.ndarray, " pictures"]:
        """The mean grey level of each thumbnail."""
        return self.thumbnails.mean(axis=1)

    @property
    def contrasts(self) -> Float[np.ndarray, " pictures"]:
        """The standard deviation in grey levels of each thumbnail."""
        return self.thumbnails.std(axis=1, dtype=np.float64)


@dataclass(frozen=True)
class Repeats:
    """For each picture, the one in a gallery that it repeats.

    Attributes:
        of: the index in the gallery; -1 if there is none.
        similarity: the correlation of their thumbnails; 0 if there is none.
        exact: whether their pixels are the same.
    """

    of: Int[np.ndarray, " pictures"]
    similarity: Float[np.ndarray, " pictures"]
    exact: Bool[np.ndarray, " pictures"]


def repeats(pictures: Fingerprints, gallery: Fingerprints | None = None) -> Repeats:
    """Find for each picture the one that it repeats: the first equal one, else the nearest copy.

    Thumbnails are compared by matrix products of blocks. In the order of their mean grey levels
    only a band of blocks is needed, as copies have nearly the same.

    Args:
        pictures: whose repetitions are looked for.
        gallery: where they are looked for; None for the earlier ones of the pictures themselves.
    """
    earlier = gallery is None
    others = pictures if gallery is None else gallery
    of = np.full(len(pictures), -1, np.int64)
    similarity = np.zeros(len(pictures))
    first: dict[bytes, int] = {}
    for index, digest in enumerate(others.digests):
        first.setdefault(digest, index)
    for index, digest in enumerate(pictures.digests):
        other = first.get(digest, -1)
        if digest and other >= 0 and not (earlier and other == index):
            of[index], similarity[index] = other, 1.0
    exact = of >= 0
    if len(pictures) + len(others) * (not earlier) <= MOST_COMPARED:
        for found, partners, values in _near(pictures, others, earlier):
            better = values > similarity[found]
            better |= (values == similarity[found]) & (partners < of[found])
            better &= ~exact[found]
            of[found[better]], similarity[found[better]] = partners[better], values[better]
    return Repeats(of, similarity, exact)


Pairs = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]


def _near(pictures: Fingerprints, others: Fingerprints, earlier: bool) -> Iterator[Pairs]:
    """Yield near copies by blocks: pictures, for each its nearest of a block, and correlations."""
    rows, columns = _Normalized(pictures), _Normalized(others)
    starts = range(0, len(rows.index), _ROWS)
    for start in track(starts, "Comparing pictures"):
        block = slice(start, start + _ROWS)
        low, high = rows.mean[block][[0, -1]] + [-MAX_DIFFERENCE_OF_SMALL, MAX_DIFFERENCE_OF_SMALL]
        begin, end = np.searchsorted(columns.mean, [low, high], side="left").tolist()
        if earlier:
            begin = start  # what is before it was compared with these when it was their turn
        for other in range(begin, end, _ROWS):
            yield _pairs(rows, block, columns, slice(other, min(other + _ROWS, end)), earlier)


class _Normalized:
    """Thumbnails of some contrast with mean 0 and length 1, in the order of their mean levels."""

    def __init__(self, taken: Fingerprints):
        mean, deviation = taken.means, taken.contrasts
        chosen = np.flatnonzero(deviation >= MIN_CONTRAST)
        self.index = chosen[np.argsort(mean[chosen], kind="stable")]
        self.mean, self.deviation = mean[self.index], deviation[self.index]
        self.small = taken.sides[self.index] < SMALL_SIDE
        self._thumbnails = taken.thumbnails

    def vectors(self, block: slice) -> Float[np.ndarray, "rows pixels"]:
        """The thumbnails of a block."""
        rows = self._thumbnails[self.index[block]].astype(np.float32)
        rows -= rows.mean(axis=1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _pairs(
    rows: _Normalized, block: slice, columns: _Normalized, others: slice, earlier: bool
) -> Pairs:
    """The near copies of one block in another, at most one for each picture."""
    product = rows.vectors(block) @ columns.vectors(others).T
    a, b = np.nonzero(product >= MIN_CORRELATION - 1e-4)
    # Rounded, so that the sum's order cannot decide which of two is near, or the nearer one.
    correlation = np.minimum(np.round(product[a, b].astype(np.float64), 4), 1.0)
    a, b = a + block.start, b + others.start
    x, y = rows.deviation[a], columns.deviation[b]
    squared = (rows.mean[a] - columns.mean[b]) ** 2 + x**2 + y**2 - 2 * x * y * correlation
    limit = np.where(rows.small[a] | columns.small[b], MAX_DIFFERENCE_OF_SMALL, MAX_DIFFERENCE)
    picture, partner = rows.index[a], columns.index[b]
    kept = (squared <= limit**2) & (correlation >= MIN_CORRELATION)
    if earlier:
        picture, partner = np.maximum(picture, partner), np.minimum(picture, partner)
        kept &= partner < picture
    picture, partner, correlation = picture[kept], partner[kept], correlation[kept]
    order = np.lexsort((partner, -correlation, picture))
    first = np.unique(picture[order], return_index=True)[1]
    nearest = order[first]
    return picture[nearest], partner[nearest], correlation[nearest]
