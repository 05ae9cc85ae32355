"""What every detection system's task shares: scored boxes to detections, detections to figures.

A system's task holds a `Judge` (hashable) and asks it for three things:

- `predict` ends with `judge.detect(boxes, scores, batch["size"])`, which gives `Detections` of a
  fixed shape for each image: `boxes` [K, 4], `scores`, `labels` and `valid` [K], best first, in
  pixels of the **original** image. What goes in is in pixels of the network's square, as
  `BoxTransform` makes it, with scores in 0..1 (a margin goes through a sigmoid: that changes no
  ranking) for each class, the background left out.
- `measure` adds `judge.measure(detections, batch)` to its own sums (`examples`, `loss`): tables of
  the whole set, of which each batch fills its own rows.
- `summarize` adds `judge.summarize(sums)` to its own means where `"detections" in sums`.

`trained_objects` says which objects of a batch are trained on. What a report wants of the whole set
besides comes from `DetectedSet.of(sums)`.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnn_jax.errors import check
from cnn_jax.metrics.detection import counts as metrics
from cnn_jax.metrics.detection.coco import evaluate_coco
from cnn_jax.metrics.detection.errors import best_count_threshold
from cnn_jax.metrics.detection.rows import DetectionRows, ObjectRows
from cnn_jax.metrics.detection.voc import VocResult, evaluate_voc
from cnn_jax.metrics.tables import set_table
from cnn_jax.ops import boxes as box_ops
from cnn_jax.ops.nms import Detections, detect
from cnn_jax.tasks.images import Batch

Sums = dict[str, Any]

# The scores that a threshold is chosen from.
_CANDIDATES = tuple(i / 50 for i in range(1, 50))

# How many images are counted side by side.
_AT_A_TIME = 64


@dataclass(frozen=True)
class DetectionRule:
    """How scored boxes become detections."""

    min_score: float = 0.005
    """Detections of a lower score are dropped; average precision wants nearly all of them."""
    nms_threshold: float = 0.5
    """A box is dropped that overlaps a better one of its class by an IoU above this."""
    max_detections: int = 100
    """Detections kept in an image, the best ones."""
    score_threshold: float | None = None
    """The score from which on detections are counted, drawn and exported; default: chosen on the
    evaluation data for the least count error, and kept with the run."""

    def __post_init__(self) -> None:
        for name in ("min_score", "nms_threshold", "score_threshold"):
            value = getattr(self, name)
            check(value is None or 0 <= value <= 1, name, value, "from 0 to 1")
        check(self.max_detections >= 1, "max_detections", self.max_detections, "1 or more")


def detections(
    boxes: Float[Array, "boxes 4"] | Float[Array, "boxes classes 4"],
    scores: Float[Array, "boxes classes"],
    size: Float[Array, "2"],
    valid: Bool[Array, " boxes"] | None = None,
    *,
    image_size: int,
    rule: DetectionRule,
) -> Detections:
    """One image's scored boxes, cut off at its border, suppressed class by class, the best kept.

    Args:
        boxes: in pixels of the network's square: one for all classes, or one for each.
        scores: of every box for every class, without the background.
        size: height and width of the original image in pixels.
        valid: which boxes are boxes and not padding.
        image_size: pixels on a side of the network's square.
        rule: thresholds and number.

    Returns:
        `rule.max_detections` rows, in pixels of the original image.
    """
    boxes = box_ops.clip(boxes.astype(jnp.float32), (image_size, image_size))
    has_area = box_ops.is_large(boxes).reshape(boxes.shape[0], -1)
    found = detect(
        boxes,
        jnp.where(has_area, scores.astype(jnp.float32), -jnp.inf),
        threshold=rule.nms_threshold,
        min_score=rule.min_score,
        max_per_class=min(rule.max_detections, boxes.shape[0]),
        max_detections=rule.max_detections,
        valid=valid,
    )
    return found._replace(boxes=found.boxes * _to_original(size, image_size)[None])


def trained_objects(batch: Batch) -> Bool[Array, "*batch objects"]:
    """Which rows are objects to train on: neither padding, nor difficult ones, nor crowds."""
    return batch["object_valid"] & ~batch["difficult"] & ~batch["crowd"]


@dataclass(frozen=True)
class Judge:
    """What detections are made by and judged by.

    Attributes:
        num_classes: number of classes.
        image_size: pixels on a side of the network's square.
        rule: how scored boxes become detections.
        score_threshold: the score from which on a detection counts, where it was chosen on other
            data; `rule.score_threshold` goes before it, and without either it is chosen on the data
            evaluated.
        num_evaluated: examples of the set that is evaluated.
    """

    num_classes: int
    image_size: int
    rule: DetectionRule = DetectionRule()
    score_threshold: float | None = None
    num_evaluated: int = 0

    def detect(
        self,
        boxes: Float[Array, "batch boxes 4"] | Float[Array, "batch boxes classes 4"],
        scores: Float[Array, "batch boxes classes"],
        size: Float[Array, "batch 2"],
        valid: Bool[Array, "batch boxes"] | None = None,
    ) -> Detections:
        """`detections` of a batch."""
        one = partial(detections, image_size=self.image_size, rule=self.rule)
        return jax.vmap(one)(boxes, scores, size, valid)

    def measure(self, found: Detections, batch: Batch) -> Sums:
        """`detections` and `objects`: tables of the whole set with the batch's rows filled in.

        Everything is in pixels of the original images.
        """
        table = partial(
            set_table, index=batch["index"], valid=batch["valid"], size=self.num_evaluated
        )
        scale = jax.vmap(partial(_to_original, image_size=self.image_size))(batch["size"])
        objects = {
            "boxes": batch["boxes"] * scale[:, None],
            "area": batch["area"] * scale[:, :1] * scale[:, 1:2],
            "labels": batch["labels"],
            "valid": batch["object_valid"],
            "difficult": batch["difficult"],
            "crowd": batch["crowd"],
        }
        return {
            "detections": {name: table(rows) for name, rows in found._asdict().items()},
            "objects": {name: table(rows) for name, rows in objects.items()},
        }

    def summarize(self, sums: Sums) -> dict[str, float]:
        """The figures of a whole set, from its tables.

        VOC's mean AP at an IoU of .5 over all points and over 11; COCO's twelve numbers (its
        crowds are ignored, VOC's difficult objects count there like any other); precision, recall
        and F1 over all classes at `score_threshold` and an IoU of .5; the error of the number of
        objects of a class in an image: `count_mae`, `count_bias` and `count_exact`, each averaged
        over the classes. nan where there is nothing to find.
        """
        whole = DetectedSet.of(sums)
        voc = whole.voc(self.num_classes)
        coco = evaluate_coco(whole.detections, whole.objects_for_coco, self.num_classes).summary()
        threshold = self.threshold(whole)
        decided = whole.decide(threshold, self.num_classes)
        overall = metrics.precision_recall(decided.matches)
        counted = metrics.count_summary(decided.count_errors)
        return {
            "map50": voc.mean(),
            "map50_11point": voc.mean("11point"),
            **{name: value if value >= 0 else float("nan") for name, value in coco.items()},
            "precision": float(overall.precision),
            "recall": float(overall.recall),
            "f1": float(overall.f1),
            "count_mae": float(counted.mean_absolute_error.mean()),
            "count_bias": float(counted.bias.mean()),
            "count_exact": float(counted.exact.mean()),
            "score_threshold": threshold,
        }

    def threshold(self, whole: "DetectedSet") -> float:
        """The score from which on a detection counts: given, chosen before, or chosen here."""
        for given in (self.rule.score_threshold, self.score_threshold):
            if given is not None:
                return given
        return whole.best_threshold(self.num_classes)


class Decided(NamedTuple):
    """What the detections that reach a score make of a set.

    Attributes:
        matches: by class, what is right, wrong and to be found.
        count_errors: by class, how wrong the number of objects in an image is.
        confusion: counts of (true class, detected class); the last row and column: the background.
    """

    matches: metrics.MatchCounts
    count_errors: metrics.CountErrors
    confusion: Int[Array | np.ndarray, "classes+1 classes+1"]


@dataclass(frozen=True)
class DetectedSet:
    """What there is in the images of a set, and what was detected: padded rows for each image.

    Attributes:
        found: `boxes`, `scores`, `labels` and `valid` of the detections.
        truth: `boxes`, `labels`, `valid`, `difficult`, `crowd` and `area` of the objects.
    """

    found: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]

    @classmethod
    def of(cls, sums: Sums) -> "DetectedSet":
        """The tables of an evaluation's sums (see `Judge.measure`)."""
        masks = "valid", "difficult", "crowd"
        found, truth = (
            {name: np.asarray(x) > 0 if name in masks else np.asarray(x) for name, x in t.items()}
            for t in (sums["detections"], sums["objects"])
        )
        return cls(found, truth)

    def __len__(self) -> int:
        return len(self.found["valid"])

    @cached_property
    def detections(self) -> DetectionRows:
        """All detections, images numbered as in the set."""
        rows = self.found
        return DetectionRows.from_padded(
            np.arange(len(self)), rows["boxes"], rows["labels"], rows["scores"], rows["valid"]
        )

    @cached_property
    def objects(self) -> ObjectRows:
        """All objects; difficult ones and crowds need not be found."""
        return self._objects(self.truth["difficult"] | self.truth["crowd"])

    @cached_property
    def objects_for_coco(self) -> ObjectRows:
        """All objects as COCO's evaluation has them: it ignores crowds, and knows areas."""
        return self._objects(self.truth["crowd"])

    def _objects(self, ignored: Bool[np.ndarray, "images objects"]) -> ObjectRows:
        truth, valid = self.truth, self.truth["valid"]
        image = np.broadcast_to(np.arange(len(self))[:, None], valid.shape)
        return ObjectRows(
            image[valid],
            truth["boxes"][valid],
            truth["labels"][valid],
            ignored[valid],
            truth["area"][valid],
        )

    def voc(self, num_classes: int) -> VocResult:
        """Precision-recall curves by class at an IoU of .5, in continuous coordinates."""
        return evaluate_voc(self.detections, self.objects, num_classes)

    def best_threshold(self, num_classes: int) -> float:
        """The score from which on detections count objects best."""
        images = np.arange(len(self))
        best = best_count_threshold(
            self.detections, self.objects, images, num_classes, candidates=_CANDIDATES
        )
        return best.score

    def decide(self, threshold: float, num_classes: int) -> Decided:
        """What the detections of at least that score make of the set."""
        missing = -len(self) % _AT_A_TIME

        def chunks(rows: np.ndarray) -> np.ndarray:
            padded = np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))
            return padded.reshape(-1, _AT_A_TIME, *rows.shape[1:])

        is_image = np.ones(len(self), np.int32)
        columns = jax.tree.map(chunks, (self.found, self.truth, is_image))
        return jax.tree.map(np.asarray, _decide(columns, np.float32(threshold), num_classes))


