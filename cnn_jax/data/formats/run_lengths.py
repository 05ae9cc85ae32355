"""Boxes and areas of outlines and of masks in COCO's run lengths, without drawing them."""

from collections.abc import Sequence

import numpy as np

Shape = tuple[tuple[float, float, float, float], float]
"""A box [x1, y1, x2, y2] in pixels, and the area of what it surrounds."""

# Five bits a character: twelve characters hold more than any run can have.
_MOST_CHARACTERS = 12


def decode_counts(text: str) -> list[int]:
    """Decode compressed run lengths (`rleFrString` of pycocotools).

    Each number is its difference to the one before the last, in characters of five bits, the lowest
    first; a sixth bit says that more follow.

    Raises:
        ValueError: the text is no such code.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift >= 5 * _MOST_CHARACTERS:
            raise ValueError("not compressed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts


def box_of_runs(counts: Sequence[int], height: int, width: int) -> Shape:
    """Find the box around a mask that is given as run lengths.

    Args:
        counts: the lengths of runs of pixels outside and inside, in turn, column by column.
        height: the rows of the mask.
        width: the columns of the mask.

    Returns:
        The box and the number of pixels inside; a box without area if there are none.

    Raises:
        ValueError: a length is negative, or they do not fit the mask.
    """
    lengths = np.array([min(max(count, -1), height * width + 1) for count in counts], np.float64)
    if np.any(lengths < 0) or lengths.sum() > height * width:
        raise ValueError(f"run lengths do not fit a mask of {width} x {height}")
    ends = np.cumsum(lengths).astype(np.int64)[1::2]
    inside = lengths.astype(np.int64)[1::2]
    ends, inside = ends[inside > 0], inside[inside > 0]
    if not len(inside):
        return (0.0, 0.0, 0.0, 0.0), 0.0
    firsts, lasts = ends - inside, ends - 1
    left, right = firsts // height, lasts // height
    # A run over several columns reaches the last row of the first and the first row of the next.
    several = right > left
    top = np.where(several, 0, firsts % height).min()
    bottom = np.where(several, height - 1, lasts % height).max()
    box = (float(left.min()), float(top), float(right.max() + 1), float(bottom + 1))
    return box, float(inside.sum())


def box_of_outlines(outlines: Sequence[Sequence[int | float]]) -> Shape:
    """Find the box around the outlines of an object's parts.

    Args:
        outlines: of each part x1, y1, x2, y2, ..., three points at least.

    Returns:
        The box and the sum of the parts' areas.

    Raises:
        ValueError: an outline has fewer than three points, or half of one.
    """
    if not outlines or any(len(outline) < 6 or len(outline) % 2 for outline in outlines):
        raise ValueError("an outline needs x and y of three points or more")
    parts = [np.array(outline, np.float64).reshape(-1, 2) for outline in outlines]
    area = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for points in parts:
            x, y = (points - points[0]).T
            area += abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2
    low = np.min([points.min(axis=0) for points in parts], axis=0)
    high = np.max([points.max(axis=0) for points in parts], axis=0)
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1])), area
