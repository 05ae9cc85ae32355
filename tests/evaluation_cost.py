"""The cost of a detector's evaluation by the size of the set; it must not grow for a batch.

python -m tests.evaluation_cost 1000 5000 20000

The evaluation is that of a run (`evaluate` with the detectors' own `BoxEvaluation`) of 80
classes and 100 detections an image. The network is left out: its detections lie in the batches.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from cnn_jax.metrics.summary import Summary
from cnn_jax.ops.nms import Detections
from cnn_jax.tasks.detection.evaluation import BoxEvaluation
from cnn_jax.training import parallel
from cnn_jax.training.evaluation import evaluate
from cnn_jax.training.state import create

# COCO's: 7.3 objects an image, one in a hundred a crowd.
CLASSES, SIDE, OBJECTS, CROWDS = 80, 640, 7.3, 0.01
DETECTIONS, NEAR, ROOM = 100, 5, 20
BATCH = 50


class Detector:
    """A task whose predictions come with the examples."""

    def __init__(self) -> None:
        self.evaluation = BoxEvaluation(CLASSES, SIDE)
        self.seconds = 0.0

    def predict(self, params: Any, model_state: Any, batch: dict[str, Any]) -> Detections:
        return Detections(**{name: batch[f"detected_{name}"] for name in Detections._fields})

    def measure(self, predictions: Detections, batch: dict[str, Any]) -> Any:
        return {"examples": batch["valid"].sum()}, self.evaluation.rows(predictions, batch)

    def summarize(self, sums: Any, rows: Any = None) -> Summary:
        began = time.perf_counter()
        summary = self.evaluation.summarize({}, rows)
        self.seconds = time.perf_counter() - began
        return summary


@dataclass
class Images:
    """The batches of a set of random images, and when each was asked for."""

    count: int
    asked: list[float]

    def iterate(self) -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, self.count, BATCH):
            batch = drawn(first)
            self.asked.append(time.perf_counter())
            yield batch


def drawn(first: int) -> dict[str, np.ndarray]:
    """Draw the examples `first`, `first` + 1, ...; five detections lie near each object."""
    rng = np.random.default_rng(first)

    def boxes(*shape: int) -> np.ndarray:
        corners = rng.uniform(0, 0.75 * SIDE, (*shape, 2))
        sides = np.exp(rng.uniform(2.5, 5.5, (*shape, 2)))
        return np.concatenate([corners, corners + sides], axis=-1)

    objects, labels = boxes(BATCH, ROOM), rng.integers(CLASSES, size=(BATCH, ROOM))
    sides = np.tile(objects[..., 2:] - objects[..., :2], 2)
    detected, detected_labels = boxes(BATCH, DETECTIONS), np.tile(labels, NEAR)
    valid = np.arange(ROOM) < rng.poisson(OBJECTS, (BATCH, 1))
    near = np.tile(valid, NEAR)
    shifts = rng.uniform(-0.25, 0.25, detected.shape) * np.tile(sides, (1, NEAR, 1))
    moved = np.tile(objects, (1, NEAR, 1)) + shifts
    anywhere = rng.integers(CLASSES, size=near.shape)
    scores = -np.sort(-rng.random((BATCH, DETECTIONS)), axis=1)
    batch = {
        "boxes": objects,
        "area": np.prod(objects[..., 2:] - objects[..., :2], axis=-1),
        "labels": labels,
        "object_valid": valid,
        "difficult": np.zeros_like(valid),
        "crowd": valid & (rng.random(valid.shape) < CROWDS),
        "size": np.full((BATCH, 2), float(SIDE)),
        "index": np.arange(first, first + BATCH),
        "valid": np.ones(BATCH, bool),
        "detected_boxes": np.where(near[..., None], moved, detected),
        "detected_scores": scores,
        "detected_labels": np.where(near, detected_labels, anywhere),
        "detected_valid": np.ones((BATCH, DETECTIONS), bool),
    }
    kinds = {"f": np.float32, "i": np.int32, "b": bool}
    return {name: column.astype(kinds[column.dtype.kind]) for name, column in batch.items()}


def cost(count: int) -> tuple[float, float, dict[str, float]]:
    """Evaluate a set of `count` images.

    Returns:
        Milliseconds of a batch (the median), seconds of `summarize`, and the figures.
    """
    task, images = Detector(), Images(count, [])
    state = parallel.replicate(create({}, {}, optax.identity()))
    evaluation = evaluate(task, parallel.compile_evaluation_step(task), state, images)
    # Drawing the batch takes as long in every set, and is no part of the evaluation.
    draws = [partial(drawn, first) for first in range(0, count, BATCH)][:10]
    began = time.perf_counter()
    for draw in draws:
        draw()
    drawing = (time.perf_counter() - began) / len(draws)
    gaps = np.diff(images.asked)[2:]
    batch = 1000 * (statistics.median(gaps.tolist()) - drawing)
    return batch, task.seconds, evaluation.metrics


def main() -> None:
    print(f"{jax.devices()[0].platform}, {jax.device_count()} device(s), {BATCH} images a batch")
    print("| images | ms a batch | summarize, s | coco_ap | map50 |\n|---|---|---|---|---|")
    for count in map(int, sys.argv[1:] or ["1000", "5000", "20000"]):
        batch, seconds, figures = cost(count)
        accuracy = f"{figures['coco_ap']:.6f} | {figures['map50']:.6f}"
        print(f"| {count:,} | {batch:.2f} | {seconds:.1f} | {accuracy} |", flush=True)


if __name__ == "__main__":
    main()