@partial(jax.jit, static_argnames="num_classes")
def _decide(columns: Any, threshold: Float[Array, ""], num_classes: int) -> Decided:
    """`DetectedSet.decide` of images in chunks, one chunk after the other."""

    def one_image(found: Batch, truth: Batch, is_image: Int[Array, ""]) -> Decided:
        kept = found["valid"] & (found["scores"] >= threshold)
        ignored = truth["difficult"] | truth["crowd"]
        labels, boxes = truth["labels"], truth["boxes"]
        decided = Decided(
            metrics.match_counts(
                found["boxes"],
                found["labels"],
                found["scores"],
                kept,
                boxes,
                labels,
                truth["valid"],
                ignored,
                num_classes,
            ),
            metrics.count_errors(
                found["labels"], kept, labels, truth["valid"] & ~ignored, num_classes
            ),
            metrics.confusion_with_background(
                found["boxes"],
                found["labels"],
                kept,
                boxes,
                labels,
                truth["valid"] & ~truth["crowd"],
                num_classes,
            ),
        )
        return jax.tree.map(lambda count: count * is_image, decided)

    def add(total: Decided, chunk: Any) -> tuple[Decided, None]:
        counts = jax.vmap(one_image)(*chunk)
        return jax.tree.map(lambda a, b: a + b.sum(axis=0, dtype=a.dtype), total, counts), None

    first = jax.tree.map(lambda x: x[0, 0], columns)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), jax.eval_shape(one_image, *first))
    return jax.lax.scan(add, zeros, columns)[0]


def _to_original(size: Float[Array, "2"], image_size: int) -> Float[Array, "4"]:
    """What coordinates of the network's square are multiplied by: pixels of the original image."""
    height, width = size
    return jnp.stack([width, height, width, height]) / image_size
