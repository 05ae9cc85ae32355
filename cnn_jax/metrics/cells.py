"""Errors of segmented cells, as the ISBI 2012 challenge defines them: functions of one image.

A cell is a connected component (of four neighbours) of the foreground; the rest, the membranes
between cells, is the background. The pixel error sees every pixel alike; the other two measure
whether cells stay apart.

Pixel and Rand error are array operations; the Rand error runs in JAX on the host
(`cnn_jax.metrics.host`: numbers of pairs of pixels need 64 bits). Two steps are none:

- `cells` numbers connected components. The distance that a number must travel depends on the shape
  of the cell, which no fixed number of array operations covers; scipy does it.
- `warping_error` changes pixels one after the other, and whether a pixel may change depends on the
  changes before it. Pixels that do not touch could be changed at once (every second row and
  column), but the order decides where the search ends: on drawn cells that left a fifth to a third
  more pixels wrong, which is a worse estimate of the error.

References:
    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
    connectomics", Frontiers in Neuroanatomy 2015; its program is in Fiji's Trainable Segmentation
"""

from collections import deque
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage


def pixel_error(
    predicted: Bool[np.ndarray, "height width"], truth: Bool[np.ndarray, "height width"]
) -> float:
    """Compute the share of pixels that are on the wrong side."""
    return float(np.mean(predicted != truth))


def rand_error(
    predicted: Int[Array, "height width"], truth: Int[Array, "height width"]
) -> Float[Array, ""]:
    """Compute the foreground-restricted Rand error: `error_of_pairs` of one image.

    Args:
        predicted, truth: the number of each pixel's cell, 0 for the background (see `cells`).
    """
    return error_of_pairs(rand_pairs(predicted, truth))


def rand_pairs(
    predicted: Int[Array, "height width"], truth: Int[Array, "height width"]
) -> Int[Array, " 3"]:
    """Count the pairs of pixels in one segment, of the pixels within the true cells.

    Pixels of the true background are left out. Each pixel of predicted background within a true
    cell is a segment of its own, so that a thicker membrane costs as many pairs as it has pixels,
    not those of a further cell. As in the challenge's program, pairs are ordered, and a pixel is
    a pair with itself.

    Args:
        predicted, truth: the number of each pixel's cell, 0 for the background (see `cells`).

    Returns:
        The pairs in one segment of both, of the prediction, and of the truth. Those of several
        images add up.
    """
    inside, wide = truth > 0, jnp.result_type(int)
    predicted, truth = predicted.astype(wide), truth.astype(wide)
    alone = jnp.max(predicted) + 1 + jnp.arange(predicted.size, dtype=wide)
    segments = jnp.where(predicted > 0, predicted, alone.reshape(predicted.shape))
    both = truth * (jnp.max(segments) + 1) + segments
    return jnp.stack([_pairs(each, inside) for each in (both, segments, truth)])


def error_of_pairs(pairs: Int[Array, " 3"]) -> Float[Array, ""]:
    """Compute the Rand error of one or several images' `rand_pairs`.

    It is one minus the F-score, with the share of the pairs of one predicted segment that are of
    one true cell as precision, and the other way round as recall. The challenge takes the best of
    several thresholds on the probability of a cell; here the prediction is what it is. It is not
    `adapted_rand_error` of scikit-image, which holds predicted background for one segment.

    Args:
        pairs: the sum of `rand_pairs` over the images, as the challenge's program adds them.

    Returns:
        From 0 to 1; 0 where the truth has no cell.
    """
    both, predicted, true = pairs
    # 2 P R / (P + R) with P = both / pairs of the prediction and R = both / pairs of the truth.
    total = predicted + true
    return jnp.where(total > 0, 1 - 2 * both / jnp.maximum(total, 1), 0.0)


def warping_error(
    predicted: Bool[np.ndarray, "height width"], truth: Bool[np.ndarray, "height width"]
) -> float:
    """Compute the share of pixels that stay wrong however the true cells' borders are moved.

    The truth is changed towards the prediction one pixel at a time, wherever that changes no
    topology: where it splits, joins, makes or removes no cell and no hole. The rest are splits,
    mergers, and cells or holes too many or too few.

    References:
        Jain et al., "Boundary learning by optimization with topological constraints", CVPR 2010
    """
    is_simple = _simple_points()
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
        if not is_simple[int(window.ravel() @ _BITS)]:
            continue
        warped[row, column] = wanted[row, column]
        wrong[row, column] = False
        # The pixels around one that has changed may have become simple.
        for r in range(max(row - 1, 1), min(row + 1, height) + 1):
            for c in range(max(column - 1, 1), min(column + 1, width) + 1):
                if wrong[r, c] and not waiting[r, c]:
                    waiting[r, c] = True
                    queue.append((r, c))
    return float(wrong.sum() / truth.size)


def cells(foreground: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, "height width"]:
    """Number the cells of an image, from 1 on, at each of their pixels; 0 is the background."""
    return ndimage.label(foreground)[0]


def _pairs(
    segments: Int[Array, "height width"], counted: Bool[Array, "height width"]
) -> Int[Array, ""]:
    """The number of ordered pairs of pixels in one segment, of the pixels that count.

    A pixel is a pair with itself.
    """
    ordered = jnp.sort(jnp.where(counted, segments, -1).ravel())
    begins = jnp.append(jnp.zeros(1, bool), ordered[1:] != ordered[:-1])
    numbers = jnp.cumsum(begins)
    sizes = jnp.zeros_like(ordered).at[numbers].add((ordered >= 0).astype(ordered.dtype))
    return jnp.sum(sizes * sizes)


# The weight of each pixel of a 3 x 3 window in the number of its pattern.
_BITS = 2 ** np.arange(9)


@cache
def _simple_points() -> Bool[np.ndarray, " 512"]:
    """Mark the 3 x 3 patterns whose middle pixel can change sides without changing the topology.

    It can where it touches exactly one component of the foreground and one of the background
    (Kong & Rosenfeld 1989): the foreground's of four neighbours, the background's of eight.

    Returns:
        One entry for each pattern, numbered by its pixels as bits, the first pixel the lowest.
    """
    table = np.zeros(512, bool)
    for number in range(512):
        window = (number & _BITS).astype(bool).reshape(3, 3)
        window[1, 1] = False
        ring = np.ones((3, 3), bool)
        ring[1, 1] = False
        # Corners count for the foreground only as bridges between its direct neighbours.
        foreground = ndimage.label(window)[0]
        direct = foreground[[0, 1, 1, 2], [1, 0, 2, 1]]
        background = ndimage.label(~window & ring, np.ones((3, 3)))[1]
        table[number] = len(set(direct[direct > 0].tolist())) == 1 and background == 1
    return table
