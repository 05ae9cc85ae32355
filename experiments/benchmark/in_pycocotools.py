"""pycocotools as a contender: COCO's own evaluation."""

import contextlib
import io
import resource

import numpy as np

from cnn_jax.errors import UserError

from . import detected
from .contest import Job, Prepared

try:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ImportError as error:
    raise UserError(
        f"--against pycocotools: not there ({error}); pip install pycocotools"
    ) from error


def prepare(job: Job) -> Prepared:
    """The set in pycocotools' own form; the steps evaluate, accumulate and summarise it."""
    truth, found = annotated(job.batch_size)

    def run(steps: int) -> None:
        for _ in range(steps):
            evaluate(truth, found)

    return Prepared(run, dict, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def annotated(images: int) -> tuple[COCO, COCO]:
    """`detected.inputs` as COCO's objects; ids begin at 1, as 0 stands for "not matched"."""
    detections, objects = detected.inputs(images)
    crowd = objects.is_ignored()
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": k} for k in range(detected.CLASSES)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": int(objects.image[number]),
                "category_id": int(objects.labels[number]),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": int(crowd[number]),
            }
            for number, box in enumerate(_extents(objects.boxes))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        columns = (detections.image, *_extents(detections.boxes).T, detections.scores)
        found = truth.loadRes(np.stack([*columns, detections.labels], axis=1))
    return truth, found


def evaluate(truth: COCO, found: COCO) -> COCOeval:
    """COCO's evaluation, summarised: its `stats` are the twelve numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _extents(boxes: np.ndarray) -> np.ndarray:
    """[x, y, width, height] of boxes."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
