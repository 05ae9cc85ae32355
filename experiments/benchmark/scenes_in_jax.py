"""The tasks and the batches of this project on `scenes`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import models
from cnn_jax.models.registry import Kind
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.tasks.detection.fast_rcnn import FastRCNN
from cnn_jax.tasks.detection.yolo import Yolo
from cnn_jax.tasks.segmentation import Segmentation
from cnn_jax.training.step import Batch

from . import scenes
from .contest import Job

_KINDS: dict[str, Kind] = {
    "segnet": "segmenter",
    "unet": "segmenter",
    "yolo": "grid_detector",
    "fast_rcnn": "region_network",
}

_ARCHITECTURES = {"fast_rcnn": "vgg16"}


def network(name: str, dtype: str = "float32") -> nn.Module:
    """Create one of `scenes.SIZES`."""
    classifier = _ARCHITECTURES.get(name, name)
    return models.create(classifier, scenes.CLASSES, _KINDS[name], dtype=jnp.dtype(dtype))


def task(job: Job) -> Segmentation | Yolo | FastRCNN:
    """Build the task of a job on scenes."""
    model = network(job.model, job.dtype)
    spec = models.input_spec(_ARCHITECTURES.get(job.model, job.model), _KINDS[job.model])
    evaluation = BoxEvaluation(scenes.CLASSES, job.image_size)
    if job.model == "yolo":
        return Yolo(model, evaluation, spec.mean, spec.std)
    if job.model == "fast_rcnn":
        return FastRCNN(model, evaluation, spec.mean, spec.std)
    size = job.image_size - 2 * model.margin
    return Segmentation(model, scenes.CLASSES, (size, size), spec.mean, spec.std)


def inputs(job: Job) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes of the network's inputs for one image."""
    image = jax.ShapeDtypeStruct((1, job.image_size, job.image_size, 3), jnp.float32)
    regions = jax.ShapeDtypeStruct((1, scenes.REGIONS, 4), jnp.float32)
    return (image, regions) if job.model == "fast_rcnn" else (image,)


def batch(job: Job, margin: int) -> Batch:
    """The scenes as a reader would give them."""
    made = scenes.inputs(job.batch_size, job.image_size, margin)
    objects = made.labels.shape
    sides = made.boxes[..., 2:] - made.boxes[..., :2]
    return {
        "image": made.image,
        "valid": np.ones(job.batch_size, bool),
        "ordinal": np.arange(job.batch_size, dtype=np.int32),
        "index": np.arange(job.batch_size, dtype=np.int32),
        "size": np.full((job.batch_size, 2), job.image_size, np.float32),
        "mask": made.mask.astype(np.uint8),
        "boxes": made.boxes,
        "labels": made.labels,
        "object_valid": np.ones(objects, bool),
        "difficult": np.zeros(objects, bool),
        "crowd": np.zeros(objects, bool),
        "area": sides.prod(-1),
        "proposals": made.regions,
        "proposal_valid": np.ones(made.regions.shape[:2], bool),
    }
