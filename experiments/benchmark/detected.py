"""The detections whose evaluation is timed, and the objects that they are compared with."""

import numpy as np

from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows

# COCO's validation set: 5,000 images of 80 classes, 7.3 objects an image, one in a hundred a crowd.
CLASSES = 80
IMAGE = 640
OBJECTS = 7.3
CROWDS = 0.01

# As many detections an image as COCO counts of a class; five of them are near each object.
DETECTIONS = 100
NEAR = 5


def inputs(images: int) -> tuple[DetectionRows, ObjectRows]:
    """The same random detections and objects for everyone."""
    rng = np.random.default_rng(0)

    def anywhere(count: int) -> np.ndarray:
        corners = rng.uniform(0, 0.75 * IMAGE, (count, 2))
        return np.concatenate([corners, corners + np.exp(rng.uniform(2.5, 5.5, (count, 2)))], 1)

    image = np.repeat(np.arange(images), rng.poisson(OBJECTS, images))
    boxes = anywhere(len(image))
    labels = rng.integers(CLASSES, size=len(image))
    objects = ObjectRows(image, boxes, labels, rng.random(len(image)) < CROWDS)
    near = np.tile(np.arange(len(image)), NEAR)
    sides = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
    # So little that corners stay in order.
    moved = boxes[near] + sides * rng.uniform(-0.25, 0.25, sides.shape)
    rest = max(0, images * DETECTIONS - len(near))
    detections = DetectionRows(
        np.concatenate([image[near], rng.integers(images, size=rest)]),
        np.concatenate([moved, anywhere(rest)]),
        np.concatenate([labels[near], rng.integers(CLASSES, size=rest)]),
        rng.random(len(near) + rest),
    )
    return detections, objects
