"""Selective search (Uijlings et al. 2013) by OpenCV, with a reproducible order."""

import zlib

import cv2
import numpy as np
from jaxtyping import Float32, UInt8


def selective_search(
    image: UInt8[np.ndarray, "height width 3"], quality: bool = False
) -> Float32[np.ndarray, "boxes 4"]:
    """Find boxes around regions merged from an over-segmentation, most promising first.

    OpenCV's settings: "fast" merges by two rules in two colour spaces with three thresholds (12
    hierarchies), "quality" by four rules in five spaces with five thresholds (100).

    The paper orders regions by their place in the hierarchy (1: the whole image) times a random
    number. OpenCV does so with a generator shared by the process, and does not return the places.
    Here the order of the areas, largest first, replaces the places, and the random numbers are a
    function of the image.

    References:
        Uijlings et al., `Selective Search for Object Recognition
        <https://doi.org/10.1007/s11263-013-0620-5>`_, 2013
    """
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    if quality:
        search.switchToSelectiveSearchQuality()
    else:
        search.switchToSelectiveSearchFast()
    corners = np.asarray(search.process(), np.float32).reshape(-1, 4)
    boxes = np.unique(
        np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1), axis=0
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    boxes = boxes[np.argsort(-areas, kind="stable")]
    chance = np.random.default_rng(zlib.crc32(image.tobytes())).random(len(boxes))
    return boxes[np.argsort(chance * np.arange(1, len(boxes) + 1), kind="stable")]
