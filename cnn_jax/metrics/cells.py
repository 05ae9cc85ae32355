"""Errors of segmented cells, as the ISBI 2012 challenge defines them: on the host, one image each.

A cell is a connected component (of four neighbours) of the foreground; what lies between cells is
the background, the membranes. The pixel error sees every pixel alike; the other two ask whether
cells stay apart.

References:
    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
    connectomics", Frontiers in Neuroanatomy 2015
"""

from collections import deque
from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Int

Foreground = Bool[np.ndarray, "height width"]


def pixel_error(predicted: Foreground, truth: Foreground) -> float:
    """The share of pixels that are on the wrong side."""
    return float(np.mean(predicted != truth))


def rand_error(predicted: Foreground, truth: Foreground) -> float:
    """One minus the F-score of the pairs of pixels, within the true cells.

    A pair of pixels counts as found where both pixels are of one cell in both. Precision is the
    share of the pairs of one predicted cell that are of one true cell, recall the other way round.
    Pixels of the true background are left out; predicted background within a true cell is one
    segment more, as in scikit-image's `adapted_rand_error`.

    Returns:
        From 0 to 1; 0 where the truth has no pair of pixels in one cell and neither has the
        prediction.
    """
    inside = cells(truth)[truth]
    found = cells(predicted)[truth]
    joint = np.bincount(inside.astype(np.int64) * (int(found.max(initial=0)) + 1) + found)
    both = _pairs(joint)
    in_truth, in_prediction = _pairs(np.bincount(inside)), _pairs(np.bincount(found))
    if in_truth + in_prediction == 0:
        return 0.0
    # 2 P R / (P + R) with P = both / in_prediction and R = both / in_truth.
    return 1 - 2 * both / (in_truth + in_prediction)


def warping_error(predicted: Foreground, truth: Foreground) -> float:
    """The share of pixels that stay wrong however the true cells' borders are moved.

    The truth is changed towards the prediction one pixel at a time, wherever that changes no
    topology: where it splits, joins, makes or removes no cell and no hole. What is left are splits,
    mergers, and cells or holes too many or too few.

    References:
        Jain et al., "Boundary learning by optimization with topological constraints", CVPR 2010
    """
    simple = _simple_points()
    # Beyond the image lies background, on both sides alike.
    warped, wanted = np.pad(truth, 1), np.pad(predicted, 1)
    height, width = truth.shape
    wrong = warped != wanted
    queue = deque(map(tuple, np.argwhere(wrong).tolist()))
    waiting = wrong.copy()
    while queue:
        row, column = queue.popleft()
        waiting[row, column] = False
        window = warped[row - 1 : row + 2, column - 1 : column + 2]
        if not simple[int(window.ravel() @ _BITS)]:
            continue
        warped[row, column] = wanted[row, column]
        wrong[row, column] = False
        # What surrounds a pixel that has changed may have become simple.
        for r in range(max(row - 1, 1), min(row + 1, height) + 1):
            for c in range(max(column - 1, 1), min(column + 1, width) + 1):
                if wrong[r, c] and not waiting[r, c]:
                    waiting[r, c] = True
                    queue.append((r, c))
    return float(wrong.sum() / truth.size)


def cells(foreground: Foreground) -> Int[np.ndarray, "height width"]:
    """The number of each pixel's cell, from 1 on; 0 for the background."""
    return cv2.connectedComponents(foreground.astype(np.uint8), connectivity=4)[1]


def _pairs(sizes: np.ndarray) -> int:
    """How many ordered pairs of different pixels lie in one segment."""
    sizes = sizes.astype(np.int64)
    return int((sizes * (sizes - 1)).sum())


# The weight of each pixel of a 3 x 3 window in the number of its pattern.
_BITS = 2 ** np.arange(9)


@cache
def _simple_points() -> Bool[np.ndarray, " 512"]:
    """Whether the middle pixel of each 3 x 3 pattern can change sides without changing topology.

    It can where it touches exactly one component of the foreground and one of the background
    (Kong & Rosenfeld 1989): the foreground's of four neighbours, the background's of eight.
    """
    table = np.zeros(512, bool)
    for number in range(512):
        window = (number & _BITS).astype(bool).reshape(3, 3)
        window[1, 1] = False
        ring = np.ones((3, 3), bool)
        ring[1, 1] = False
        # Corners count for the foreground only as bridges between its direct neighbours.
        foreground = cv2.connectedComponents(window.astype(np.uint8), connectivity=4)[1]
        direct = foreground[[0, 1, 1, 2], [1, 0, 2, 1]]
        around = (~window & ring).astype(np.uint8)
        background = cv2.connectedComponents(around, connectivity=8)[0] - 1
        table[number] = len(set(direct[direct > 0].tolist())) == 1 and background == 1
    return table
