"""What a detector finds in images of your own: drawn, named, counted, cut out, or as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.decode import decode
from cnn_jax.errors import UserError
from cnn_jax.ops.nms import Detections
from cnn_jax.reports.boxes import Mark, draw_boxes
from cnn_jax.reports.masks import palette
from cnn_jax.reports.pictures import save
from cnn_jax.runs.folder import CONFIG_FILE, read_object
from cnn_jax.training.backend import compile_inference

from .. import detect, runs
from .. import options as flags
from .common import Examples, box_evaluation, stored_threshold

PICTURES = "predictions"


@dataclass(frozen=True)
class Found:
    """The detections of one image, best first.

    Attributes:
        file: the image's.
        name: what files made of it are called.
        detections: the valid rows.
    """

    file: str
    name: str
    detections: Detections

    def least(self, threshold: float) -> "Found":
        """Those of at least a score."""
        kept = self.detections.scores >= np.float32(threshold)
        return Found(self.file, self.name, Detections(*(x[kept] for x in self.detections)))


def predict(run: Path, options: flags.PredictOptions) -> None:
    """Print what is found, and write pictures of it.

    A line an image, or with `--count` the number of objects of each class; with `--json` all
    detections in COCO's format of results (or the counts).
    """
    trained = detect.stored(run)
    names = tuple(read_object(run / CONFIG_FILE)["class_names"])
    threshold = options.score_threshold
    if threshold is None:
        threshold = trained.rule.score_threshold
    if threshold is None:
        threshold = stored_threshold(run)
    if not 0 <= threshold <= 1:
        raise UserError(f"--score-threshold {threshold}: must be from 0 to 1")
    results = find(run, trained, names, options)
    kept = [found.least(threshold) for found in results]
    if options.crops is not None:
        for found in kept:
            write_crops(Path(options.crops), found, names)
    if options.directory is not None or not (options.json or options.count or options.crops):
        folder = run / PICTURES if options.directory is None else Path(options.directory)
        for found in kept:
            save(folder / f"{found.name}.png", drawn(found, names))
    if options.count:
        counts = [counted(found, names) for found in kept]
        if options.json:
            rows = zip(options.images, counts, strict=True)
            print(_json([{"image": image, "counts": count} for image, count in rows]))
            return
        for image, count in zip(options.images, counts, strict=True):
            print(f"{image}: " + ", ".join(f"{name} {number}" for name, number in count.items()))
    elif options.json:
        rows = [
            row for number, found in enumerate(results, 1) for row in coco_results(found, number)
        ]
        print(_json([{**row, "category": names[row["category_id"] - 1]} for row in rows]))
    else:
        for found in kept:
            print(f"{found.file}: {described(found, names)}")


def find(
    run: Path, trained: detect.Options, names: Sequence[str], options: flags.PredictOptions
) -> list[Found]:
    """The detections in all images, those of low scores too."""
    system = detect.SYSTEMS[trained.detector.system]
    examples = Examples(system, trained)
    evaluation = box_evaluation(trained, names, examples.image_size)
    task = system.build_task(trained, names, evaluation)
    state, notices = runs.restored(task, run)
    for notice in notices:
        flags.warn(notice)

    def detections(batch: dict[str, Any]) -> Detections:
        predictions = task.predict(state.params, state.model_state, batch)
        return getattr(predictions, "detections", predictions)

    rows = runs.in_batches(
        compile_inference(detections),
        (examples.transform(system.unlabelled(trained, decode(file))) for file in options.images),
        min(options.batch_size, len(options.images)),
    )
    stems = Counter(Path(file).stem for file in options.images)
    results = []
    for number, (file, row) in enumerate(zip(options.images, rows, strict=True), 1):
        stem = Path(file).stem
        name = stem if stems[stem] == 1 else f"{stem}-{number}"
        results.append(Found(file, name, Detections(*(x[row.valid] for x in row))))
    return results


def described(found: Found, names: Sequence[str]) -> str:
    """`circle 0.97 at 10 20 30 40; ...`: boxes as x1 y1 x2 y2 in pixels."""
    parts = [
        f"{names[label]} {min(score, 1):.2f} at {' '.join(f'{side:.0f}' for side in box)}"
        for box, score, label, _ in zip(*found.detections, strict=True)
    ]
    return "; ".join(parts) or "nothing found"


def counted(found: Found, names: Sequence[str]) -> dict[str, int]:
    """How many objects of each class there are."""
    numbers = np.bincount(found.detections.labels, minlength=len(names))
    return dict(zip(names, numbers.tolist(), strict=True))


def coco_results(found: Found, image_id: int) -> list[dict[str, Any]]:
    """COCO's format of results: [x, y, width, height]; categories are numbered from 1."""
    return [
        {
            "image_id": image_id,
            "file_name": found.file,
            "category_id": int(label) + 1,
            "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": float(score),
        }
        for box, score, label, _ in zip(*found.detections, strict=True)
    ]


def drawn(found: Found, names: Sequence[str]) -> Image.Image:
    """The image with boxes, the best ones on top, coloured by class."""
    colors = palette(len(names)).tolist()
    marks = [
        Mark(box, f"{names[label]} {min(score, 1):.2f}", tuple(colors[label]))
        for box, score, label, _ in zip(*found.detections, strict=True)
    ]
    return Image.fromarray(draw_boxes(decode(found.file), marks[::-1]))


def write_crops(folder: Path, found: Found, names: Sequence[str]) -> None:
    """Each detection as a picture `CLASS/IMAGE-NUMBER.png`, best first; at least a pixel large."""
    image = Image.fromarray(decode(found.file))
    for number, (box, _, label, _) in enumerate(zip(*found.detections, strict=True), 1):
        left, top = (min(int(v), side - 1) for v, side in zip(box[:2], image.size, strict=True))
        right, bottom = (int(np.ceil(v)) for v in box[2:])
        crop = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        place = names[label].replace("/", "_")
        save(folder / place / f"{found.name}-{number}.png", crop)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)
