"""Edge boxes (Zitnick & Dollár 2014) by OpenCV, on edges without a trained model."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

# The sides of the windows over which colours are smoothed before their comparison.
_SMOOTHING = 1.0

# The least area of a box, as a fraction of the image's area.
_SMALLEST = 0.001


def edge_boxes(image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "boxes 4"]:
    """Find boxes that contain whole contours and cut few, best first.

    The paper's edges come from a structured forest, which needs a file with its trained model. Here
    they are colour gradients (see `edge_map`), so recall is below the paper's.

    References:
        Zitnick & Dollár, `Edge Boxes: Locating Object Proposals from Edges
        <https://doi.org/10.1007/978-3-319-10602-1_26>`_, 2014
    """
    height, width = image.shape[:2]
    detector = cv2.ximgproc.createEdgeBoxes(
        maxBoxes=10_000, minBoxArea=max(1.0, _SMALLEST * height * width)
    )
    boxes, scores = detector.getBoundingBoxes(*edge_map(image))
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes[np.argsort(-np.asarray(scores).reshape(-1), kind="stable")]


def edge_map(
    image: UInt8[np.ndarray, "height width 3"],
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Compute thin edges from the gradient of the colour, and the direction across them.

    The Lab channel with the steepest gradient counts at each pixel. Pixels less steep than their
    neighbours across the edge are removed (Canny's suppression).

    Returns:
        The strength in 0..1, with 1 for the steepest percent of the image; angles in [0, pi).
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    lab = cv2.GaussianBlur(lab, (0, 0), _SMOOTHING)
    by_channel = [cv2.Sobel(lab, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1))]
    steepest = np.argmax(by_channel[0] ** 2 + by_channel[1] ** 2, axis=-1)[..., None]
    dx, dy = (np.take_along_axis(d, steepest, axis=-1)[..., 0] for d in by_channel)
    strength = np.hypot(dx, dy)
    unit_x, unit_y = (d / np.maximum(strength, 1e-6) for d in (dx, dy))
    rows, columns = np.indices(strength.shape, np.float32)
    thin = strength.copy()
    for side in (-1, 1):
        beside = cv2.remap(
            strength, columns + side * unit_x, rows + side * unit_y, cv2.INTER_LINEAR
        )
        thin[strength < beside] = 0
    most = max(float(np.percentile(strength, 99)), 1e-6)
    # The remainder of a tiny negative angle rounds to pi.
    angle = np.mod(np.arctan2(dy, dx), np.float32(np.pi)).astype(np.float32)
    return np.minimum(thin / most, 1).astype(np.float32), np.where(angle >= np.pi, 0, angle)
