"""Predictions of a detector: objects drawn, named, counted, cut out, or as data."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cnn_jax.data.decode import as_rgb
from cnn_jax.errors import UserError
from cnn_jax.ops.nms import Detections
from cnn_jax.reports.boxes import Mark, draw_boxes
from cnn_jax.reports.masks import palette
from cnn_jax.reports.pictures import save
from cnn_jax.tasks.views import join_detections, read_views

from .. import detect, states
from .. import options as flags
from ..detection.common import box_evaluation, stored_threshold
from .names import folder_name, output_names, require_other_files
from .predictor import (
    PICTURES,
    Batch,
    Example,
    Found,
    ImagePredictor,
    Predict,
    Result,
    class_names,
)


@dataclass(frozen=True)
class ImageDetections:
    """The detections of one image, best first.

    Attributes:
        file: the image's file.
        pixels: the image.
        name: the beginning of the names of the files made of it.
        detections: the valid rows.
    """

    file: str
    pixels: np.ndarray
    name: str
    detections: Detections

    def above(self, threshold: float) -> "ImageDetections":
        """Those of at least a score."""
        kept = self.detections.scores >= np.float32(threshold)
        return dataclasses.replace(self, detections=Detections(*(x[kept] for x in self.detections)))


class BoxPredictor(ImagePredictor):
    """The objects in each image.

    Pictures are drawn unless JSON, counts or crops are asked for; `--json` gives all detections in
    COCO's format of results. `--count` is carried out by `counting`.

    Attributes:
        names: the names of the classes.
    """

    def __init__(self, run: Path, options: flags.PredictOptions) -> None:
        trained = flags.stored(detect.Options, run)
        self._options, self.names = options, class_names(run)
        self.reading = trained.data.reading
        self._threshold = _threshold(run, trained, options)
        self._system = detect.SYSTEMS[trained.detector.system](trained)
        self._transform = self._system.transform()
        self.task = self._system.build_task(
            self.names, box_evaluation(trained, self.names, self._system.image_size)
        )
        self._views = read_views(options.tta)
        self._folder = None
        if options.directory is not None:
            self._folder = Path(options.directory)
        elif not (options.json or options.count or options.crops):
            self._folder = run / PICTURES
        self._outputs = output_names(options.images)
        if self._folder is not None:
            require_other_files(options.images, map(self._picture, self._outputs))
        self._number = 0

    def _picture(self, name: str) -> Path:
        """The file that an image's boxes are drawn to."""
        return self._folder / f"{name}.png"

    def examples(self, content: np.ndarray) -> list[Example]:
        """The image, prepared as for an evaluation."""
        return [self._transform(self._system.unlabelled(content))]

    def averaged(self, predict: Predict, batch: Batch) -> Detections:
        """The detections, joined from the views of `--tta`."""
        return join_detections(
            predict,
            batch,
            self._views,
            rule=self.task.evaluation.rule,
            num_classes=len(self.names),
            background=self.task.mean,
        )

    def select(self, predictions: Any) -> Detections:
        """The detections."""
        return predictions.detections

    def outputs(self, selected: Detections) -> dict[str, jax.Array]:
        """The detections: rows of boxes, scores and labels, best first, and which are valid."""
        return selected._asdict()

    def described(self) -> dict[str, Any]:
        """The preparation of an image, the least score of an object, and the classes' names."""
        return {
            "preparation": self._system.preparation(),
            "score_threshold": self._threshold,
            "class_names": self.names,
        }

    def found(self, content: np.ndarray, predictions: Sequence[Detections]) -> Found:
        """The `boxes` as x1 y1 x2 y2 in pixels, their `scores`, `labels` and classes' `names`.

        Best first; `counted` marks the scores that reach the run's threshold.
        """
        (row,) = predictions
        boxes, scores, labels, _ = (x[row.valid] for x in row)
        return {
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "names": [self.names[label] for label in labels],
            "counted": scores >= np.float32(self._threshold),
        }

    def result(self, name: str, content: np.ndarray, found: Found) -> Result:
        """`photo.jpg: circle 0.97 at 10 20 30 40; ...`."""
        every = self.detected(name, content, found, self._outputs[self._number])
        self._number += 1
        kept = self.written(every)
        listed = [
            {**coco, "category": self.names[coco["category_id"] - 1]}
            for coco in coco_results(every, self._number)
        ]
        return Result(f"{name}: {described(kept, self.names)}", listed)

    def detected(
        self, name: str, content: np.ndarray, found: Found, output: str
    ) -> ImageDetections:
        """All detections of an image; `output` begins the names of the files made of it."""
        rows = (found[key] for key in ("boxes", "scores", "labels"))
        valid = np.ones(len(found["scores"]), bool)
        return ImageDetections(name, as_rgb(content), output, Detections(*rows, valid))

    def written(self, every: ImageDetections) -> ImageDetections:
        """The detections that reach the threshold; draws them and cuts them out where asked to."""
        kept = every.above(self._threshold)
        if self._options.crops is not None:
            write_crops(Path(self._options.crops), kept, self.names)
        if self._folder is not None:
            save(self._picture(every.name), drawn(kept, self.names))
        return kept


def _threshold(run: Path, trained: detect.Options, options: flags.PredictOptions) -> float:
    """The least score of an object: given, the run's own, or chosen on its evaluation data."""
    threshold = options.score_threshold
    if threshold is None:
        threshold = trained.rule.score_threshold
    if threshold is None:
        threshold = stored_threshold(states.kept(run, options.state))
    if not 0 <= threshold <= 1:
        raise UserError(f"--score-threshold {threshold}: must be from 0 to 1")
    return threshold


def described(image: ImageDetections, names: Sequence[str]) -> str:
    """`circle 0.97 at 10 20 30 40; ...`: boxes as x1 y1 x2 y2 in pixels."""
    parts = [
        f"{names[label]} {min(score, 1):.2f} at {' '.join(f'{side:.0f}' for side in box)}"
        for box, score, label, _ in zip(*image.detections, strict=True)
    ]
    return "; ".join(parts) or "nothing found"


def coco_results(image: ImageDetections, image_id: int) -> list[dict[str, Any]]:
    """COCO's format of results: [x, y, width, height]; categories are numbered from 1."""
    return [
        {
            "image_id": image_id,
            "file_name": image.file,
            "category_id": int(label) + 1,
            "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": float(score),
        }
        for box, score, label, _ in zip(*image.detections, strict=True)
    ]


def drawn(image: ImageDetections, names: Sequence[str]) -> Image.Image:
    """The image with its boxes, the best ones on top, coloured by class."""
    colors = palette(len(names)).tolist()
    marks = [
        Mark(box, f"{names[label]} {min(score, 1):.2f}", tuple(colors[label]))
        for box, score, label, _ in zip(*image.detections, strict=True)
    ]
    return Image.fromarray(draw_boxes(image.pixels, marks[::-1]))


def write_crops(folder: Path, image: ImageDetections, names: Sequence[str]) -> None:
    """Each detection as a picture `CLASS/IMAGE-NUMBER.png`, best first; at least a pixel large."""
    picture = Image.fromarray(image.pixels)
    for number, (box, _, label, _) in enumerate(zip(*image.detections, strict=True), 1):
        left, top = (min(int(v), side - 1) for v, side in zip(box[:2], picture.size, strict=True))
        right, bottom = (int(np.ceil(v)) for v in box[2:])
        crop = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        save(folder / folder_name(names[label]) / f"{image.name}-{number}.png", crop)
